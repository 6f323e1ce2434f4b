"""Misuse of the C and C++ clients: NULL everywhere, times below 0, objects moved from, and what must not compile."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.models import ECHO, SLEEPS, flat
from tests.support import c_programs
from tests.support.server import running_server, write_model

pytestmark = pytest.mark.timeout(180)

# What `nulls` prints for calls that do not answer E_ARGUMENT, 0, NULL, "" or nothing.
OTHERS = {
    "twire_random(NULL, 0)": "1",
    "twire_dense(NULL, TWIRE_FLOAT32, NULL, 2, NULL).shape[1]": "-1",
    "twire_call_metadata(call, NULL)": "something",
    "twire_layout_read(metadata, length, &layout, NULL)": "OK",
    "twire_layout_tensors(layout, NULL)": "something",
    "twire_layout_length(layout, dims, 2, &number, NULL)": "OK",
    "twire_layout_views(layout, dims, 2, x, sizeof x, views, NULL)": "OK",
    "twire_extension_read(NULL, 0, &extension)": "1",
    "twire_strerror(12345)": "something",
    "twire_close_name(12345)": "something",
    "twire_now() != 0": "1",
    "twire_core_open(core, &message, 0, NULL, NULL)": "UNAVAILABLE",  # the handshake is not done
    "reply = twire_reply_new()": "something",
    "twire_reply_not_started(NULL)": "1",
    "twire_reply_text(NULL)": '"E_ARGUMENT: there is no reply"',
    "twire_reply_text(reply)": '"E_ARGUMENT: there is no client (not started: safe to retry)"',
    "twire_connect(url, NULL, &client)": "OK",
    "twire_fd(NULL)": "-1",
    "twire_error(NULL)": '"there is no client"',
    "twire_infer(client, call, &input, NULL, reply)": "OK",
    # durations that went below 0
    "twire_infer(client, call, &input, &late, reply)": "DEADLINE_EXCEEDED, OK",
    "twire_reply_not_started(reply)": "1",
    "twire_submit(client, call, &input, &late, reply)": "OK",
    "twire_poll(client, (uint64_t)-1000000, &done)": "OK",
    "twire_reply_status(reply)": "DEADLINE_EXCEEDED",
    "twire_connect(url, &options, &none)": "E_ARGUMENT, E_ARGUMENT, OK",
}
USUAL = {"E_ARGUMENT", "0", "NULL", '""', "nothing"}

# Each would run into memory that is gone, or throw through C.
REFUSED = {
    "a view of a temporary's dims": "auto *p = r[0].dims().data();",
    "an iterator into a temporary's dims": "auto p = r[0].dims().begin();",
    "a tensor of a temporary reply": "auto y = twire::reply()[0];",
    "a tensor by name of a temporary reply": 'auto y = twire::reply()["y"];',
    "a reference to a temporary reply": "auto &y = twire::reply().require();",
    "a call into a temporary reply": "c.infer(echo, {x}, twire::reply());",
    "a submit with a temporary reply": "c.submit(echo, {x}, twire::reply());",
    "a copy of a client": "twire::client other(c);",
    "a copy of a call": "twire::call other(echo);",
    "a copy of a reply": "twire::reply other(r);",
    "an allocator that may throw": "o.allocator.allocate = [](void *, std::size_t n) { return std::malloc(n); };",
    "a place that may throw": "k.place = [](void *, const twire_incoming *) { return std::malloc(1); };",
}
ACCEPTED = """
  auto dims = r[0].dims();
  auto *p = dims.data();
  for (auto n : r["y"].dims()) (void)n;
  (void)p, (void)r.require()[0].dims()[0];
  c.infer(echo, {x}, r);
  o.allocator.allocate = [](void *, std::size_t n) noexcept { return std::malloc(n); };
  k.place = [](void *, const twire_incoming *) noexcept { return std::malloc(1); };
"""
PROGRAM = """
#include "twire.hpp"
#include "twire_core.h"
#include <cstdlib>
void f(twire::client &c, twire::call &echo, twire::reply &r, twire::tensor &x);
void f(twire::client &c, twire::call &echo, twire::reply &r, twire::tensor &x) {
  twire_options o{};
  twire_core_config k{};
  (void)c, (void)echo, (void)r, (void)x, (void)o, (void)k;
  LINES
}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("c_misuse") / "models"
    write_model(models, "echo", ECHO, flat(4))
    write_model(models, "sleeps", SLEEPS.replace("time.sleep(float(", "time.sleep(0.1 + 0 * float("), flat(4))
    with running_server(models) as server:
        yield "tw://{}:{}".format(*server.address)


def declared_functions() -> set[str]:
    """The functions of the headers: a name at the start of a declaration's parameter list."""
    text = "".join((c_programs.C / name).read_text() for name in ("twire.h", "twire_core.h"))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return set(re.findall(r"^[a-z][\w \*]*?[ \*](twire_\w+)\([^)*]", text, flags=re.MULTILINE))


def test_null_is_refused_by_every_function_for_every_pointer(programs: Path, url: str) -> None:
    done = c_programs.run(programs / "nulls-sanitized", url)
    assert (done.returncode, done.stderr) == (0, "")
    answers: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        call, _, answer = line.rpartition(" = ")
        answers.setdefault(call, []).append(answer)
    odd = {call: ", ".join(found) for call, found in answers.items() if not set(found) <= USUAL}
    assert re.fullmatch(
        '"config is NULL", "url is NULL", "options: .*connect_timeout.*"', odd.pop("twire_connect_error()")
    )
    assert {call: OTHERS.get(call) for call in odd} == odd
    named = {name for call in answers for name in re.findall(r"twire_\w+(?=\()", call)}
    assert declared_functions() - named == set()


def test_the_wrapper_refuses_what_was_moved_from_and_times_below_zero(programs: Path, url: str) -> None:
    done = c_programs.run(programs / "misuse-sanitized", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def compiles(lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.environ.get("CXX", "c++"), "-std=c++17", "-fsyntax-only", f"-I{c_programs.C}", "-x", "c++", "-"],
        input=PROGRAM.replace("LINES", lines), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_is_right_compiles() -> None:
    done = compiles(ACCEPTED)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_outlive_its_memory_does_not_compile(case: str) -> None:
    done = compiles(REFUSED[case])
    assert done.returncode != 0
    assert re.search(r"deleted|bind|conversion|cannot convert|incompatible", done.stderr), done.stderr
