"""`--control` from the command line to the backend: edges travel with their frame."""

from pathlib import Path

import numpy as np
import pytest

from command import Command
from fake_session import FakeSession
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import FrameParams, StageTimes
from sdxs.common.errors import BackendError
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live.look import View, compose
from sdxs.common.live.session import NO_EDGES
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.live.threads.loop import Loop, LoopOptions, Prompt
from sdxs.common.picture.edges import Edges
from sdxs.common.picture.image import to_frame_rgb
from sdxs.common.picture.opencv import cv2
from sdxs.experiments.parity.control import tiny_controlled

SIZE = 64
LIVE = ("live", "--headless", "--source", "synthetic", "--frames", 1, "--size", SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_controlled(tmp_path_factory.mktemp("controlled"), "sdxs-512-dreamshaper").folder


class ShowsEdges(IdentityBackend):
    """Its picture is the edges it was given, grey; black where it was given none."""

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        shown = np.zeros_like(frame) if edges is None else np.repeat(edges[..., None], 3, axis=-1)
        super().submit(shown)

    def collect(self, out: np.ndarray) -> StageTimes:
        return super().collect(out)


@pytest.mark.parametrize("hosted", [False, True])
def test_every_frame_comes_with_its_own_edges(
    hosted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BackendOptions(SIZE)
    backend = (
        HostedBackend("edges", f"{__name__}:ShowsEdges", None, options)
        if hosted
        else ShowsEdges(None, options)
    )
    if hosted:
        monkeypatch.syspath_prepend(str(Path(__file__).parent))
    prompt = Prompt("", np.zeros((1, 77, 4), np.float32))
    settings = LoopOptions(SIZE, frames=6, realtime=False, skip_threshold=-1, edges="canny")
    loop = Loop(
        Synthetic(SIZE),
        [backend],
        settings,
        [prompt],
        FrameParams(),
        lambda text: prompt.encoder_hidden_states,
    )
    shown: list[np.ndarray] = []
    loop.run(lambda frame: shown.append(frame.outputs[0].copy()), lambda: None, lambda: None)
    source, edges, expected = Synthetic(SIZE), Edges("canny", SIZE), []
    for _ in range(6):
        camera, out = np.empty((SIZE, SIZE, 3), np.uint8), np.empty((SIZE, SIZE), np.uint8)
        to_frame_rgb(source.read(), camera)
        edges.draw(camera, out)
        expected.append(np.repeat(out[..., None], 3, axis=-1))
    np.testing.assert_array_equal(shown, expected)
    assert expected[0].any()


def test_hosted_edges_are_checked() -> None:
    backend = HostedBackend(
        "identity", "sdxs.common.backend.identity:IdentityBackend", None, BackendOptions(SIZE)
    )
    backend.load()
    with pytest.raises(BackendError, match="expected contiguous uint8"):
        backend.submit(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE + 1), np.uint8))
    backend.close()


def test_without_a_control_no_edges_are_drawn() -> None:
    prompt = Prompt("", np.zeros((1, 77, 4), np.float32))
    settings = LoopOptions(SIZE, frames=1, realtime=False)
    loop = Loop(
        Synthetic(SIZE),
        [ShowsEdges(None, BackendOptions(SIZE))],
        settings,
        [prompt],
        FrameParams(),
        lambda text: None,
    )
    shown: list[LiveFrame] = []
    loop.run(lambda frame: shown.append(frame), lambda: None, lambda: None)
    assert shown[0].edges is None and not shown[0].outputs[0].any()


def render(command: Command, out: Path, *options: object) -> np.ndarray:
    done = command(*LIVE, "--out", out, *options)
    assert done.code == 0, done.err
    return cv2.imread(str(out)).astype(int)


def test_the_command_renders_under_control(command: Command, folder: Path, tmp_path: Path) -> None:
    base = ("--model", folder)
    free = render(command, tmp_path / "a.png", *base)
    held = render(command, tmp_path / "b.png", *base, "--control", "sketch")
    other = render(
        command, tmp_path / "c.png", *base, "--control", folder / "controlnet", "--edges", "canny"
    )
    weak = render(command, tmp_path / "d.png", *base, "--control", "sketch", "--control-scale", 0)
    assert np.abs(free - held).mean() > 1 and (held != other).any()
    np.testing.assert_array_equal(weak, free)
    isolated = render(command, tmp_path / "e.png", *base, "--control", "sketch", "--isolate")
    np.testing.assert_array_equal(isolated, held)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--control-scale", 0.5), "nothing reads edges in this session; add --control sketch"),
        (("--edges", "canny"), "nothing reads edges in this session; add --control sketch"),
        (("--control", "sketch", "--edges", "hed"), "--edges hed: expected one of canny, soft"),
        (("--control", "depth"), "--control depth: expected none, sketch"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[object, ...], said: str, command: Command, folder: Path, tmp_path: Path
) -> None:
    done = command(*LIVE, "--model", folder, "--out", tmp_path / "out.png", *options)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1


def test_keys_change_the_control_scale_and_show_the_edges() -> None:
    session = FakeSession("a", control=True)
    for key, scale in (("k", 1.1), ("k", 1.2), ("j", 1.1)):
        session.press(key)
        assert session.calls[-1] == ("params", FrameParams(control_scale=scale))
    assert session.notes[-1] == "feedback 0.0 \u00b7 control 1.1"
    session.press("j" * 30)
    assert session.values.control_scale == 0
    for view in (View.EDGES, View.OUTPUT):
        session.press("x")
        assert session.look.view is view


def test_without_a_control_those_keys_say_so() -> None:
    session = FakeSession("a")
    session.press("kjx")
    assert session.notes == [NO_EDGES] * 3 and not session.calls
    assert session.look.view is View.OUTPUT


def test_the_preview_is_what_the_control_reads() -> None:
    edges = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    shown = compose(LiveFrame(blank, [blank.copy()], edges=edges), View.EDGES)
    np.testing.assert_array_equal(shown, np.repeat(edges[..., None], 3, axis=-1))
