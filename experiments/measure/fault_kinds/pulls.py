"""Faults of downloads: a hub on this machine that misbehaves, two pulls at once, killed pulls."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from ....common.checkpoint.registry import Entry
from ....common.testing.hub import FakeHub, serve
from .command import How
from .damage import write
from .fault import ERROR, FINE, Case, Right, kind
from .place import Place

KNOWN = Entry("test-model", "someone/test-model", "0123456789" * 4, "MIT", "")
UNET = "unet/diffusion_pytorch_model.safetensors"
LIMIT_S = 60.0
# Runs the command with one more checkpoint in its registry.
_PULL = f"""
from sdxs.common.checkpoint.registry import ENTRIES, Entry
ENTRIES[{KNOWN.name!r}] = Entry({KNOWN.name!r}, {KNOWN.repo!r}, {KNOWN.revision!r}, "MIT", "")
from sdxs.cli import main
main()
"""


@contextmanager
def _hub(place: Place) -> Iterator[tuple[FakeHub, How]]:
    """Serve the tiny checkpoint; yield the hub, and how a command is started that finds it."""
    hub = FakeHub(KNOWN, place.samples.tiny)
    with serve(hub):
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
            "HF_HOME": str(place.base / "hf"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        yield hub, How(environment, program=("-c", _PULL), limit_s=LIMIT_S)


def _pulled(place: Place) -> Path:
    return place.base / "weights" / KNOWN.name


def _check(place: Place, hub: FakeHub, said: str) -> None:
    """Compare what is said to be complete with what the hub holds."""
    if "complete and verified" not in said:
        return
    for name in KNOWN.files():
        path = _pulled(place) / name
        place.demand(
            path.is_file() and path.read_bytes() == hub.files[name],
            f"said 'complete and verified', and {name} is not what the hub holds",
        )


def _pull(place: Place, hub: FakeHub, how: How, right: Right) -> None:
    ran = place.sdxs("weights", "pull", KNOWN.name, right=right, how=how)
    _check(place, hub, ran.out)
    place.demand(
        ran.code != FINE or "complete and verified" in ran.out, "success, and nothing complete"
    )
    place.demand(
        ran.code == FINE or not (_pulled(place) / UNET).is_file(), "a pull that failed left a UNet"
    )


@kind("pulls")
def pulls(draw: Random) -> Iterator[Case]:
    """A hub that lies, breaks off, never ends or refuses: said, and taken up by the next pull."""
    acts: dict[str, tuple[Callable[[FakeHub], object], tuple[int, ...]]] = {
        "a sound hub": (lambda hub: None, (FINE,)),
        "a file that is not what the hub says": (lambda hub: hub.damaged.add(UNET), (ERROR,)),
        "a config that is not what the hub says": (
            lambda hub: hub.damaged.add("unet/config.json"),
            (ERROR,),
        ),
        "an answer without an end": (lambda hub: hub.endless.add(UNET), (ERROR,)),
        "a login page": (lambda hub: setattr(hub, "login_page", True), (ERROR,)),
        "an answer that ignores where it is to begin": (
            lambda hub: setattr(hub, "ignore_range", True),
            (FINE, ERROR),
        ),
    }
    for status in draw.sample((401, 403, 404, 429, 500, 503), 3):
        acts[f"status {status}"] = (
            lambda hub, status=status: setattr(hub, "refuse", status),
            (ERROR,),
        )
    for what, (act, codes) in acts.items():
        yield what, partial(_served, act=act, codes=codes)
    share = draw.uniform(0.1, 0.9)
    yield (
        f"a connection that breaks at {share:.0%}, and a pull after it",
        partial(_cut, share=share),
    )
    for what, leave in _LEFT.items():
        yield f"{what} in the place of the partial file", partial(_left, leave=leave)
    yield f"files of at most {100_000:,} bytes", _limited


def _served(place: Place, act: Callable[[FakeHub], object], codes: tuple[int, ...]) -> None:
    with _hub(place) as (hub, how):
        act(hub)
        _pull(place, hub, how, Right(codes, seconds=LIMIT_S, says=KNOWN.name))
        held = sum(p.stat().st_size for p in (place.base / "weights").rglob("*") if p.is_file())
        place.demand(held < 100 << 20, f"{held / 1e6:.0f} MB were written")


def _cut(place: Place, share: float) -> None:
    with _hub(place) as (hub, how):
        hub.cut[UNET] = int(share * len(hub.files[UNET]))
        hub.down_after_cut = True
        _pull(place, hub, how, Right((ERROR,), seconds=LIMIT_S, says=KNOWN.name))
        hub.refuse_files = 0
        _pull(place, hub, how, Right((FINE,), seconds=LIMIT_S))


_LEFT: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("../../../precious.txt"),
    "a folder": lambda path: path.mkdir(),
    "too long a file": lambda path: path.write_bytes(bytes(20 << 20)),
    "a file of other bytes": lambda path: path.write_bytes(b"x" * 1000),
}


def _left(place: Place, leave: Callable[[Path], object]) -> None:
    precious = place.base / "precious.txt"
    write(precious, "precious")
    path = place.base / "weights" / f".partial-{KNOWN.name}" / f"{UNET}.part"
    path.parent.mkdir(parents=True)
    leave(path)
    with _hub(place) as (hub, how):
        _pull(place, hub, how, Right((FINE, ERROR), seconds=LIMIT_S))
        _pull(place, hub, how, Right((FINE, ERROR), seconds=LIMIT_S))
    place.demand(precious.read_text(encoding="utf-8") == "precious", "a link was written through")


def _limited(place: Place) -> None:
    with _hub(place) as (hub, how):
        few = How(how.environment, {"limits": {"FSIZE": 100_000}}, program=how.program)
        _pull(place, hub, few, Right((ERROR,), seconds=LIMIT_S, says=KNOWN.name))
        _pull(place, hub, how, Right((FINE,), seconds=LIMIT_S))


@kind("pulls at once and killed")
def at_once(draw: Random) -> Iterator[Case]:
    """Two pulls of one model, one killed or interrupted; each says what is true."""
    for number in range(3):
        yield f"two pulls at once, {number + 1}", partial(_two, kill_s=None)
    for _ in range(2):
        after = round(draw.uniform(0.8, 2.5), 3)
        yield f"two pulls at once, one killed after {after:.2f} s", partial(_two, kill_s=after)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        after = round(draw.uniform(0.8, 2.0), 3)
        what = f"{number.name} after {after:.2f} s, and a pull after it"
        yield what, partial(_signalled, number=number, after_s=after)
    yield "a session while its model is pulled again", _beside_session


def _two(place: Place, kill_s: float | None) -> None:
    with _hub(place) as (hub, how):
        first_how = how
        if kill_s is not None:
            signals = ((kill_s, signal.SIGKILL),)
            first_how = How(how.environment, signals=signals, program=how.program, limit_s=LIMIT_S)
        commands = [
            place.start("weights", "pull", KNOWN.name, how=each) for each in (first_how, how)
        ]
        rans = [command.wait() for command in commands]
        for ran, command in zip(rans, commands, strict=True):
            codes = (FINE, 128 + signal.SIGKILL) if command.how is not how else (FINE,)
            place.judge(ran, Right(codes, seconds=LIMIT_S, leaves=True), {})
            _check(place, hub, ran.out)


def _signalled(place: Place, number: int, after_s: float) -> None:
    with _hub(place) as (hub, how):
        stopped = How(
            how.environment, signals=((after_s, number),), program=how.program, limit_s=LIMIT_S
        )
        ran = place.sdxs(
            *("weights", "pull", KNOWN.name),
            right=Right((FINE, 128 + number), seconds=LIMIT_S, leaves=True),
            how=stopped,
        )
        _check(place, hub, ran.out)
        _pull(place, hub, how, Right((FINE,), seconds=LIMIT_S))


def _beside_session(place: Place) -> None:
    shutil.copytree(place.samples.tiny, _pulled(place))
    with _hub(place) as (hub, how):
        (_pulled(place) / "vae/config.json").write_text("{}", encoding="utf-8")
        pulling = place.start("weights", "pull", KNOWN.name, how=how)
        session = place.start(
            *("image", "--model", KNOWN.name, "--size", "64", "--prompt", "x", "--out", "a.png"),
            how=how,
        )
        ran = pulling.wait()
        place.judge(ran, Right((FINE,), seconds=LIMIT_S), {})
        _check(place, hub, ran.out)
        right = Right((FINE, ERROR), whole=("a.png",), seconds=LIMIT_S)
        place.judge(session.wait(), right, {})
