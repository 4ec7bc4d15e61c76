"""Cameras by name: what systems list, which one a name means, and what is asked of it."""

import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fake_avfoundation import Device, Library, install

from command import Command
from sdxs.commands import live
from sdxs.common.errors import SourceError, SourceLost, UsageError
from sdxs.common.io.sources import camera as camera_module
from sdxs.common.io.sources import cameras, v4l2
from sdxs.common.io.sources.camera import Camera
from sdxs.common.io.sources.camera_modes import (
    CameraInfo,
    CameraMode,
    CameraRequest,
    offered,
    rates_text,
)
from sdxs.common.io.sources.cameras import camera_number, find_camera, list_cameras
from sdxs.common.io.sources.registry import open_source, source_camera
from sdxs.common.live.options import SessionOptions
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.size import FrameSize
from sdxs.mac_check.camera import ask_cameras
from sdxs.mac_check.setup import Setup

DARWIN = type("System", (), {"platform": "darwin"})
LIVE = ("live", "--backend", "identity", "--model", "demo", "--size", 64, "--headless")

# macOS


FACETIME = Device(
    "FaceTime HD Camera (Display)",
    "B1",
    [
        (640, 480, [(1.0, 30.00003)], b"vide"),
        (1280, 720, [(1.0, 30.0)], b"vide"),
        (1280, 720, [(60.0, 60.0)], b"vide"),
    ],
)
FIREWIRE = Device("DV", "0x08", [(0, 0, [(30.0, 30.0)], b"muxx")], muxed=True)
IPHONE = Device("Käthes iPhone Camera", "A7", [(1920, 1440, [], b"vide")])


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr(cameras, "sys", DARWIN)
    return install(monkeypatch, Library([FACETIME, IPHONE, FIREWIRE]))


def test_a_mac_lists_in_the_order_of_opencv_with_sizes_and_rates(mac: Library) -> None:
    """OpenCV sorts video and muxed devices by uniqueID."""
    dv, iphone, facetime = list_cameras()
    assert [each.number for each in (dv, iphone, facetime)] == [0, 1, 2]
    assert (dv.name, iphone.name, facetime.name) == (FIREWIRE.name, IPHONE.name, FACETIME.name)
    assert dv.sizes == [] and iphone.sizes == [("1920x1440", ())]
    assert [(size, rates_text(rates)) for size, rates in facetime.sizes] == [
        ("1280x720", "1 to 30, 60"),
        ("640x480", "1 to 30"),
    ]
    assert mac.pools == 0


def test_a_mac_is_never_made_to_ask(mac: Library) -> None:
    list_cameras()
    assert set(mac.asked) == {
        *(b"stringWithUTF8String:", b"devicesWithMediaType:", b"uniqueID", b"localizedName"),
        *(b"UTF8String", b"formats", b"formatDescription", b"videoSupportedFrameRateRanges"),
        *(b"minFrameRate", b"maxFrameRate"),
    }


def test_where_avfoundation_is_not_as_expected_a_number_is_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cameras, "sys", DARWIN)
    library = install(monkeypatch, Library([FACETIME], knows=False))
    with pytest.raises(SourceError, match=r"does not know .*--camera 0"):
        list_cameras()
    assert library.pools == 0
    monkeypatch.setattr(cameras, "sys", type("System", (), {"platform": "win32"}))
    with pytest.raises(SourceError, match="win32"):
        list_cameras()


def test_mac_check_publishes_no_name(mac: Library) -> None:
    answer = ask_cameras(Setup("", "", ""))
    assert answer["ok"] is True and "Käthe" not in json.dumps(answer, ensure_ascii=False)
    listed = answer["cameras"]
    assert isinstance(listed, list) and [each["letters_of_name"] for each in listed] == [2, 20, 28]
    assert listed[2]["sizes"] == {"1280x720": "1 to 30, 60", "640x480": "1 to 30"}


# Linux


class Driver:
    """Drivers behind devices whose files hold what they answer, as JSON.

    capabilities: of all its devices and of this one. formats: fourcc, flags, sizes, each with
    times between frames.
    """

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        self.refused = refused

    def __call__(self, handle: int, request: int, told: bytearray) -> int:
        # what linux/videodev2.h encodes in the number
        assert len(told) == (request >> 16) & 0x3FFF and (request >> 8) & 0xFF == ord("V")
        device = json.loads(os.pread(handle, 10_000, 0))
        if request in self.refused or request in device.get("refused", ()):
            raise OSError(errno.ENOTTY, "no such question")
        numbers = {
            v4l2.QUERYCAP: self.capability,
            v4l2.ENUM_FMT: self.format,
            v4l2.ENUM_FRAMESIZES: self.size,
            v4l2.ENUM_FRAMEINTERVALS: self.interval,
        }[request](device, *struct.unpack_from("=4I", told))
        if numbers is None:
            raise OSError(errno.EINVAL, "no more")
        offset, values = numbers
        struct.pack_into(f"={len(values)}I", told, offset, *values)
        return 0

    def capability(self, device: dict, *_: int) -> tuple[int, list[int]]:
        return 80, [0x60000, *device["capabilities"]]

    def format(self, device: dict, index: int, buffers: int, *_: int) -> object:
        assert buffers == device.get("buffers", 1)
        if index >= len(device["formats"]):
            return None
        fourcc, flags, _sizes = device["formats"][index]
        told = [index, buffers, flags, *[0x41414141] * 8]
        return 0, [*told, int.from_bytes(fourcc.encode(), "little")]

    def sizes(self, device: dict, pixels: int) -> list:
        name = pixels.to_bytes(4, "little").decode()
        (found,) = [sizes for fourcc, _, sizes in device["formats"] if fourcc == name]
        return found

    def size(self, device: dict, index: int, pixels: int, *_: int) -> object:
        sizes = self.sizes(device, pixels)
        if index >= len(sizes):
            return None
        numbers = sizes[index][0]
        return 8, [1 if len(numbers) == 2 else 3, *numbers]

    def interval(self, device: dict, index: int, pixels: int, width: int, height: int) -> object:
        for numbers, times in self.sizes(device, pixels):
            largest = numbers if len(numbers) == 2 else [numbers[1], numbers[4]]
            if largest == [width, height]:
                if times and len(times[0]) == 6:
                    return (16, [2, *times[0]]) if index == 0 else None
                return (16, [1, *times[index]]) if index < len(times) else None
        return None


WEBCAM = {
    "capabilities": [0x84A00001, 0x04200001],
    "formats": [
        ["YUYV", 0, [[[640, 480], [[1, 30], [1, 15]]], [[1280, 720], [[1, 10]]]]],
        ["MJPG", 1, [[[1280, 720], [[1, 60], [1001, 30000]]], [[1920, 1080], [[1, 30]]]]],
    ],
}
LOOPBACK = {
    "capabilities": [0x85200003, 0x05200003],
    "formats": [["YU12", 0, [[[2, 4096, 1, 1, 2160, 1], [[1, 60, 1, 1, 0, 1]]]]]],
}


@pytest.fixture
def linux(tmp_path: Path) -> Callable[..., list[CameraInfo]]:
    """List the cameras of a made-up machine."""
    folder, devices = tmp_path / "class", tmp_path / "dev"
    devices.mkdir()

    def add(entry: str, name: str, device: dict | None) -> None:
        (folder / entry).mkdir(parents=True)
        (folder / entry / "name").write_text(f"{name}\n")
        if device is not None:
            (devices / entry).write_text(json.dumps(device))

    add("video10", "OBS Virtual Camera", LOOPBACK)
    add("video0", "HD Webcam C920", WEBCAM)
    add("video1", "HD Webcam C920", WEBCAM | {"capabilities": [0x84A00001, 0x04A00000]})
    add("video2", "Silent", WEBCAM | {"refused": [v4l2.ENUM_FRAMESIZES]})
    add("video3", "Elsewhere", None)  # in a container
    add("video4", "Codec", {"capabilities": [0x84004000, 0x04004000]})
    add("video5", "Mute", {"refused": [v4l2.QUERYCAP]})
    add("video7", "Planes", WEBCAM | {"capabilities": [0x84201000, 0x04201000], "buffers": 9})
    add("v4l-subdev0", "a sensor", WEBCAM)
    add("video6", "Locked", None)
    (devices / "video6").mkdir()  # which nobody may open for writing
    return lambda ioctl=None: v4l2.cameras(folder, devices, ioctl or Driver())


def test_linux_lists_what_captures_by_the_number_of_its_device(
    linux: Callable[..., list[CameraInfo]],
) -> None:
    found = {each.number: each for each in linux()}
    assert list(found) == [0, 2, 5, 6, 7, 10], "neither metadata nor codecs, 10 after 2"
    assert found[0].name == "HD Webcam C920" and found[10].name == "OBS Virtual Camera"
    assert [(size, rates_text(rates)) for size, rates in found[0].sizes] == [
        ("1920x1080", "30"),
        ("1280x720", "10, 29.97, 60"),
        ("640x480", "15, 30"),
    ]
    assert found[0].modes[0] == CameraMode((640, 480), ((15, 15), (30, 30)), "YUYV", True)
    assert found[0].modes[-1].raw is False and found[0].modes[-1].pixels == "MJPG"
    assert found[7].modes == found[0].modes


def test_a_driver_that_offers_every_size_is_told_as_a_range(
    linux: Callable[..., list[CameraInfo]],
) -> None:
    (mode,) = linux()[-1].modes
    assert (mode.size, mode.largest, mode.rates) == ((2, 1), (4096, 2160), ((1.0, 60.0),))
    assert linux()[-1].sizes == [("2x1 to 4096x2160", ((1.0, 60.0),))]
    assert mode.offers((1280, 720), 24) and not mode.offers((1280, 2161), 24)
    assert not mode.offers((1280, 720), 61)


def test_what_a_driver_refuses_is_not_told(linux: Callable[..., list[CameraInfo]]) -> None:
    found = {each.number: each for each in linux()}
    assert not found[2].modes and not found[5].modes and not found[6].modes
    assert found[6].untold.endswith("video6: Is a directory") and not found[2].untold
    without_rates = linux(Driver((v4l2.ENUM_FRAMEINTERVALS,)))[0]
    assert without_rates.sizes[-1] == ("640x480", ())
    assert offered(without_rates) == "1920x1080, 1280x720, 640x480"


def test_a_driver_without_end_is_left_after_a_while(
    linux: Callable[..., list[CameraInfo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v4l2, "MOST", 20)

    def endless(handle: int, request: int, told: bytearray) -> int:
        if request == v4l2.ENUM_FMT:
            struct.pack_into("=I", told, 0, 0)
        return Driver()(handle, request, told)

    assert len({mode.pixels for mode in linux(endless)[0].modes}) == 1


def test_a_machine_without_video4linux_has_no_camera(tmp_path: Path) -> None:
    assert v4l2.cameras(tmp_path / "none", tmp_path) == []


# names

DESK = [
    CameraInfo(0, "FaceTime HD Camera"),
    CameraInfo(1, "FaceTime HD Camera (Display)"),
    CameraInfo(2, "Logitech BRIO"),
    CameraInfo(4, "Twin"),
    CameraInfo(5, "Twin"),
]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> list[CameraInfo]:
    found = list(DESK)
    monkeypatch.setattr(cameras, "list_cameras", lambda: found)
    return found


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("brio", 2),
        (" Logitech BRIO ", 2),
        ("facetime hd camera", 0),  # a whole name counts more than a part
        ("display", 1),
        ("63", 63),  # opening shows whether it is there
        ("2", 2),
    ],
)
def test_a_name_or_a_unique_part_is_enough(desk: list[CameraInfo], text: str, number: int) -> None:
    assert camera_number(text) == number == source_camera(f"camera:{text}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("obs", r"no camera is called 'obs'; cameras found: 0 \(FaceTime HD Camera\), 1 .*BRIO"),
        ("face", r"'face' fits 2 cameras; cameras found: 0 \(Face.*\), 1 .* number$"),
        ("twin", r"cameras found: 4 \(Twin\), 5 \(Twin\); give more of the name, or the number"),
        ("  ", "the name of a camera is empty"),
    ],
)
def test_an_unknown_or_ambiguous_name_lists_the_cameras(
    desk: list[CameraInfo], text: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        find_camera(text)


def test_without_cameras_the_message_says_so(desk: list[CameraInfo]) -> None:
    desk.clear()
    with pytest.raises(UsageError, match="no camera was found; `sdxs doctor --cameras`"):
        find_camera("brio")


# what is asked of a camera


class Capture:
    """cv2.VideoCapture of a camera that obeys within `sizes` and `rates`, and may be lost."""

    sizes: tuple[tuple[int, int], ...] = ((640, 480), (1280, 720))
    rates: tuple[float, ...] = (30.0, 60.0)
    reads: Iterator[bool] = iter(())
    opened: ClassVar[list[int]] = []
    asked: ClassVar[list[tuple[int, float]]] = []

    def __init__(self, index: int) -> None:
        Capture.opened.append(index)
        self._width, self._size, self._rate = 0, (640, 480), 30.0

    def isOpened(self) -> bool:
        return True

    def set(self, prop: int, value: float) -> bool:
        Capture.asked.append((prop, value))
        if prop == cv2.CAP_PROP_FRAME_WIDTH:
            self._width = int(value)
        elif prop == cv2.CAP_PROP_FRAME_HEIGHT and (self._width, int(value)) in self.sizes:
            self._size, self._rate = (self._width, int(value)), 30.0
        elif prop == cv2.CAP_PROP_FPS:
            self._rate = min(self.rates, key=lambda rate: abs(rate - value))
        return True

    def get(self, prop: int) -> float:
        if prop == cv2.CAP_PROP_FPS:
            return self._rate
        return self._size[prop == cv2.CAP_PROP_FRAME_HEIGHT]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if next(Capture.reads, True):
            return True, np.zeros((self._size[1], self._size[0], 3), np.uint8)
        return False, None

    def release(self) -> None:
        pass


MODES = tuple(CameraMode(size, ((30.0, 30.0), (60.0, 60.0))) for size in Capture.sizes)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch, desk: list[CameraInfo]) -> type[Capture]:
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(camera_module, "REOPEN_PAUSE_S", 0.0)
    for name, value in (("opened", []), ("asked", []), ("reads", iter(()))):
        monkeypatch.setattr(Capture, name, value)
    desk[0] = CameraInfo(0, DESK[0].name, MODES)
    return Capture


def test_size_and_rate_are_asked_of_the_driver(capture: type[Capture]) -> None:
    feed = Camera(0, CameraRequest((1280, 720), 60.0))
    assert feed.read().shape == (720, 1280, 3) and feed.fps == 60.0
    assert capture.asked == [  # the rate last: a new size sets it back
        (cv2.CAP_PROP_BUFFERSIZE, 1),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 60.0),
    ]


def test_nothing_is_asked_of_a_camera_unless_the_user_does(capture: type[Capture]) -> None:
    Camera(0).read()
    assert capture.asked == [(cv2.CAP_PROP_BUFFERSIZE, 1)]


def test_another_size_than_asked_for_is_an_error(capture: type[Capture]) -> None:
    feed = Camera(0, CameraRequest((1024, 768)))
    says = (
        r"camera 0 was asked for --camera-size 1024x768 and delivers 640x480 at 30 frames a "
        r"second; it lists 1280x720 at up to 60, 640x480 at up to 60"
    )
    with pytest.raises(SourceError, match=says) as refused:
        feed.read()
    assert not isinstance(refused.value, SourceLost)


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (25.0, "asked for --camera-fps 29.97 and delivers 640x480 at 25 frames"),
        (float("nan"), "at a rate that it does not tell"),
        (-1.0, "at a rate that it does not tell"),
        (30.0, ""),
        (29.97, ""),
    ],
)
def test_another_rate_than_asked_for_is_an_error(
    capture: type[Capture], monkeypatch: pytest.MonkeyPatch, rate: float, says: str
) -> None:
    monkeypatch.setattr(capture, "rates", (rate,))
    feed = Camera(0, CameraRequest(fps=29.97))
    if says:
        with pytest.raises(SourceError, match=says):
            feed.read()
    else:
        assert feed.read() is not None and feed.fps == 29.97


def test_a_rate_that_was_asked_for_is_believed_below_ten(
    capture: type[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unlikely rate is not believed otherwise, and a recording would run six times as fast."""
    monkeypatch.setattr(capture, "rates", (5.0,))
    assert Camera(0, CameraRequest(fps=5.0)).fps == 5.0


def test_a_reopened_camera_is_asked_again(capture: type[Capture]) -> None:
    capture.reads = iter([True] + [False] * 8)
    feed = Camera(0, CameraRequest((1280, 720), 60.0))
    assert feed.read().shape == feed.read().shape == (720, 1280, 3)
    first = capture.asked[:4]
    assert len(capture.opened) > 1 and capture.asked == first * len(capture.opened)


def test_a_camera_that_comes_back_in_another_size_is_lost(
    capture: type[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture.reads = iter([True] + [False] * 8)
    feed = Camera(0, CameraRequest((1280, 720)))
    feed.read()
    monkeypatch.setattr(capture, "sizes", ())
    with pytest.raises(SourceLost, match="delivers 640x480"):
        feed.read()


def test_a_named_camera_is_followed_to_its_new_number(
    capture: type[Capture], desk: list[CameraInfo]
) -> None:
    """Numbers move when a camera goes; another one must not take its place."""
    capture.reads = iter([True] + [False] * 8)
    feed = Camera("brio")
    assert feed.name == "camera 2 (Logitech BRIO)"
    feed.read()
    desk[2] = CameraInfo(2, "Logitech BRIO 4K")
    desk.append(CameraInfo(7, "Logitech BRIO"))
    feed.read()
    assert capture.opened[0] == 2 and set(capture.opened[1:]) == {7}
    assert feed.name == "camera 7 (Logitech BRIO)"
    del desk[-1]
    capture.reads = iter([False] * 100)
    opened = len(capture.opened)
    with pytest.raises(SourceLost, match="did not come back"):
        feed.read()
    assert len(capture.opened) == opened, "none of that name is there"


YUYV = CameraMode((1280, 720), ((10.0, 10.0),), "YUYV")
SMALL = CameraMode((640, 480), ((30.0, 30.0),), "YUYV")
MJPG = CameraMode((1280, 720), ((60.0, 60.0), (30.0, 30.0)), "MJPG", raw=False)
SMALL_MJPG = CameraMode((640, 480), ((30.0, 30.0),), "MJPG", raw=False)


@pytest.mark.parametrize(
    ("size", "fps", "pixels"),
    [
        ((1280, 720), 60.0, "MJPG"),
        ((1280, 720), None, "MJPG"),  # OpenCV asks for 30 where nothing is asked
        ((1280, 720), 10.0, ""),
        ((640, 480), None, ""),
        (None, 60.0, ""),  # offered at no 640 x 480: the driver has the word
        ((1024, 768), None, ""),
    ],
)
def test_mjpg_is_asked_for_where_raw_pictures_do_not_come_fast_enough(
    capture: type[Capture],
    desk: list[CameraInfo],
    size: tuple[int, int] | None,
    fps: float | None,
    pixels: str,
) -> None:
    desk[0] = CameraInfo(0, "Webcam", (SMALL_MJPG, SMALL, YUYV, MJPG))
    Camera(0, CameraRequest(size, fps))
    fourcc = [value for prop, value in capture.asked if prop == cv2.CAP_PROP_FOURCC]
    assert fourcc == ([cv2.VideoWriter.fourcc(*"MJPG")] if pixels else [])
    order = [prop for prop, _ in capture.asked if prop != cv2.CAP_PROP_BUFFERSIZE]
    assert not pixels or order[0] == cv2.CAP_PROP_FOURCC


def test_a_camera_that_cannot_be_opened_names_those_that_are_there(
    capture: type[Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "isOpened", lambda self: False)
    with pytest.raises(SourceError, match=r"camera 63 cannot be opened.*2 \(Logitech BRIO\)"):
        Camera(63)


# the command


@pytest.mark.parametrize(
    ("options", "index"),
    [
        (("--camera", "brio"), 2),
        (("--camera", "3"), 3),
        (("--source", "camera:Logitech BRIO"), 2),
        (("--source", "camera:1"), 1),
        ((), 0),
    ],
)
def test_live_reads_the_camera_that_is_named(
    capture: type[Capture],
    command: Command,
    tmp_path: Path,
    options: tuple[str, ...],
    index: int,
) -> None:
    out = tmp_path / "frames"
    done = command(*LIVE, *options, "--every-frame", "--frames", 2, "--out", out)
    assert done.code == 0 and capture.opened == [index], done.err
    assert len(list(out.iterdir())) == 2


def test_live_asks_for_size_and_rate(
    capture: type[Capture], command: Command, tmp_path: Path
) -> None:
    asked = ("--camera", "0", "--camera-size", "1280x720", "--camera-fps", "60")
    done = command(*LIVE, *asked, "--frames", 2, "--stats", tmp_path / "s.json")
    assert done.code == 0 and (cv2.CAP_PROP_FPS, 60.0) in capture.asked
    wrong = ("--camera-size", "1024x768")
    done = command(*LIVE, *wrong, "--frames", 2, "--stats", tmp_path / "s.json")
    assert done.code == 1 and done.err.count("error:") == 1
    assert "delivers 640x480" in done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--camera", "1", "--source", "clip.mp4"), "--camera 1 --source clip.mp4: both name a"),
        (("--camera", "1", "--source", "0"), "--camera 1 --source 0: both name a source"),
        (("--camera", " "), "--camera is empty"),
        (("--camera", "obs"), "no camera is called 'obs'; cameras found: 0"),
        (("--source", "camera:twin"), "'twin' fits 2 cameras"),
        (("--source", "synthetic", "--camera-fps", "60"), "--camera-fps 60: --source synthetic is"),
        (("--source", "a.mp4", "--camera-size", "8x8"), "--camera-size 8x8: --source a.mp4 is no"),
        (("--camera-size", "720p"), "--camera-size 720p: expected the side of a square in pixels"),
        (("--camera-size", "0x720"), "--camera-size 0x720: expected"),
        (("--camera-fps", "0"), "expected a number from 1 to 1000"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_before_anything_else(
    desk: list[CameraInfo],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.setattr(live, "open_checkpoint_for", lambda model: pytest.fail("downloads"))
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: pytest.fail("opens a camera"))
    done = command(*LIVE, *options, "--frames", 1, "--out", "x.png")
    assert done.code == 2 and says in done.err, done.err


def test_options_of_a_session_refuse_the_same(desk: list[CameraInfo]) -> None:
    with pytest.raises(UsageError, match="both name a source"):
        SessionOptions("a.mp4", camera="1")
    with pytest.raises(UsageError, match="--camera-size"):
        CameraRequest((0, 8))
    with pytest.raises(UsageError, match="--camera-fps 60: --source synthetic is no camera"):
        open_source("synthetic", 64, request=CameraRequest(fps=60.0))
    assert SessionOptions(camera="7").reads == "7" and SessionOptions().reads == "0"
    assert SessionOptions(camera="brio").reads == "camera:brio"
    asked = SessionOptions(camera="7", camera_size=FrameSize(1280, 720)).request
    assert asked.size == (1280, 720)


def test_doctor_lists_cameras_and_opens_none(
    desk: list[CameraInfo], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: pytest.fail("opens a camera"))
    desk[0] = CameraInfo(0, "Webcam [4K]", (SMALL, YUYV, MJPG))
    desk[3] = CameraInfo(4, "Twin", untold="/dev/video4: denied")
    done = command("doctor", "--cameras")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines()]
    rows = [row for row in rows if row]
    assert done.code == 0
    assert rows[:2] == [["0", "Webcam [4K]", "1280x720", "10, 30, 60"], ["", "", "640x480", "30"]]
    assert ["2", "Logitech BRIO", "not told", "not told"] in rows
    assert ["4", "Twin", "not told", "/dev/video4: denied"] in rows
    told = json.loads(command("doctor", "--cameras", "--json").out)
    assert told["schema"] == 1 and len(told["cameras"]) == 5
    assert told["cameras"][0]["sizes"]["640x480"] == [[30.0, 30.0]]


def test_doctor_without_cameras(desk: list[CameraInfo], command: Command) -> None:
    desk.clear()
    done = command("doctor", "--cameras")
    assert done.code == 1 and "no camera was found" in done.out and not done.err
    done = command("doctor", "--cameras", "--json")
    assert done.code == 1 and json.loads(done.out)["cameras"] == []
    done = command("doctor", "--cameras", "--camera", "1")
    assert done.code == 2 and "would ignore --camera" in done.err
