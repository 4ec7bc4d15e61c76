"""Faults of time: signals at drawn moments, a killed writer and the run after it, two at once."""

import shutil
import signal
from collections.abc import Iterator
from functools import partial
from random import Random

from .damage import write
from .fault import ERROR, FINE, Case, Right, kind
from .media import BASE
from .pickles import SOUND, packed
from .place import How, Place

INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
LONG = ("--source", "synthetic", "--frames", "100000000")
SESSION = "source synthetic"  # is said when a session begins
# Before Python has read our first line, an interrupt is its own affair.
STARTED_S = 0.6


def _code(number: int) -> int:
    return 128 + number


@kind("signals in a session")
def sessions(draw: Random) -> Iterator[Case]:
    """Ctrl-C, SIGTERM and a closed terminal, once and twice: the recording is finished."""
    for number in (INT, TERM, HUP):
        for where in ("loading", "rendering"):
            after = round(draw.uniform(STARTED_S, 1.5) if where == "loading" else 0.0, 3)
            name = draw.choice(("a.mp4", "a.mkv", "out/"))
            what = f"{number.name} while {where}, to {name}"
            yield what, partial(_interrupted, signals=(number,), after_s=after, name=name)
    for pause in (0.002, round(draw.uniform(0.01, 0.4), 3)):
        what = f"SIGINT twice within {pause * 1000:g} ms"
        yield (
            what,
            partial(_interrupted, signals=(INT, INT), after_s=0.0, name="a.mp4", pause=pause),
        )
    yield (
        "SIGHUP and SIGTERM at once",
        partial(_interrupted, signals=(HUP, TERM), after_s=0.0, name="a.mp4", pause=0.001),
    )
    yield "SIGHUP under nohup", _nohup
    yield (
        "SIGINT over an earlier film",
        partial(_interrupted, signals=(INT,), after_s=0.0, name="a.mp4", over=True),
    )
    yield "SIGTSTP, and SIGCONT after 3 s", _paused


def _interrupted(
    place: Place,
    signals: tuple[int, ...],
    after_s: float,
    name: str,
    pause: float = 0.0,
    over: bool = False,
) -> None:
    if over:
        shutil.copyfile(place.samples.film, place.folder / name)
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, *LONG, "--out", name)
    )
    moment: float | str = after_s or SESSION
    # A while after the session began, so that there are frames.
    command.schedule([(moment, 0.0 if after_s else 0.7, signals[0])])
    command.schedule([(moment, (0.0 if after_s else 0.7) + pause, each) for each in signals[1:]])
    before = {name: ""} if over else {}
    ran = command.wait()
    whole = (name.rstrip("/"),) if not after_s else ()
    codes = tuple(_code(each) for each in signals)
    place.judge(ran, Right(codes, whole=whole, seconds=20), before)
    there = place.folder / name
    place.demand(after_s > 0 or there.exists(), "the recording is lost")


def _nohup(place: Place) -> None:
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "synthetic"),
        *("--frames", "3000", "--out", "a.mp4"),
        how=How(lacks={"ignore": ["SIGHUP"]}),
    )
    command.schedule([(SESSION, 0.3, HUP)])
    place.judge(command.wait(), Right((FINE,), whole=("a.mp4",)), {})


def _paused(place: Place) -> None:
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "synthetic"),
        *("--frames", "3000", "--out", "a.mp4"),
    )
    command.schedule([(SESSION, 0.3, signal.SIGSTOP), (SESSION, 3.3, signal.SIGCONT)])
    place.judge(command.wait(), Right((FINE,), whole=("a.mp4",)), {})


@kind("signals in other commands")
def commands(draw: Random) -> Iterator[Case]:
    """An interrupt while a picture is painted, a pickle imported, a program built."""
    given: dict[str, tuple[str, ...]] = {
        "image": ("image", "--prompt", "x", "--out", "a.png", "--size", "512"),
        "import": ("weights", "import", "a.bin"),
        "convert": ("convert", "--size", "64"),
        "bench": ("bench", "--backend", "identity", "--size", "64", "--json", "a.json"),
        "verify": ("weights", "verify"),
    }
    for name, arguments in given.items():
        for number in draw.sample((INT, TERM, HUP), 2):
            after = round(draw.uniform(STARTED_S, 2.5), 3)
            what = f"{number.name} after {after:.2f} s of {name}"
            yield what, partial(_command, given=arguments, number=number, after_s=after)


def _command(place: Place, given: tuple[str, ...], number: int, after_s: float) -> None:
    write(place.folder / "a.bin", packed(SOUND))
    place.checkpoint()
    model = () if given[0] == "weights" else ("--model", "tiny")
    more = ("tiny",) if given[-1] == "verify" else ()
    command = place.start(*given, *model, *more, how=How(signals=((after_s, number),)))
    ran = command.wait()
    # The command may have ended before the signal came.
    right = Right((FINE, _code(number)), seconds=60)
    place.judge(ran, right, {"a.bin": ""})


@kind("a killed writer and the run after it")
def killed(draw: Random) -> Iterator[Case]:
    """SIGKILL under way: the earlier file stays, and the next run works and tidies up."""
    for number in range(4):
        after = round(draw.uniform(0.1, 1.5), 3)
        name = ("a.mp4", "a.mkv", "a.mp4", "out/")[number]
        what = f"a session {after:.2f} s after it began, to {name}"
        yield what, partial(_killed_session, after_s=after, name=name)
    for given in (
        ("image", "--prompt", "x", "--out", "a.png", "--size", "512", "--force"),
        ("weights", "import", "a.bin", "--force"),
        ("convert", "--size", "64"),
    ):
        after = round(draw.uniform(0.8, 3.0), 3)
        what = f"{' '.join(given[:2])} after {after:.2f} s"
        yield what, partial(_killed_command, given=given, after_s=after)


def _killed_session(place: Place, after_s: float, name: str) -> None:
    film = name.endswith(("mp4", "mkv"))
    if film:
        shutil.copyfile(place.samples.film, place.folder / name)
    before = place.fingerprints()
    session = ("live", "--model", str(place.samples.tiny), *BASE, "--out", name)
    command = place.start(*session, *LONG)
    command.schedule([(SESSION, after_s, KILL)])
    kept = (name,) if film else ()
    place.judge(command.wait(), Right((_code(KILL),), kept=kept, leaves=True), before)
    if not film:
        place.demand(_whole_folder(place, name), "a picture in the folder is not whole")
        return
    again = ("--source", "synthetic", "--frames", "5")
    place.sdxs(*session, *again, right=Right((FINE,), whole=(name,)))
    left = [each for each in place.fingerprints() if "partial" in each]
    place.demand(not left, f"the next run leaves {', '.join(left)}")


def _whole_folder(place: Place, name: str) -> bool:
    from .judge import whole

    folder = place.folder / name
    return not folder.exists() or not whole(folder)


def _killed_command(place: Place, given: tuple[str, ...], after_s: float) -> None:
    write(place.folder / "a.bin", packed(SOUND))
    place.checkpoint()
    model = () if given[0] == "weights" else ("--model", "tiny")
    command = place.start(*given, *model, how=How(signals=((after_s, KILL),)))
    right = Right((FINE, _code(KILL)), whole=(), leaves=True)
    place.judge(command.wait(), right, {"a.bin": ""})
    place.sdxs(*given, *model, right=Right((FINE,), seconds=90), how=How(limit_s=90))
    left = [each for each in place.fingerprints() if "partial" in each]
    left += [each.name for each in (place.base / "weights").rglob("*partial*")]
    place.demand(not left, f"the next run leaves {', '.join(left)}")


@kind("two commands at once")
def together(draw: Random) -> Iterator[Case]:
    """Two recordings to one name, two pictures, two conversions; each says what is true."""
    for name in ("a.mp4", "a.mkv", "a.png"):
        yield f"two sessions to {name}", partial(_two_sessions, name=name)
    yield "two pictures to one name", _two_pictures
    yield "two conversions of one checkpoint", _two_conversions
    yield "two first uses of one prompt", _two_prompts
    for number in range(2):
        after = round(draw.uniform(0.5, 2.0), 3)
        what = f"two imports, one killed after {after:.2f} s, {number + 1}"
        yield what, partial(_import_beside_killed, after_s=after)
    yield "a session while its checkpoint is verified", _beside_verify


def _both(place: Place, one: tuple[str, ...], other: tuple[str, ...], right: Right) -> None:
    how = How(limit_s=90)
    commands = [place.start(*given, how=how) for given in (one, other)]
    rans = [command.wait() for command in commands]
    for ran in rans:
        place.judge(ran, right, {name: "" for name in right.whole})


def _two_sessions(place: Place, name: str) -> None:
    session = ("live", "--model", str(place.samples.tiny), *BASE, "--source", "synthetic")
    given = (*session, "--frames", "60", "--out", name)
    _both(place, given, given, Right((FINE, ERROR), whole=(name,)))


def _two_pictures(place: Place) -> None:
    given = (
        "image",
        "--model",
        str(place.samples.tiny),
        "--prompt",
        "x",
        "--out",
        "a.png",
        "--force",
    )
    _both(place, given, given, Right((FINE,), whole=("a.png",)))


def _two_conversions(place: Place) -> None:
    place.checkpoint()
    given = ("convert", "--model", "tiny", "--size", "64")
    _both(place, given, given, Right((FINE,), seconds=90))


def _two_prompts(place: Place) -> None:
    place.checkpoint()
    image = ("image", "--model", "tiny", "--prompt", "a new prompt")
    _both(place, (*image, "--out", "a.png"), (*image, "--out", "b.png"), Right((FINE,)))
    for name in ("a.png", "b.png"):
        place.demand((place.folder / name).exists(), f"no {name}")


def _import_beside_killed(place: Place, after_s: float) -> None:
    write(place.folder / "a.bin", packed(SOUND))
    given = ("weights", "import", "a.bin", "--force")
    first = place.start(*given, how=How(signals=((after_s, KILL),)))
    second = place.start(*given)
    first.wait()
    place.judge(second.wait(), Right((FINE,), whole=("a.safetensors",), leaves=True), {"a.bin": ""})


def _beside_verify(place: Place) -> None:
    place.checkpoint()
    session = ("live", "--model", "tiny", *BASE, "--source", "synthetic", "--frames", "60")
    _both(
        place,
        (*session, "--out", "a.mp4"),
        ("weights", "verify", "tiny"),
        Right((FINE,)),
    )
