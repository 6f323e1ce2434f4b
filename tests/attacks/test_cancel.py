"""Cancel at every moment of a call's life: one terminal each, and all memory comes back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tensorwire.protocol import FrameType, pack_extension
from tensorwire.protocol.header import END_STREAM, MORE
from tests.attacks.peer import CANCEL, DATA, END, LIMIT, OPEN, PING, Raw, call, chunk, dims, frame, metadata, size
from tests.integration.models import ECHO, flat
from tests.support.server import ServerProcess, running_server, write_model

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("cancel")]

SEEDS = size(400, 100_000)
SEEDS_PER_CONNECTION = 200
CHUNK = 262144
WIDTH = CHUNK // 4
MODELS = ("inline", "process", "wide-inline", "wide-process")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    for engine in ("inline", "process"):
        write_model(models, engine, ECHO, flat(engine=engine, warmup=False))
        write_model(models, f"wide-{engine}", ECHO, flat(WIDTH, engine=engine, max_batch=4, warmup=False))
    with running_server(models) as running:
        yield running


def call_frames(source: random.Random, stream_id: int) -> list[bytes]:
    """The frames of one call; of a wide one also its chunks."""
    model = source.choice(MODELS)
    if not model.startswith("wide"):
        return [call(stream_id, meta=metadata(model), priority=source.randrange(3))]
    rows = source.randrange(1, 4)
    ext = pack_extension(dims=dims(rows, WIDTH), body_length=rows * CHUNK)
    frames = [frame(OPEN, flags=END_STREAM | MORE, stream_id=stream_id, ext=ext, meta=metadata(model))]
    return frames + [
        chunk(stream_id, bytes(CHUNK), flags=END_STREAM if row == rows - 1 else MORE) for row in range(rows)
    ]


def script(source: random.Random, first: int) -> tuple[list[bytes], range]:
    """Frames of a few calls, interleaved, most of them cancelled somewhere on their way or after it."""
    streams = range(first, first + source.randrange(1, 6))
    pending = {stream_id: call_frames(source, stream_id) for stream_id in streams}
    frames: list[bytes] = []
    opened = first
    while pending:
        stream_id = source.choice([stream_id for stream_id in pending if stream_id <= opened])
        opened = max(opened, stream_id + 1)
        frames.append(pending[stream_id].pop(0))
        cancelled = source.random() < 0.4
        if cancelled:
            frames.append(frame(CANCEL, stream_id=stream_id) * source.randrange(1, 3))
        if cancelled or not pending[stream_id]:  # a chunk after CANCEL is an error of the connection (SPEC 8.4)
            del pending[stream_id]
    return frames, streams


def terminals(peer: Raw, streams: range) -> Counter[int]:
    """How many terminals each stream got, until all have one and the PING behind them is answered."""
    found: Counter[int] = Counter()
    answered = False
    while not answered or len(found) < len(streams):
        answer = peer.receive()
        assert answer.kind in (DATA, END, FrameType.PONG), answer
        answered |= answer.kind == FrameType.PONG
        if answer.kind == END or (answer.kind == DATA and answer.flags == END_STREAM):
            found[answer.stream_id] += 1
    return found


@pytest.mark.soak
def test_every_call_ends_once_whenever_it_is_cancelled(server: ServerProcess) -> None:
    opened = 0
    for begin in range(0, SEEDS, SEEDS_PER_CONNECTION):
        with Raw(server.address) as peer:
            first = 1
            for seed in range(begin, begin + SEEDS_PER_CONNECTION):
                source = random.Random(seed)
                frames, streams = script(source, first)
                for data in frames:
                    at = source.randrange(len(data)) if source.random() < 0.2 else 0
                    for piece in (data[:at], data[at:]):
                        if piece:
                            peer.send(piece)
                peer.send(frame(PING, body=bytes(8)))
                found = terminals(peer, streams)
                assert found == Counter(dict.fromkeys(streams, 1)), seed
                first = streams.stop
            opened += first - 1
    server.wait_metric("tensorwire_calls", 0)
    ended = sum(
        server.metric("tensorwire_requests_total", model=model, status=status)
        for model in MODELS
        for status in ("OK", "CANCELLED")
    )
    assert ended == opened
    server.wait_metric("tensorwire_pool_used_bytes", 0)
