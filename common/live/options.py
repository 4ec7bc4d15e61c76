"""Options of a live session, fixed once it runs; what may change is in `parameters.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from ..io.films.formats import VideoCodec
from ..io.sources.camera_modes import CameraRequest
from ..io.sources.place import without_password
from ..picture.size import Fit, FrameSize, read_size
from ..picture.still import BACKGROUND
from ..settings import check_settings, setting
from .plan import Plan

CAMERA = "0"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a session is started with. None leaves a choice to the source. Raises UsageError."""

    source: str = setting(
        CAMERA, "camera number, video, image or 'synthetic'; or kind:rest, such as film:clip.mp4"
    )
    camera: str | None = setting(
        None,
        "camera by its number, its name or a unique part of its name, instead of --source",
        shown="the source's",
    )
    camera_size: FrameSize | None = setting(
        None,
        "width and height to ask of the camera, such as 1280x720; any other is an error",
        shown="the camera's own",
        read=lambda text: read_size(text, "--camera-size"),
        write=str,
    )
    camera_fps: float | None = setting(
        None,
        "rate to ask of the camera; any other is an error",
        minimum=1,
        maximum=1000,
        unit="frames/s",
        shown="the camera's own",
    )
    background: str = setting(
        BACKGROUND, "colour behind transparent parts of an image, by name or as #336699"
    )
    fit: Fit = setting(
        "crop",
        "how a picture of other proportions fills the frame: crop its middle, pad it with black "
        "bars, or stretch it",
    )
    show_size: FrameSize | None = setting(
        None,
        "enlarge pictures for the window and for files, as 1280x720; black bars keep proportions",
        shown="the frame's",
        read=lambda text: read_size(text, "--show-size"),
        write=str,
    )
    video_codec: VideoCodec | None = setting(
        None,
        "codec of films: h264 plays everywhere, hevc is smaller, prores is for editing",
        shown="h264; in an .avi Motion JPEG",
    )
    hold: int | None = setting(
        None,
        "frames to show each prompt before the next",
        minimum=1,
        unit="frames",
        shown="without a window, one pass of a video, else 48; in a window, never",
    )
    frames: int | None = setting(
        None, "stop after this many frames", minimum=1, unit="frames", shown="no limit"
    )
    headless: bool = setting(False, "show no window")
    realtime: bool | None = setting(
        None,
        "files: keep their pace and drop late frames, or render every frame",
        shown="realtime in a window",
        flag="--realtime/--every-frame",
    )
    loop: Literal["threaded", "sequential"] = setting(
        "threaded", "threaded, or sequential as in the paper, to compare with"
    )
    side_by_side: bool = setting(False, "show the camera too", flag="--side-by-side/--output-only")
    overlay: bool = setting(
        True, "show figures and prompt in the window", flag="--overlay/--no-overlay"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.camera is not None and not self.camera.strip():
            raise UsageError("--camera is empty; expected the number or the name of a camera")
        if self.camera is not None and self.source != CAMERA:
            raise two_sources(self.camera, self.source)

    @property
    def reads(self) -> str:
        """The source, as `--source` would name it."""
        if self.camera is None:
            return self.source
        return self.camera if self.camera.isdecimal() else f"camera:{self.camera}"

    @property
    def request(self) -> CameraRequest:
        """What is asked of a camera. Raises UsageError."""
        size = self.camera_size
        return CameraRequest((size.width, size.height) if size else None, self.camera_fps)


def two_sources(camera: str, source: str) -> UsageError:
    """The refusal of a camera beside another source."""
    return UsageError(
        f"--camera {camera} --source {without_password(source)}: both name a source; drop one"
    )


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """What a session writes.

    outs: sinks, by path or `kind:rest`. contact_sheet: an image with a row for each prompt. stats:
    the session's figures as JSON. to: outputs that show it live.
    """

    outs: tuple[str, ...] = ()
    contact_sheet: Path | None = None
    stats: Path | None = None
    to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How frames travel.

    frames: stop after so many. hold: change to the next prompt after so many frames; 0 for never.
    realtime: the freshest frame wins; otherwise every frame is rendered, in order. sequential: one
    thread does everything in turn, as in the paper, to compare with. skip_threshold: see
    `Similarity`. stall_s: a source silent for so long is lost. transition_s: how long one prompt
    takes to become the next, on the camera's clock, or, where every frame is rendered, on the
    file's. edges: the kind that is drawn of every frame for a ControlNet, see `edges.py`, or none.
    mirror: mirror the camera. The last four are only where a session begins. fit: how a picture of
    other proportions fills the frame, see `to_frame_rgb`. size: an int is the side of a square.
    plan: what changes with which frame, where every frame is rendered.
    """

    size: FrameSize
    frames: int | None = None
    hold: int = 0
    realtime: bool = True
    sequential: bool = False
    skip_threshold: float = 0.0
    stall_s: float = 10.0
    transition_s: float = 0.0
    edges: str = ""
    mirror: bool = False
    fit: Fit = "crop"
    plan: Plan | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", FrameSize.of(self.size))
