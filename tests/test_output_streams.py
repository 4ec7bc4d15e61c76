"""Streams to a real FFmpeg, what a build lacks, and what a server refuses."""

import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.errors import SinkError, SinkLost
from sdxs.common.io.outputs import output as output_module
from sdxs.common.io.outputs.plan import OutputPlan
from sdxs.common.io.outputs.process import ProcessOutlet
from sdxs.common.io.outputs.registry import open_outputs
from sdxs.common.io.sources.synthetic import Synthetic, read_counter
from sdxs.common.picture.size import FrameSize

WIDTH, HEIGHT, WAIT_S = 160, 96, 60.0
STREAM = ".stream:StreamOutlet"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Receiver:
    """FFmpeg, decoding what it is sent; `numbers` are read from the pictures."""

    def __init__(self, *listening: str) -> None:
        path = shutil.which("ffmpeg")
        if path is None:
            pytest.skip("no real receiver: ffmpeg is not installed (apt install ffmpeg)")
        self._process = subprocess.Popen(
            [path, "-loglevel", "error", *listening]
            + ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.numbers: list[int] = []
        self.changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as pipe:
            while len(packed := pipe.read(WIDTH * HEIGHT * 3)) == WIDTH * HEIGHT * 3:
                shown = np.frombuffer(packed, np.uint8).reshape(HEIGHT, WIDTH, 3)
                with self.changed:
                    self.numbers.append(read_counter(shown))
                    self.changed.notify()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(WAIT_S)


@pytest.mark.parametrize("scheme", ["rtmp", pytest.param("tcp", marks=pytest.mark.thorough)])
def test_a_real_receiver_gets_the_pictures_and_dies_and_another_comes(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "FIRST_PAUSE_S", 0.05)
    port, notes = free_port(), list[str]()
    url = f"{scheme}://127.0.0.1:{port}" + ("/live/key" if scheme == "rtmp" else "")
    listening = ["-listen", "1", "-i", url] if scheme == "rtmp" else ["-i", f"{url}?listen=1"]
    source = Synthetic(FrameSize(WIDTH, HEIGHT))
    outputs = open_outputs([url], 30, alone=False)
    try:
        for _ in range(2):
            receiver, pause = Receiver(*listening), threading.Event()
            for _ in range(int(WAIT_S / 0.02)):  # the session goes on, whoever listens
                outputs.write(source.read()[..., ::-1])
                notes += outputs.heard()
                pause.wait(0.02)
                if len(receiver.numbers) > 8:
                    break
            receiver.end()
            numbers = receiver.numbers
            assert len(numbers) > 8 and numbers == sorted(set(numbers))
    finally:
        outputs.close()
    assert outputs.said[0].sent > 16 and not outputs.said[0].ended
    assert any("lost its connection" in note for note in notes)
    assert any(note.endswith("sends again") for note in notes)
    assert not any("key" in note for note in notes)


def opened(url: str) -> ProcessOutlet:
    plan = OutputPlan(url.partition("?")[0], url, 30, HEIGHT, WIDTH)
    return ProcessOutlet(STREAM, plan, lambda: False)


def test_a_server_that_is_not_there_is_tried_again_and_a_missing_protocol_is_not() -> None:
    for scheme in ("rtmp", "rtsp", "tcp"):
        with pytest.raises(SinkLost, match=r"cannot be reached \(Connection refused\)"):
            opened(f"{scheme}://127.0.0.1:{free_port()}/live")
    try:
        opened(f"srt://127.0.0.1:{free_port()}?timeout=1000").close()
    except SinkLost as error:
        pytest.skip(f"this FFmpeg has SRT: {error}")
    except SinkError as error:
        assert "built without srt://; send udp://" in str(error)
    else:
        pytest.fail("nobody listens")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n\r\n", "its server refuses it"),
        (b"RTSP/1.0 403 Forbidden\r\nCSeq: 1\r\n\r\n", "its server refuses it"),
    ],
)
def test_a_server_that_refuses_is_not_tried_again(answer: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            caller, _ = server.accept()
            with caller:
                while caller.recv(4096):
                    caller.sendall(answer)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(SinkError, match=says) as refused:
            opened(f"rtsp://127.0.0.1:{server.getsockname()[1]}/live")
        assert not isinstance(refused.value, SinkLost)
        thread.join(WAIT_S)


def test_no_option_is_named_that_ffmpeg_does_not_use(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(WAIT_S)
        outlet = opened(f"udp://127.0.0.1:{listener.getsockname()[1]}")
        outlet.send(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 0.0)
        assert listener.recv(2048)[0] == 0x47  # of an MPEG transport stream
        outlet.close()
    assert capfd.readouterr() == ("", "")
