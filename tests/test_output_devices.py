"""NDI between two processes; Syphon and virtual cameras by fakes that hold to their rules."""

import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdxs.common.errors import SinkError, SourceError, SourceLost, UsageError
from sdxs.common.io.outputs import registry
from sdxs.common.io.outputs.plan import OutputPlan
from sdxs.common.io.outputs.registry import open_outputs
from sdxs.common.io.sources import ndi_name, received, syphon_name
from sdxs.common.io.sources.match import named
from sdxs.common.io.sources.received import Received
from sdxs.common.io.sources.registry import open_source

FAKES = Path(__file__).parent / "fake_outputs"
OURS = ("outputs.syphon", "outputs.vcam", "sources.syphon")
WAIT_S = 60.0


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], object]]:
    """Put the fakes in the place of libraries; return what imports a module of ours anew."""

    def forget() -> None:
        for name in list(sys.modules):
            if name.split(".")[0] in ("objc", "syphon", "pyvirtualcam"):
                monkeypatch.delitem(sys.modules, name)
        for name in OURS:
            monkeypatch.delitem(sys.modules, f"sdxs.common.io.{name}", raising=False)

    forget()
    monkeypatch.syspath_prepend(FAKES)
    yield lambda name: import_module(f"sdxs.common.io.{name}")
    forget()


def plan(name: str, height: int = 6, width: int = 8) -> OutputPlan:
    return OutputPlan(f"x:{name}", name, 30, height, width)


def gradient(height: int = 6, width: int = 8) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.arange(height)[:, None] * 20
    picture[..., 1], picture[..., 2] = 7, 200
    return picture


# Syphon.


@pytest.mark.parametrize("flip", ["", ",flip"])
def test_syphon_goes_out_and_comes_in(fakes: Callable[[str], SimpleNamespace], flip: str) -> None:
    out = fakes("outputs.syphon").SyphonOutlet(plan(f"stage{flip}"))
    syphon = sys.modules["syphon"]
    inlet = fakes("sources.syphon").SyphonInlet("syphon:stage", f"stage{flip}")
    assert inlet.name == "syphon:sdxs (stage)" and inlet.receive(0.0) is None
    for _ in range(3):
        out.send(gradient(), 0.0)
    got = inlet.receive(0.0)
    np.testing.assert_array_equal(got[..., ::-1], gradient())  # BGR, the right way up again
    assert inlet.receive(0.0) is None  # each picture once
    published = syphon.native.running[0].published[-1]
    rows = published[::-1] if flip else published
    np.testing.assert_array_equal(rows[..., [2, 1, 0]], gradient())
    assert (published[..., 3] == 255).all()
    out.close()
    out.close()
    with pytest.raises(SourceLost, match="its program has ended"):
        inlet.receive(1.0)
    inlet.close()


def test_syphon_between_pictures_answers_who_asks(fakes: Callable[[str], SimpleNamespace]) -> None:
    out = fakes("outputs.syphon").SyphonOutlet(plan("stage"))
    native = sys.modules["syphon"].native
    assert native.announced == [] and out.idle_s < 0.1
    out.idle()
    assert [each.name for each in native.announced] == ["stage"]
    out.close()


def test_syphon_without_metal_and_without_a_server(
    fakes: Callable[[str], SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, sources = fakes("outputs.syphon"), fakes("sources.syphon")
    monkeypatch.setattr(sources, "FIND_S", 0.02)
    with pytest.raises(SourceError, match="no Syphon server of that name, or more than one"):
        sources.SyphonInlet("syphon:a", "a")
    twins = [outputs.SyphonOutlet(plan("a")) for _ in range(2)]  # Syphon lets two have one name
    with pytest.raises(SourceError, match=r"there are sdxs \(a\), sdxs \(a\)"):
        sources.SyphonInlet("syphon:a", "a")
    for each in twins:
        each.close()
    sys.modules["syphon"].native.device = None
    with pytest.raises(SinkError, match="x:a: No Metal device is available; it needs a Mac"):
        outputs.SyphonOutlet(plan("a"))


def test_the_fake_of_syphon_catches_every_rule_that_is_broken(
    fakes: Callable[[str], SimpleNamespace],
) -> None:
    fakes("outputs.syphon")
    syphon, objc = sys.modules["syphon"], sys.modules["objc"]
    raw, arrays = sys.modules["syphon.utils.raw"], sys.modules["syphon.utils.numpy"]
    with pytest.raises(AssertionError, match="pool"):
        syphon.SyphonMetalServer("a")
    with objc.autorelease_pool():
        server = syphon.SyphonMetalServer("a")
        texture = raw.create_mtl_texture(server.device, 8, 6)
        for wrong in (np.zeros((6, 8), np.uint8), np.zeros((6, 8, 3), np.uint8)):
            with pytest.raises(AssertionError, match="shape"):
                arrays.copy_image_to_mtl_texture(wrong, texture)
        with pytest.raises(AssertionError):
            arrays.copy_image_to_mtl_texture(np.zeros((6, 4, 4), np.uint8), texture)
        with pytest.raises(AssertionError, match="another device"):
            server.publish_frame_texture(raw.create_mtl_texture(syphon.Device(), 8, 6))
        server.stop()
        with pytest.raises(AssertionError, match="stopped"):
            server.publish_frame_texture(texture)
        with pytest.raises(AssertionError, match="run loop"):
            syphon.SyphonServerDirectory().update_run_loop()


# Virtual cameras.


@pytest.fixture
def cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "camera0").touch()
    monkeypatch.setenv("SDXS_FAKE_CAMERAS", str(tmp_path))
    return tmp_path


def test_a_virtual_camera_by_a_process_of_its_own(
    fakes: Callable[[str], SimpleNamespace], cameras: Path
) -> None:
    outputs = open_outputs(["vcam:"], 30, alone=True)
    picture, pause = gradient(), threading.Event()
    outputs.write(picture)
    for _ in range(int(WAIT_S / 0.02)):
        if outputs.said[0].sent:
            break
        pause.wait(0.02)
    assert (cameras / "camera0.used").exists()
    outputs.close()
    assert outputs.heard() == []
    assert (cameras / "camera0").read_bytes()[: picture.nbytes] == picture.tobytes()
    assert not (cameras / "camera0.used").exists()  # others may have it again


def test_a_camera_in_use_and_none_at_all(
    fakes: Callable[[str], SimpleNamespace], cameras: Path
) -> None:
    vcam = fakes("outputs.vcam")
    first = vcam.CameraOutlet(plan(""))
    first.send(gradient()[:, ::-1][:, ::-1], 0.0)
    with pytest.raises(SinkError, match="already in use.; expected a virtual camera.*modprobe"):
        vcam.CameraOutlet(plan("camera0"))
    with pytest.raises(SinkError, match="does not exist"):
        vcam.CameraOutlet(plan("camera7"))
    first.close()
    first.close()
    (cameras / "camera0").unlink()
    with pytest.raises(SinkError, match="No v4l2 loopback device found"):
        vcam.CameraOutlet(plan(""))


def test_the_fake_of_cameras_catches_every_rule_that_is_broken(
    fakes: Callable[[str], SimpleNamespace], cameras: Path
) -> None:
    fakes("outputs.vcam")
    camera_of = sys.modules["pyvirtualcam"].Camera
    with pytest.raises(AssertionError, match="even"):
        camera_of(7, 6, 30)
    camera = camera_of(8, 6, 30)
    for wrong, error in (
        (np.zeros((6, 8, 3), np.float32), TypeError),
        (np.zeros((8, 6, 3), np.uint8), ValueError),
        (gradient()[:, ::-1], AssertionError),
    ):
        with pytest.raises(error):
            camera.send(wrong)
    camera.close()
    with pytest.raises(AttributeError):
        camera.send(gradient())


# NDI.


def test_ndi_from_one_process_to_another() -> None:
    if find_spec("cyndilib") is None:
        pytest.skip("cyndilib is not installed (pip install 'sdxs[ndi]')")
    outputs = open_outputs(["ndi:sdxs test stage"], 30, alone=False)
    assert outputs.places == [f"ndi:sdxs test stage: {registry.NDI_TERMS}"]
    picture, pause, over = gradient(64, 96), threading.Event(), threading.Event()

    def send() -> None:
        while not over.is_set():
            outputs.write(picture)
            pause.wait(0.03)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        source = open_source("ndi:sdxs test stage", 64)
    except SourceError as error:
        over.set()
        pytest.skip(f"nothing is found by mDNS here; on Linux avahi-daemon has to run: {error}")
    finally:
        if over.is_set():
            sender.join()
            outputs.close()
    try:
        assert source.name.endswith("(sdxs test stage)")
        pictures = [source.read() for _ in range(3)]
    finally:
        over.set()
        sender.join()
        source.close()
        outputs.close()
    assert pictures[-1] is not None and pictures[-1].shape == (64, 96, 3)
    # NDI compresses: within a few levels
    assert np.abs(pictures[-1][..., ::-1].astype(int) - gradient(64, 96)).mean() < 8
    assert outputs.heard() == [] and source.read() is None


def test_what_cannot_be_received_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--source ndi:a: cyndilib is not installed; pip install"):
        ndi_name.open_ndi("a")
    monkeypatch.setattr(syphon_name, "sys", SimpleNamespace(platform="linux"))
    with pytest.raises(UsageError, match="--source syphon:a: syphon: is for macOS"):
        open_source("syphon:a", 64)
    monkeypatch.setattr(syphon_name, "sys", SimpleNamespace(platform="darwin"))
    with pytest.raises(UsageError, match="syphon is not installed; pip install"):
        open_source("syphon:a", 64)


def test_a_name_means_one_sender() -> None:
    names = ["HALL (left)", "HALL (left wing)", "DESK (right)"]
    assert named(names, "left") == "HALL (left)" and named(names, "wing") == "HALL (left wing)"
    assert named(names, "HALL (left)") == "HALL (left)" and named(names, "desk") == names[2]
    assert named(names, "hall") is None and named(names, "") is None
    assert named(names[2:], "") == names[2] and named([], "") is None


def test_a_source_whose_pictures_change_their_size() -> None:
    source = Received("fake_inlets:Growing", "ndi:x", "x")
    shapes = [(picture.shape, int(picture[0, 0, 0])) for picture in (source.read(),) * 1]
    for _ in range(4):
        picture = source.read()
        assert picture is not None
        shapes.append((picture.shape, int(picture.mean())))
    assert shapes == [
        ((4, 4, 3), 1),
        ((4, 4, 3), 2),
        ((8, 6, 3), 3),
        ((8, 6, 3), 4),
        ((4, 4, 3), 5),
    ]
    with pytest.raises(SourceLost, match="over"):
        source.read()
    source.close()
    with pytest.raises(SourceError, match="nobody is there"):
        Received("fake_inlets:Absent", "ndi:x", "x")
