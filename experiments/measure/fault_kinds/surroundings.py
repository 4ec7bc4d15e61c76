"""Faults of the surroundings: environment, descriptors, folders that are gone, system limits."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from random import Random

from .checkpoints import EITHER, REFUSED
from .damage import write
from .fault import ERROR, FINE, Case, Right, kind
from .media import BASE
from .place import NOBODY, How, Place

ABSENT = "/nonexistent/place"


@kind("environments")
def environments(draw: Random) -> Iterator[Case]:
    """No home, a cache that is a file or shut, odd terminals: nothing fails for it."""
    for what, given in (
        ("HOME is not set", {"HOME": None}),
        ("HOME is not there", {"HOME": ABSENT}),
        ("HOME is empty", {"HOME": ""}),
        ("neither HOME nor XDG_CACHE_HOME is set", {"HOME": None, "XDG_CACHE_HOME": None}),
        ("HOME and XDG_CACHE_HOME are not there", {"HOME": ABSENT, "XDG_CACHE_HOME": ABSENT}),
        ("XDG_CACHE_HOME is a file", {"XDG_CACHE_HOME": "{file}"}),
        ("XDG_CACHE_HOME is relative", {"XDG_CACHE_HOME": "here"}),
        ("XDG_CACHE_HOME may not be written", {"XDG_CACHE_HOME": "{shut}"}),
        ("SDXS_WEIGHTS is a file", {"SDXS_WEIGHTS": "{file}"}),
        ("SDXS_WEIGHTS is not there", {"SDXS_WEIGHTS": ABSENT}),
        ("SDXS_WEIGHTS is of a user who is not here", {"SDXS_WEIGHTS": "~nobody-here/w"}),
        ("TMPDIR is not there", {"TMPDIR": ABSENT}),
        ("PATH is empty", {"PATH": ""}),
        ("an ASCII terminal", {"LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
        ("a Latin-1 terminal", {"PYTHONIOENCODING": "latin-1"}),
        ("COLUMNS is 1", {"COLUMNS": "1"}),
        ("COLUMNS is no number", {"COLUMNS": "banana"}),
        ("OPENBLAS_NUM_THREADS is no number", {"OPENBLAS_NUM_THREADS": "banana"}),
        ("Python's optimisation", {"PYTHONOPTIMIZE": "2"}),
        ("Python in development mode", {"PYTHONDEVMODE": "1"}),
    ):
        for command in draw.sample(("image", "live"), 1):
            yield f"{what}: {command}", partial(_environment, given=given, command=command)


def _command(place: Place, command: str) -> tuple[tuple[str, ...], str]:
    model = ("--model", str(place.samples.tiny), "--size", "64")
    if command == "image":
        source = ("--input", str(place.samples.cat))
        return ("image", *model, "--prompt", "a café 🎨", *source, "--out", "a.png"), "a.png"
    source = ("--source", "synthetic", "--frames", "3", "--headless", "--prompt", "a café 🎨")
    return ("live", *model, *source, "--out", "a.mp4"), "a.mp4"


def _environment(place: Place, given: Mapping[str, str | None], command: str) -> None:
    write(place.base / "file", "x")
    shut = place.base / "shut"
    shut.mkdir()
    shut.chmod(0o555)
    names = {"file": str(place.base / "file"), "shut": str(shut)}
    filled = {key: value and value.format(**names) for key, value in given.items()}
    arguments, name = _command(place, command)
    how = How(environment=filled, lacks={"mortal": True})
    place.sdxs(*arguments, right=Right((FINE,), whole=(name,)), how=how)


@kind("descriptors and folders that are gone")
def descriptors(draw: Random) -> Iterator[Case]:
    """Closed or full standard streams, a working folder that is removed under the command."""
    for what, lacks in (
        ("stdin is closed", {"close": [0]}),
        ("stdout is closed", {"close": [1]}),
        ("stderr is closed", {"close": [2]}),
        ("stdin, stdout and stderr are closed", {"close": [0, 1, 2]}),
        ("stdout is full", {"full": [1]}),
        ("stderr is full", {"full": [2]}),
        ("stdout and stderr are full", {"full": [1, 2]}),
    ):
        for command in ("image", "live"):
            what_of = f"{what}: {command}"
            yield what_of, partial(_streams, lacks=lacks, command=command, name=what)
    yield "stdout is full: weights list", partial(_list, lacks={"full": [1]})
    yield "stdout is closed: weights list", partial(_list, lacks={"close": [1]})
    for command in ("image", "live", "weights verify"):
        yield f"the working folder is gone: {command}", partial(_gone, command=command)
    yield "stdout is a pipe that nobody reads: weights list", _broken_pipe


def _streams(place: Place, lacks: Mapping[str, object], command: str, name: str) -> None:
    arguments, out = _command(place, command)
    unheard = "stderr" in name
    full = "full" in name
    codes = EITHER if full else (FINE,)
    right = Right(codes, whole=(out,), silent=unheard or full)
    place.sdxs(*arguments, right=right, how=How(lacks=lacks))
    place.demand((place.folder / out).exists(), f"no {out}: the work of a command is lost")


def _list(place: Place, lacks: Mapping[str, object]) -> None:
    place.sdxs("weights", "list", right=Right(EITHER, seconds=15), how=How(lacks=lacks))


def _gone(place: Place, command: str) -> None:
    (place.folder / "gone").mkdir()
    arguments, name = _command(place, command.split()[0])
    if command == "weights verify":
        arguments = ("weights", "verify", str(place.samples.tiny))
    absolute = tuple(str(place.folder / each) if each == name else each for each in arguments)
    how = How(lacks={"gone": True}, folder="gone")
    place.sdxs(*absolute, right=Right((FINE,)), how=how)


def _broken_pipe(place: Place) -> None:
    program = ("-c", _HEAD)
    right = Right((FINE, ERROR, 141), silent=True, seconds=15)
    place.sdxs("weights", "list", right=right, how=How(program=program))


# Runs the command with its stdout in a pipe whose reader has gone.
_HEAD = """
import os, subprocess, sys
read, write = os.pipe()
os.close(read)
sys.exit(subprocess.run([sys.executable, "-m", "sdxs.cli", *sys.argv[1:]], stdout=write).returncode)
"""


@kind("limits of the system")
def limits(draw: Random) -> Iterator[Case]:
    """Few descriptors, threads, or little memory: an error in one line, in time, never a hang."""
    for _ in range(4):
        most = draw.randrange(8, 40)
        command = draw.choice(("image", "live"))
        yield (
            f"at most {most} descriptors: {command}",
            partial(_limited, limit={"NOFILE": most}, command=command),
        )
    for _ in range(4):
        more = draw.randrange(1, 9)
        command = draw.choice(("image", "live"))
        yield (
            f"at most {more} more threads and processes: {command}",
            partial(_limited, limit={"NPROC": more}, command=command),
        )
    for _ in range(4):
        after = draw.randrange(0, 7)
        command = draw.choice(("image", "live"))
        yield (
            f"Python starts {after} threads and no more: {command}",
            partial(_threadless, after=after, command=command),
        )
    for _ in range(4):
        mb = draw.randrange(500, 1600)
        command = draw.choice(("image", "live"))
        yield (
            f"at most {mb} MB of addresses: {command}",
            partial(_limited, limit={"AS": mb << 20}, command=command),
        )
    for size in ("16384", "65536", "262144x64"):
        yield f"image --size {size}", partial(_large, size=size)


def _limited(place: Place, limit: Mapping[str, int], command: str) -> None:
    arguments, name = _command(place, command)
    lacks: dict[str, object] = {"limits": dict(limit)}
    if "NPROC" in limit:
        lacks["user"] = NOBODY
    right = Right((FINE, ERROR), whole=(name,), seconds=20)
    place.sdxs(*arguments, right=right, how=How(lacks=lacks))


# Runs the command in a Python that starts so many threads and no more.
_FEW_THREADS = """
import sys, _thread, threading
left = int(sys.argv.pop(1))
def counted(start):
    def begin(*given, **named):
        global left
        if left <= 0:
            raise RuntimeError("can't start new thread")
        left -= 1
        return start(*given, **named)
    return begin
for name in ("_start_new_thread", "_start_joinable_thread"):
    if hasattr(threading, name):
        setattr(threading, name, counted(getattr(threading, name)))
from sdxs.cli import main
main()
"""


def _threadless(place: Place, after: int, command: str) -> None:
    arguments, name = _command(place, command)
    right = Right((FINE, ERROR), whole=(name,), seconds=20)
    how = How(program=("-c", _FEW_THREADS, str(after)))
    place.sdxs(*arguments, right=right, how=how)


def _large(place: Place, size: str) -> None:
    given = ("--model", str(place.samples.tiny), "--prompt", "x", "--out", "a.png")
    right = Right(REFUSED, says=size.split("x")[0], whole=("a.png",), seconds=20)
    place.sdxs("image", *given, "--size", size, right=right)


@kind("processes of a session")
def processes(draw: Random) -> Iterator[Case]:
    """A child that is stopped or killed, a parent that is killed, a fork after loading."""
    yield "the child of --isolate is killed", partial(_child, act="kill")
    yield "the child of --isolate is stopped, its parent killed", partial(_child, act="orphan")
    yield "the parent of --isolate is killed", partial(_child, act="parent")
    yield "a fork after a model was opened", _forked
    yield "the child that writes a film is killed", _writer_killed


def _child(place: Place, act: str) -> None:
    command = place.start(
        *("live", "--model", str(place.samples.tiny), "--isolate", "--backend", "mlx"),
        *("--size", "64", "--prompt", "x", "--headless", "--source", "synthetic"),
        *("--frames", "100000", "--out", "a.mp4"),
    )
    while "frame " not in command.err() and not command.ended():
        command.pause()
    children = command.children()
    place.demand(bool(children), "no child was found")
    if act == "kill":
        backend = [each for each in children if "film" not in each[1]]
        for pid, _ in backend[-1:]:
            os.kill(pid, 9)
        right = Right((ERROR,), whole=("a.mp4",), seconds=30)
    else:
        if act == "orphan":
            for pid, _ in children:
                os.kill(pid, 19)
        command.send(9)
        right = Right((137,), leaves=True)
    place.judge(command.wait(), right, {})


def _writer_killed(place: Place) -> None:
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "synthetic"),
        *("--frames", "100000", "--out", "a.mp4"),
    )
    while "frame " not in command.err() and not command.ended():
        command.pause()
    for pid, _ in command.children()[-1:]:
        os.kill(pid, 9)
    right = Right((FINE, ERROR), whole=(), seconds=40)
    place.judge(command.wait(), right, {})


# Opens a model and forks; the child says what it got, within its time.
_FORK = """
import os, signal, sys
import numpy as np
from sdxs.api import open_model
from sdxs.common.errors import SdxsError
model = open_model(sys.argv[1], "mlx", 64)
frame = np.zeros((64, 64, 3), np.uint8)
model(frame, "x")
if os.fork():
    _, status = os.wait()
    model(frame, "x")
    model.close()
    sys.exit(os.waitstatus_to_exitcode(status) % 256)
signal.alarm(10)
try:
    model(frame, "y")
except SdxsError as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)
os._exit(0)
"""


def _forked(place: Place) -> None:
    how = How(program=("-c", _FORK))
    right = Right((ERROR,), says="fork", seconds=20)
    place.sdxs(str(place.samples.tiny), right=right, how=how)
