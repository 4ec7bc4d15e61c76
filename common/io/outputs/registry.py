"""Open the outputs that `--to` names, as `ndi:stage` or `rtmp://host/app/key`.

A new kind is one file and one line in `OUTPUTS`. What needs no picture to be known, a missing
package or a taken port, is an error before the session begins.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ...errors import SdxsError, UsageError
from ..inputs.address import Address, read_address
from ..kinds import split_kind
from ..sources.place import is_url
from .mjpeg import MjpegServer
from .output import Output, Outputs
from .plan import OutputPlan
from .process import ProcessOutlet
from .stream_url import MUXERS, read_url, shown

NDI_TERMS = (
    "NDI is a registered trademark of Vizrt NDI AB; its library comes under the terms at "
    "http://ndi.link/ndisdk_license"
)
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of output.

    outlet: 'module:class' within this package. package: what it imports, with `install` to get it.
    systems: of `sys.platform`; none are all. named: it needs a name after the colon. terms: a line
    for the user.
    """

    outlet: str
    package: str
    install: str
    systems: tuple[str, ...] = ()
    named: bool = True
    terms: str = ""


OUTPUTS = {
    "ndi": Kind(".ndi:NdiOutlet", "cyndilib", "pip install 'sdxs[ndi]'", terms=NDI_TERMS),
    "syphon": Kind(
        ".syphon:SyphonOutlet", "syphon", "pip install 'sdxs[syphon]'", systems=("darwin",)
    ),
    # its licence is the GPL, so that it is the user's own step and no dependency of sdxs
    "vcam": Kind(".vcam:CameraOutlet", "pyvirtualcam", "pip install pyvirtualcam", named=False),
}
MJPEG, STREAM = "mjpeg", "stream"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one output goes. rest: what follows the colon, or a URL. label: for messages."""

    kind: str
    rest: str
    label: str
    address: Address | None = None


def read_output(spec: str) -> Place:
    """Return what `--to` names. Raises UsageError where it cannot be on this machine."""
    text = spec.strip()
    if is_url(text):
        return Place(STREAM, read_url("--to", text), shown(text))
    kind, rest = split_kind(text) or ("", text)
    if kind == MJPEG:
        address = read_address("--to", rest) if rest else None
        if address is None:
            raise UsageError("--to mjpeg: expected a port, as mjpeg:8513, or mjpeg:HOST:PORT")
        return Place(MJPEG, rest, f"mjpeg:{address}", address)
    if kind not in OUTPUTS:
        known = ", ".join(f"{each}:" for each in (*OUTPUTS, MJPEG))
        urls = ", ".join(f"{each}://" for each in MUXERS)
        hint = "" if kind else "; a file is written by --out"
        raise UsageError(f"--to {spec}: expected {known} or {urls}{hint}")
    known_kind, name = OUTPUTS[kind], rest.strip()
    if known_kind.named and not name:
        raise UsageError(f"--to {kind}: expected a name after the colon, as {kind}:sdxs")
    if len(name) > LONGEST_NAME or not all(each.isprintable() for each in name):
        raise UsageError(f"--to {kind}: expected a name of {LONGEST_NAME} characters at most")
    if why := obstacle(kind):
        raise UsageError(f"--to {text}: {why}")
    return Place(kind, name, f"{kind}:{name}")


def is_live(spec: str) -> bool:
    """Tell whether a name is that of a live output, of whatever kind."""
    kind = (split_kind(spec.strip()) or ("", ""))[0]
    url = spec.strip().partition("://")[0].lower() in MUXERS and is_url(spec.strip())
    return url or kind in (*OUTPUTS, MJPEG)


def obstacle(kind: str) -> str:
    """Say why a kind cannot work on this machine, with the remedy; '' if it may."""
    known = OUTPUTS[kind]
    if known.systems and sys.platform not in known.systems:
        return f"{kind}: is for macOS; ndi:NAME takes its place between machines and on Linux"
    if find_spec(known.package) is None:
        return f"{known.package} is not installed; {known.install}"
    return ""


def check_outputs(specs: Sequence[str]) -> None:
    """Check what needs no session, before anything is downloaded. Raises UsageError."""
    places = [read_output(each) for each in specs]
    seen = set[str]()
    for place in places:
        one = place.rest if place.kind == STREAM else place.label
        if one in seen:
            raise UsageError(f"--to {place.label}: is named twice")
        seen.add(one)


def open_outputs(specs: Sequence[str], fps: float, alone: bool) -> Outputs:
    """Open what `--to` names; the first that cannot be opened closes the others.

    fps: of the pictures, about. alone: see `Outputs`. Raises UsageError, SinkError.
    """
    check_outputs(specs)
    made: list[Output] = []
    try:
        for spec in specs:
            made.append(_opened(read_output(spec), fps))
    except SdxsError:
        for each in made:
            each.close()
        raise
    return Outputs(made, alone)


def _opened(place: Place, fps: float) -> Output:
    if place.address is not None:
        server = MjpegServer(place.address)
        where = f"{MJPEG}: {server.url}"
        return Output(place.label, lambda _h, _w: server, where, server.shut, repeat_s=None)
    kind = ".stream:StreamOutlet" if place.kind == STREAM else OUTPUTS[place.kind].outlet
    terms = "" if place.kind == STREAM else OUTPUTS[place.kind].terms
    where = f"{place.label}: {terms}" if terms else ""
    return _hosted(place, kind, fps, where)


def _hosted(place: Place, kind: str, fps: float, where: str) -> Output:
    output: Output

    def opened(height: int, width: int) -> ProcessOutlet:
        plan = OutputPlan(place.label, place.rest, fps, height, width)
        return ProcessOutlet(kind, plan, lambda: output.is_closing)

    output = Output(place.label, opened, where)
    return output
