"""macOS asks for the camera in a dialog: ask before anything else, and wait for the answer."""

import ctypes

import pytest
from fake_avfoundation import Device, Library, install

from command import Command
from sdxs.commands import live
from sdxs.common import doctor
from sdxs.common.errors import SdxsWarning, SourceError, UsageError
from sdxs.common.io.sources import avfoundation, permission
from sdxs.common.io.sources.camera import Camera
from sdxs.common.io.sources.permission import Permission, ask_for_camera
from sdxs.common.io.sources.registry import source_camera
from sdxs.common.picture.opencv import cv2

DARWIN = type("System", (), {"platform": "darwin"})
ASKED, DENIED, ALLOWED = Permission.NOT_ASKED, Permission.DENIED, Permission.ALLOWED

# before conftest's stand-in takes its place
REAL_PERMISSION = permission.camera_permission


class Mac:
    """A Mac with a camera, a clock that only sleeping moves, and a user who answers."""

    def __init__(self, answers: list[Permission | None], opens_after: int = 0) -> None:
        self.answers, self.time_s, self.opened, self.said = answers, 0.0, 0, []
        self.opens_after = opens_after

    def install(self, patch: pytest.MonkeyPatch) -> "Mac":
        patch.setattr(permission, "sys", DARWIN)
        patch.setattr(permission, "camera_permission", self.permission)
        patch.setattr(cv2, "VideoCapture", lambda index: self)
        return self

    def permission(self) -> Permission | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def ask(self) -> None:
        ask_for_camera(0, self.said.append, self.sleep, lambda: self.time_s)

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds

    # what cv2.VideoCapture answers

    def isOpened(self) -> bool:
        self.opened += 1
        return self.opened > self.opens_after

    def release(self) -> None:
        pass

    def set(self, prop: int, value: float) -> bool:
        return True

    def get(self, prop: int) -> float:
        return 30.0


def test_a_user_who_takes_ten_seconds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: the first session of a fresh Mac always failed while the dialog was open."""
    mac = Mac([ASKED] * 21 + [ALLOWED]).install(monkeypatch)
    mac.ask()
    assert mac.time_s == pytest.approx(10.0) and len(mac.said) == 1 and "allow it" in mac.said[0]


def test_a_refusal_says_where_to_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Mac([ASKED] * 3 + [DENIED]).install(monkeypatch)
    with pytest.raises(SourceError, match=r"System Settings > Privacy & Security.*restart"):
        mac.ask()
    for answer in (DENIED, Permission.RESTRICTED):
        mac = Mac([answer]).install(monkeypatch)
        with pytest.raises(SourceError, match="macOS does not allow"):
            mac.ask()
        assert mac.opened == 0 and mac.said == [] and mac.time_s == 0


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Mac([ASKED]).install(monkeypatch)
    with pytest.raises(SourceError, match="nobody answered.*60 s"):
        mac.ask()
    assert 60 <= mac.time_s <= 62


def test_an_allowed_camera_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Mac([ALLOWED]).install(monkeypatch)
    mac.ask()
    assert mac.opened == 0 and mac.time_s == 0


def test_where_the_permission_cannot_be_read_the_camera_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mac = Mac([None], opens_after=2).install(monkeypatch)
    mac.ask()
    assert mac.opened == 3 and len(mac.said) == 1
    mac = Mac([None], opens_after=1000).install(monkeypatch)
    with pytest.raises(SourceError, match="System Settings"):
        mac.ask()
    assert 30 <= mac.time_s <= 31


def test_a_camera_asks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API and other programs open a camera without the command."""
    mac = Mac([ASKED, ASKED, ALLOWED]).install(monkeypatch)
    monkeypatch.setattr(permission, "LOOK_S", 0.0)
    with pytest.warns(SdxsWarning, match="allow it in the dialog"):
        Camera(0)
    assert mac.opened == 2, "once to make macOS ask, once to read"


def test_the_command_asks_before_it_downloads(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Bug: 2.7 GB were downloaded first."""
    Mac([DENIED]).install(monkeypatch)
    monkeypatch.setattr(live, "open_checkpoint_for", lambda model: pytest.fail("downloads"))
    done = command("live", "--source", "0")
    assert done.code == 1 and "System Settings" in done.err and "error:" in done.err
    monkeypatch.setattr(live, "open_checkpoint_for", _stop)
    assert "far enough" in command("live", "--source", "clip.mp4").err


def _stop(model: object) -> None:
    raise UsageError("far enough")


@pytest.mark.parametrize(
    ("spec", "number"),
    [("0", 0), ("12", 12), ("camera:3", 3), ("clip:3", None), ("film:0", None), ("", None)],
)
def test_which_sources_are_cameras(spec: str, number: int | None) -> None:
    assert source_camera(spec) == number


def test_doctor_never_makes_macos_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, ok, says in ((ASKED, None, "not been asked"), (DENIED, False, "does not allow")):
        monkeypatch.setattr(permission, "camera_permission", lambda answer=answer: answer)
        monkeypatch.setattr(doctor, "Camera", lambda index: pytest.fail("opens the camera"))
        check = doctor.look_at_camera(0)
        assert check.ok is ok and says in check.finding and check.remedy


# AVFoundation through its C functions


@pytest.mark.parametrize("status", list(Permission))
def test_the_permission_is_read_from_avfoundation(
    monkeypatch: pytest.MonkeyPatch, status: Permission
) -> None:
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permission, "sys", DARWIN)
        install(patch, Library([Device("A", "1")] * 4, int(status)))
        assert REAL_PERMISSION() is status and permission.count_cameras() == 4


def test_without_avfoundation_the_permission_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL_PERMISSION() is None and permission.count_cameras() is None  # Linux
    monkeypatch.setattr(permission, "sys", DARWIN)
    assert REAL_PERMISSION() is None  # no such library here
    install(monkeypatch, Library([], 3, knows=False))
    assert REAL_PERMISSION() is None and permission.count_cameras() is None


def test_a_pointer_keeps_its_upper_half() -> None:
    """By a function of the real C library: without its type, ctypes cuts a result to 32 bits."""
    text = ctypes.create_string_buffer(b"camera")
    libc = ctypes.CDLL(None)
    at = avfoundation.call(
        libc.strstr, ctypes.c_void_p, ctypes.c_void_p(ctypes.addressof(text)), b"mera"
    )
    assert at == ctypes.addressof(text) + 2 and at > 2**32


def test_a_structure_and_a_double_come_in_their_registers() -> None:
    """By functions of the real C library: div_t is made as CMVideoDimensions is."""
    libc = ctypes.CDLL(None)
    sizes = avfoundation.invoke(
        libc.div, avfoundation.Dimensions, ctypes.c_long(1927), ctypes.c_long(3)
    )
    assert isinstance(sizes, avfoundation.Dimensions) and (sizes.width, sizes.height) == (642, 1)
    assert avfoundation.invoke(libc.atof, ctypes.c_double, b"29.97") == 29.97


def test_an_index_that_opencv_cannot_hold_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "sys", DARWIN)
    monkeypatch.setattr(permission, "LOOK_S", 0.0)
    answers = [ASKED, ASKED, ALLOWED]
    monkeypatch.setattr(permission, "camera_permission", lambda: answers.pop(0))
    with (
        pytest.warns(SdxsWarning, match="allow it"),
        pytest.raises(SourceError, match="camera 99999999999 cannot be opened"),
    ):
        Camera(99999999999)
