"""Targets are data; what is missed or could not be measured fails a run, what was not asked for does not."""

from __future__ import annotations

from typing import Any

from bench import figures, targets
from bench.peers import PEERS
from bench.works import WORKS


def row(*rounds: float) -> dict[str, Any]:
    return {**figures.summary(rounds), "tail": figures.summary([9.0 for _ in rounds])}


def judged(results: dict[str, Any]) -> dict[str, Any]:
    return {target["text"]: target for target in targets.judged(results)}


def test_every_target_names_works_and_peers_that_are_there() -> None:
    for target in targets.TARGETS:
        assert {target.work, target.other_work or target.work} <= WORKS.keys()
        assert {target.peer, target.other or target.peer} <= PEERS.keys()


def test_a_target_is_judged_by_the_median_of_the_ratios() -> None:
    found = judged({"A.python": {"raw_echo": row(100, 100, 100), "ours": row(114, 200, 100)}})
    target = found["A p50, blocking client, x raw echo <= 1.15"]
    assert target["median"] == 1.14
    assert target["met"] is True
    missed = judged({"A.python": {"raw_echo": row(100, 100, 100), "ours": row(116, 116, 100)}})
    assert targets.failed(list(missed.values())) == ["A p50, blocking client, x raw echo <= 1.15"]


def test_at_least_is_judged_the_other_way() -> None:
    found = judged({"B.native.1": {"raw_echo": row(100), "ours": row(40)}})
    assert found["B native, 1 connection, x raw echo >= 0.4"]["met"] is True
    assert found["B native, 1 connection, x raw echo >= 0.5"]["met"] is False


def test_a_missed_stretch_target_does_not_fail_a_run() -> None:
    found = targets.judged({"B.native.1": {"raw_echo": row(100), "ours": row(45)}})
    assert [target["text"] for target in found if not target["met"]] == ["B native, 1 connection, x raw echo >= 0.5"]
    assert targets.failed(found) == []


def test_a_figure_of_its_own_and_a_part_of_a_row_are_judged_without_a_ratio() -> None:
    assert judged({"F": {"ours": row(3.9)}})["F, KiB per idle connection <= 4"]["met"] is True
    assert judged({"C.native.8": {"ours": row(1)}})["C native, 8 connections, p99/p50 <= 4"]["median"] == 9.0


def test_a_ratio_between_two_works_needs_both() -> None:
    text = "I, model's p99 under a flood, x alone <= 3"
    assert text not in judged({"I.flood": {"ours": row(10)}})
    assert judged({"I.flood": {"ours": row(10)}, "I.alone": {"ours": row(5)}})[text]["median"] == 2.0


def test_a_peer_that_could_not_be_measured_fails_the_run_and_says_why() -> None:
    found = targets.judged({"A.python": {"raw_echo": row(1), "ours": {"reason": "missing: no build/compiled"}}})
    assert found[0]["met"] is None
    assert found[0]["reason"] == "ours: missing: no build/compiled"
    assert targets.failed(found) == ["A p50, blocking client, x raw echo <= 1.15"]


def test_peers_that_were_not_asked_for_fail_nothing() -> None:
    assert targets.judged({"A.python": {"ours": row(1)}}) == []
