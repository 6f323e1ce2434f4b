"""The demo: photos through a real image classifier, by the blocking client, the asyncio client and the command line;
then load.

It makes a key with `tensorwire keys new`, starts `tensorwire serve` on a free loopback port, ends it again also on
Ctrl-C, and fails if a known photo is not recognised. Every call is signed with the key. Needs the extra `demo` and the
photos in scikit-image's package: `make demo` installs both.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import tensorwire
from tensorwire.clients.cli.load import Progress as LoadProgress
from tensorwire.clients.cli.load import Report, Schedule, run_load

EXAMPLES = Path(__file__).resolve().parent
MODEL = "efficientnet_lite0"
PHOTOS = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "rocket.jpg")
EXPECTED = ("coffee.png", "espresso", 0.95, 0.02)
"""Photo, its label, its probability and how far from it the demo may be."""
STOP_TIMEOUT = 15.0
LOAD_SECONDS = 6.0
QUICK_LOAD_SECONDS = 1.0
LOAD_CALLERS = 16
PHASES = ("receive", "queue", "batch_wait", "copy_in", "compute", "copy_out", "server_total", "round_trip")

Photo = npt.NDArray[np.float32]
console = Console(highlight=False)


@dataclass(frozen=True)
class Server:
    """Where the demo's server listens, and the file with the key to call it."""

    url: str
    admin_url: str
    key: Path


def main() -> None:
    """Run all parts in turn; `--quick` makes the load short."""
    seconds = QUICK_LOAD_SECONDS if "--quick" in sys.argv[1:] else LOAD_SECONDS
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()
    photos = {name: prepare(find_photos() / name) for name in PHOTOS}
    with running_server() as server:
        console.print(f"ready after {time.monotonic() - began:.1f} s\n")
        show_keys(server)
        labels = with_blocking_client(server, photos)
        asyncio.run(with_asyncio_client(server, photos, labels))
        with_command_line(server)
        before = batch_sizes(server.admin_url)
        report = asyncio.run(under_load(server, photos, seconds))
        show_load(report, batch_sizes(server.admin_url), before)
        explain_batches(server)
    console.print(f"done in {time.monotonic() - began:.1f} s; the server has drained and stopped")


# --- photos -----------------------------------------------------------------------------------------------------------


def find_photos() -> Path:
    """The folder of scikit-image's photos; the package itself is not imported."""
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        stop("the photos come with scikit-image: pip install --no-deps scikit-image, or run 'make demo'")
    return Path(found.submodule_search_locations[0]) / "data"


def prepare(path: Path) -> Photo:
    """One photo as the model takes it: [1,3,224,224], the shorter side scaled to 256, the centre cut out, (pixel -
    127) / 128.
    """
    photo = Image.open(path).convert("RGB")
    scale = 256 / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
    left, top = (photo.width - 224) // 2, (photo.height - 224) // 2
    pixels = np.asarray(photo.crop((left, top, left + 224, top + 224)), np.float32)
    normalised = (pixels - np.float32(127)) / np.float32(128)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[np.newaxis]


# --- the server -------------------------------------------------------------------------------------------------------


@contextmanager
def running_server() -> Iterator[Server]:
    """A `tensorwire serve` of its own on free ports, with a key of its own. It is told to drain at the end, and killed
    if it does not.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        keys, key = Path(folder, "keys.toml"), Path(folder, "demo.key")
        make_key(keys, key)
        arguments = ["serve", str(EXAMPLES / "models"), "--keys", str(keys), "--port", "0", "--admin-port", "0"]
        console.print("$ tensorwire serve examples/models --keys keys.toml --port 0 --admin-port 0")
        command = [sys.executable, "-m", "tensorwire", *arguments]
        # A session of its own: Ctrl-C reaches this process alone, which then ends the server in order.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            with console.status("loading the models"):
                line = process.stdout.readline() if process.stdout else ""
            ready = re.search(r"ready on (tw://[^\s,]+).*admin (http://[^\s,]+):", line)
            if ready is None:
                log.seek(0)
                stop(f"the server did not start:\n{line}{log.read()}")
            console.print(line.rstrip(), soft_wrap=True)
            yield Server(url=ready[1], admin_url=ready[2], key=key)
        finally:
            _end(process)


def make_key(keys: Path, key: Path) -> None:
    """A key for the server's file `keys`, and the client's half of it in the file `key`."""
    console.print("$ tensorwire keys new --principal demo --out demo.key keys.toml")
    command = [sys.executable, "-m", "tensorwire", "keys", "new", "--principal", "demo", "--out", str(key), str(keys)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        stop(f"tensorwire keys new failed (exit code {made.returncode}): {made.stderr}")


def show_keys(server: Server) -> None:
    """Say who calls; and that nobody else may."""
    key_id = server.key.read_text().partition(":")[0]
    try:
        tensorwire.connect(server.url, key="").close()
    except tensorwire.errors.AuthenticationError:
        console.print(f"without a key: refused; every call below is signed with key {key_id}\n")
    else:
        stop("the server took a caller without a key")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- both clients and the command line --------------------------------------------------------------------------------


def with_blocking_client(server: Server, photos: dict[str, Photo]) -> tuple[str, ...]:
    """Each photo in a call of its own, with its timing; returns the model's labels."""
    console.rule("blocking client", align="left")
    with tensorwire.connect(server.url, key=server.key) as client:
        labels = tuple(client.describe(MODEL).labels)
        client.infer(MODEL, {"x": photos[PHOTOS[0]]})  # the first call pays for caches on both sides
        results = {name: client.infer(MODEL, {"x": photo}, timing=True) for name, photo in photos.items()}
    show_labels(results, labels)
    show_timing(results)
    check_expected(results, labels)
    return labels


async def with_asyncio_client(server: Server, photos: dict[str, Photo], labels: tuple[str, ...]) -> None:
    """All photos at once over one connection: the server batches what arrives together."""
    console.rule("asyncio client, all photos at once", align="left")
    async with await tensorwire.aio.connect(server.url, key=server.key) as client:
        replies = await asyncio.gather(*(client.infer(MODEL, {"x": photo}, timing=True) for photo in photos.values()))
    results = dict(zip(photos, replies, strict=True))
    show_labels(results, labels)
    show_timing(results)
    check_expected(results, labels)


def with_command_line(server: Server) -> None:
    """The same photo as a user would send it from a shell."""
    console.rule("command line", align="left")
    photo = find_photos() / EXPECTED[0]
    console.print(
        f"$ tensorwire send {MODEL} --input x=@{photo.name} --top 3 --timing --key-file demo.key", soft_wrap=True
    )
    command = [sys.executable, "-m", "tensorwire", "send", MODEL, "--input", f"x=@{photo}", "--top", "3", "--timing"]
    where = ["--url", server.url, "--key-file", str(server.key)]
    reply = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    if reply.returncode:
        stop(f"tensorwire send failed (exit code {reply.returncode}): {reply.stderr}")
    console.print(reply.stdout)
    probability = re.search(rf"^\s*{EXPECTED[1]}\s+(\d\.\d+)", reply.stdout, re.MULTILINE)
    if probability is None or abs(float(probability[1]) - EXPECTED[2]) > EXPECTED[3]:
        stop(f"the command line did not find {EXPECTED[1]} in {EXPECTED[0]}")


def best(probabilities: npt.NDArray[np.float32], count: int) -> list[int]:
    """Indices of the largest probabilities, best first."""
    return [int(index) for index in np.argsort(-probabilities)[:count]]


def show_labels(results: dict[str, Any], labels: tuple[str, ...]) -> None:
    """Per photo the three best labels with their probability."""
    table = plain_table("photo", "best", "second", "third")
    for name, result in results.items():
        row = result["probabilities"][0]
        table.add_row(Path(name).stem, *(f"{labels[index]} {row[index]:.3f}" for index in best(row, 3)))
    console.print(table)
    console.print()


def show_timing(results: dict[str, Any]) -> None:
    """Per photo where its time went, in milliseconds."""
    table = plain_table("milliseconds")
    for phase in PHASES:
        table.add_column(phase.replace("_", "\n"), justify="right", no_wrap=True)
    for name, result in results.items():
        times = (getattr(result.timing, phase) / 1000 for phase in PHASES)
        table.add_row(Path(name).stem, *(f"{time:.2f}" if time < 100 else f"{time:.0f}" for time in times))
    console.print(table)
    console.print()


def plain_table(*columns: str) -> Table:
    """A table that fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def check_expected(results: dict[str, Any], labels: tuple[str, ...]) -> None:
    """Stop unless the photo whose answer is known was recognised."""
    photo, label, probability, tolerance = EXPECTED
    row = results[photo]["probabilities"][0]
    found = best(row, 1)[0]
    if labels[found] != label or abs(float(row[found]) - probability) > tolerance:
        stop(f"{photo} came out as {labels[found]} {row[found]:.3f}, expected {label} at about {probability}")


# --- load -------------------------------------------------------------------------------------------------------------


async def under_load(server: Server, photos: dict[str, Photo], seconds: float) -> Report:
    """A few seconds of callers who send photos as fast as they get answers."""
    console.rule(f"load: {LOAD_CALLERS} callers for {seconds:.0f} s", align="left")
    inputs = {"x": photos[EXPECTED[0]]}
    bar = Progress(
        TextColumn("{task.completed:.0%}"),
        BarColumn(40),
        TimeRemainingColumn(),
        TextColumn("{task.fields[calls]} calls"),
        console=console,
    )
    async with await tensorwire.aio.connect(server.url, key=server.key) as client:
        with bar:
            task = bar.add_task("load", total=1.0, calls=0)

            def advance(progress: LoadProgress) -> None:
                bar.update(task, completed=progress.fraction, calls=progress.completed)

            schedule = Schedule(concurrency=LOAD_CALLERS, duration=seconds)
            return await run_load([lambda: client.infer(MODEL, inputs)], schedule, progress=advance)


def batch_sizes(admin_url: str) -> dict[str, int]:
    """Batches run so far by their number of rows, from the server's own metrics: upper bound of the bucket ->
    batches.
    """
    with urllib.request.urlopen(f"{admin_url}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    pattern = rf'^tensorwire_batch_rows_bucket{{(?=[^}}]*model="{MODEL}")[^}}]*le="([^"]+)"[^}}]*}} (\S+)$'
    cumulative = [(bound, int(float(count))) for bound, count in re.findall(pattern, text, re.MULTILINE)]
    lower = [0, *(count for _, count in cumulative)]
    return {bound: count - below for (bound, count), below in zip(cumulative, lower, strict=False)}


def show_load(report: Report, after: dict[str, int], before: dict[str, int]) -> None:
    """One table: the rate, the latencies, the batches."""
    table = plain_table("load", "")
    table.add_row("requests/s", f"{report.rate:.1f}")
    table.add_row("p50", f"{report.percentile(50) * 1000:.1f} ms")
    table.add_row("p99", f"{report.percentile(99) * 1000:.1f} ms")
    table.add_row("requests", str(report.completed))
    table.add_row("batches", ", ".join(_bucket_names(after, before)))
    console.print(table)
    console.print()


def explain_batches(server: Server) -> None:
    """Say why the batches are as large as they are: the server measured what they bring when it loaded the model."""
    with tensorwire.connect(server.url, key=server.key) as client:
        most, rows = client.describe(MODEL).max_batch, client.health(MODEL).models[0].effective_max_batch
    if rows < most:
        console.print(
            f"measured at load: more than {'one photo' if rows == 1 else f'{rows} photos'} at a time is no faster"
        )
        console.print("on this CPU, so the server does not batch further\n")


def _bucket_names(after: dict[str, int], before: dict[str, int]) -> Iterator[str]:
    above = 0.0
    for bound, count in after.items():
        ran = count - before.get(bound, 0)
        low, high = above + 1, float(bound)
        if ran:
            rows = f"{high:.0f}" if low == high else f"{low:.0f}-{high:.0f}"
            yield f"{ran} of {rows} {'row' if high == 1 else 'rows'}"
        above = high


def stop(message: str) -> NoReturn:
    """End the demo with an error."""
    sys.exit(f"demo: {message}")


def _interrupted(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        console.print("\ninterrupted; the server is stopped")
        sys.exit(130)
