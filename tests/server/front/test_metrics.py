"""Plain integers on the hot path become Prometheus metrics at scrape time."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tensorwire.protocol import Status
from tensorwire.server.front.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found[sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))] = sample.value
    return found


def test_calls_are_counted_by_status_and_time() -> None:
    metrics = Metrics()
    stats = metrics.model("m", "1")
    stats.call_done(Status.OK, 0.0003)
    stats.call_done(Status.OK, 100.0)
    stats.call_done(Status.INVALID_ARGUMENT, 0.0)
    found = samples(metrics)
    assert found["tensorwire_requests_total", "model=m", "status=OK", "version=1"] == 2
    assert found["tensorwire_requests_total", "model=m", "status=INVALID_ARGUMENT", "version=1"] == 1
    assert found["tensorwire_request_seconds_bucket", "le=0.0005", "model=m", "version=1"] == 2
    assert found["tensorwire_request_seconds_bucket", "le=+Inf", "model=m", "version=1"] == 3
    assert found["tensorwire_request_seconds_count", "model=m", "version=1"] == 3


def test_batches_are_counted_by_rows() -> None:
    metrics = Metrics()
    for rows in (1, 8, 9, 1000):
        metrics.model("m", "1").batch_done(rows)
    found = samples(metrics)
    assert found["tensorwire_batch_rows_bucket", "le=8", "model=m", "version=1"] == 2
    assert found["tensorwire_batch_rows_sum", "model=m", "version=1"] == 1018


def test_names_that_need_escaping_stay_one_line() -> None:
    metrics = Metrics()
    metrics.model('a"b\nc', "1").call_done(Status.OK, 0.1)
    assert ("tensorwire_requests_total", 'model=a"b\nc', "status=OK", "version=1") in samples(metrics)


def test_a_model_that_is_loaded_again_goes_on_counting() -> None:
    metrics = Metrics()
    assert metrics.model("m", "1") is metrics.model("m", "1")


def test_dropped_connections_are_counted_by_reason() -> None:
    metrics = Metrics()
    metrics.dropped("write_timeout")
    metrics.dropped("write_timeout")
    assert samples(metrics)["tensorwire_connections_dropped_total", "reason=write_timeout"] == 2
