"""A live session over loopback, captured by dumpcap, read by tshark and by ``tensorwire decode``."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.errors import NotFound
from tests.support.server import running_server
from tests.wireshark.agreement import by_decode, by_tshark

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("tshark")


def start_capture(file: Path, port: int) -> subprocess.Popen[bytes]:
    """dumpcap, once it captures. Skips where this user may not: then the committed capture stands for it."""
    process = subprocess.Popen(
        ["dumpcap", "-i", "lo", "-f", f"tcp port {port}", "-w", str(file), "-B", "64"], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    for line in process.stderr:
        said += line
        if line.startswith(b"File:"):
            return process
    process.wait(10)
    if re.search(rb"permission|not permitted|There are no interfaces", said):
        pytest.skip(f"dumpcap may not capture here: {said.decode().strip()}")
    raise AssertionError(said.decode())


def test_a_live_session_is_read_frame_by_frame(tmp_path: Path) -> None:
    file = tmp_path / "live.pcapng"
    image = np.arange(3 * 50_176, dtype=np.float32).reshape(3, 50_176)
    models = tmp_path / "models"
    models.mkdir()
    (models / "echo").symlink_to(ROOT / "examples" / "models" / "echo")
    with running_server(models) as server:
        capture = start_capture(file, server.address[1])
        try:
            with tensorwire.connect(f"tw://{server.address[0]}:{server.address[1]}") as client:
                assert np.array_equal(client.infer("echo", {"x": image})["y"], image)
                assert client.infer("echo", {"x": image[:1, :5]}, timing=True)["y"].shape == (1, 5)
                with pytest.raises(NotFound):
                    client.infer("absent", {"x": image[:1, :1]})
            wait_until_quiet(file)
        finally:
            capture.send_signal(signal.SIGINT)
            capture.communicate(timeout=20)
    ours = by_decode(file.read_bytes())
    assert [frame["type"] for frame in ours if not frame["frame"]][:4] == [1, 2, 3, 4]
    assert [frame["model"] for frame in ours if frame.get("type") == 5][:3] == ["echo", "echo", "absent"]
    assert sum(frame["body_len"] for frame in ours if frame.get("sender") == "client") >= image.nbytes
    assert any(frame.get("status") == "NOT_FOUND" for frame in ours)
    assert ours[-1]["code"] == "NO_ERROR"
    assert not any(frame.get("malformed") for frame in ours)
    assert by_tshark(file, "-J", "tensorwire", "-o", "tcp.reassemble_out_of_order:TRUE") == ours


def wait_until_quiet(file: Path, port: int | None = None) -> None:
    """dumpcap writes in blocks: until the client's CLOSE is in the file."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if any(frame.get("code") == "NO_ERROR" for frame in by_decode(file.read_bytes(), port)):
                return
        except Exception:  # cut off: it is being written
            pass
        time.sleep(0.1)
    raise AssertionError("the end of the session never came into the capture")
