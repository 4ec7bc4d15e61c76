"""Judge what a command did about a fault: from its code, its words, and what lies there after it.

Nothing is forgiven: a traceback, a hang, a signal of its own, a success that is none, an earlier
file that is gone, a partial file that stays.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from safetensors import safe_open

from .fault import FINE, Ran, Right

CRASHES = (
    "Traceback",
    "Fatal Python error",
    "terminate called",
    "Segmentation",
    "core dumped",
    "Exception ignored",
    "leaked",
    "libc++abi",
    "pthread_create failed",
)
# Names of what went wrong inside stand for no message.
BARE = re.compile(
    r"^(\(|<|\w*(Error|Exception)\b[:(]|\[Errno)|object at 0x|NoneType|<class |\[Errno "
)
REMEDY = re.compile(
    r"\b(use|add|get|measure|record|repair|name|drop|expected|delete|free|run|choose|pull|write|check|install|set|give|"
    r"close|connect|see|try|copy|make|create|shorten|update|open|reinstall|raise|lower|export|"
    r"convert|download|replace|remove|move|save|start|wait|allow|expects?|accepts?|needs?|takes?|"
    r"known are|reads? up to|possible|end|stop|correct|quote|spell|repeat|type|again)\b",
    re.IGNORECASE,
)
READ_FILM = Path(__file__).with_name("read_film.py")
LEAST_WORDS = 5
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")


def complaints(ran: Ran, right: Right, folder: Path, before: Mapping[str, str]) -> list[str]:
    """Say what is wrong with what a command did; nothing where the fault is survived.

    before: hashes of the files in `folder` before the command, by name relative to it, from
    `fingerprints`.
    """
    after = fingerprints(folder)
    return [
        *_of_its_end(ran, right),
        *(() if right.silent else _of_its_words(ran, right)),
        *_of_claims(ran, folder),
        *_of_files(ran, right, folder, before, after),
    ]


def _of_its_end(ran: Ran, right: Right) -> list[str]:
    found = []
    if ran.code is None:
        found.append(f"hung: no end within {right.seconds:g} s")
    elif ran.code < 0 and -ran.code not in ran.sent:
        found.append(f"died of signal {-ran.code}")
    elif not ({ran.code, 128 - ran.code} & {*right.codes}):  # of a signal: 128 and its number
        found.append(f"exit code {ran.code}, expected {' or '.join(map(str, right.codes))}")
    if ran.seconds > right.seconds and ran.code is not None:
        found.append(f"took {ran.seconds:.1f} s, at most {right.seconds:g}")
    if ran.peak_mb > right.mb:
        found.append(f"took {ran.peak_mb:.0f} MB, at most {right.mb:g}")
    if ran.left_running:
        found.append("left a process running")
    return found


def _of_its_words(ran: Ran, right: Right) -> list[str]:
    said = ran.out + ran.err
    found = [f"said {crash!r}" for crash in CRASHES if crash in said]
    errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
    damaged = [line for line in ran.out.splitlines() if line.startswith("damaged")]
    if ran.code == FINE and errors:
        found.append("an error line, and exit code 0")
    if ran.code is None or ran.code == FINE or ran.code in ran.sent:
        return found
    if ran.code < 0 or ran.code > 128:  # of a signal: nothing need be said
        return found
    if len(errors) != 1:
        return [*found, f"{len(errors)} error lines, expected one"]
    return [
        *found,
        *(wrong for line in damaged or errors for wrong in line_complaints(line, right)),
    ]


def line_complaints(line: str, right: Right) -> list[str]:
    """Say what is wrong with an error line: it names what and where, and a remedy."""
    text = line.partition(":")[2] if line.startswith("error:") else line[len("damaged") :]
    text = text.strip()
    found = []
    if not text:
        return ["an empty error line"]
    if BARE.search(text):
        found.append(f"a bare error: {text[:80]}")
    if len(text.split()) < LEAST_WORDS:
        found.append(f"an error line of {len(text.split())} words")
    if not REMEDY.search(text):
        found.append("an error line without a remedy")
    if right.says and right.says not in text:
        found.append(f"an error line that does not name {right.says!r}")
    return found


def _of_claims(ran: Ran, folder: Path) -> list[str]:
    """What was said to be written lies there whole."""
    found = []
    for line in ran.out.splitlines():
        if match := re.match(r"wrote (.+?\.\w+|.+/)(:|$| \()", line):
            words = f"said {match[0]!r} over"
            found += _not_whole(_named(folder, match[1]), words, cut=ran.code != FINE)
        elif match := re.match(r"(.+\.safetensors): \d+ tensors, sha256 (\w{64});", line):
            path = _named(folder, match[1])
            if wrong := whole(path):
                found.append(f"said {match[1]} to be imported: {wrong}")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != match[2]:
                found.append(f"said a sha256 that {match[1]} has not")
    return found


def _named(folder: Path, name: str) -> Path:
    """Return the file of this name, or the one that a line of output shows so."""
    path = folder / name
    if path.exists():
        return path
    shown = ((each, os.fsencode(each.name).decode("utf-8", "replace")) for each in folder.iterdir())
    return next((each for each, text in shown if text.rpartition("\n")[2] == name), path)


def _not_whole(path: Path, words: str, cut: bool = False) -> list[str]:
    wrong = whole(path, cut)
    return [f"{words} a file that is not whole: {wrong}"] if wrong else []


def _of_files(
    ran: Ran, right: Right, folder: Path, before: Mapping[str, str], after: Mapping[str, str]
) -> list[str]:
    found = []
    for name in right.whole:
        held = any(each == name or each.startswith(f"{name}/") for each in after)
        if not held and any(each == name for each in before):
            found.append(f"the earlier {name} is gone")
        elif not held and ran.code == FINE:
            found.append(f"success, and no {name}")
        elif held and after.get(name) != before.get(name):
            words = f"left in the place of {name}"
            found += _not_whole(folder / name, words, cut=ran.code != FINE)
        if (
            ran.code not in (FINE, None)
            and ran.code < 128
            and name in before
            and after.get(name, "") != before[name]
            and f"wrote {name}" not in ran.out
        ):
            found.append(f"a failure took the earlier {name}")
    found += [
        f"{name} was changed" for name in right.kept if after.get(name) != before.get(name, "")
    ]
    if not right.leaves and ran.code is not None:
        left = [n for n in after if n not in before and "partial" in n]
        found += [f"left {name} behind" for name in left]
    return found


def fingerprints(folder: Path) -> dict[str, str]:
    """Hash every file under a folder, by its name relative to it."""
    found = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:  # it cannot be read, or has just gone
            continue
    return found


def whole(path: Path, cut: bool = False) -> str:
    """Read a file back; say what is wrong with it, or nothing.

    Films decode to their end, pictures open, safetensors and JSON parse. Of a folder each file.
    cut: a film may end within a frame, as what is kept of a recording that failed.
    """
    try:
        if path.is_dir():
            held = [each for each in path.iterdir() if not each.name.startswith(".")]
            return next(filter(None, map(whole, held)), "" if held else "an empty folder")
        if not path.exists():
            return "not there"
        suffix = path.suffix.lower()
        if suffix in PICTURES:
            with warnings.catch_warnings(), Image.open(path) as picture:
                warnings.simplefilter("ignore")
                picture.load()
        elif suffix in FILMS:
            return _film(path, cut)
        elif suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    file.get_tensor(name)
        elif suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif not path.stat().st_size:
            return "empty"
    except Exception as error:  # whatever a reader says of it
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def _film(path: Path, cut: bool) -> str:
    command = [os.fsencode(each) for each in (sys.executable, "-I", READ_FILM, path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    frames, wrong, *_ = ran.stdout.split("\n")
    if wrong and not (cut and int(frames)):
        return wrong
    return "" if int(frames) else "no frame"
