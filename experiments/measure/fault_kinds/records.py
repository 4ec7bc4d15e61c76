"""Faults of JSON that sdxs wrote and reads again: records inside PNGs, reports of `bench`."""

import json
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from random import Random

from PIL import Image

from ....api.repeat import repeat_still
from ....api.still import read_record
from ....common.picture.png_text import with_text
from ....common.picture.record import KEYWORD
from .damage import NOT_JSON, flipped, odd_json, replaced, shown, write
from .fault import ERROR, FINE, USAGE, Case, Right, kind
from .place import Place

EITHER = (FINE, ERROR, USAGE)
REFUSED = (ERROR, USAGE)


@kind("records in PNGs")
def records(draw: Random) -> Iterator[Case]:
    """Records of wrong types or a later version, no JSON; chunks damaged, or unpacking to much."""
    for number in range(16):
        yield f"something odd in it, {number + 1}", partial(_odd_record, by_command=number < 4)
    for text in draw.sample(NOT_JSON, 4):
        what = f"it is {text[:6]!r}, {len(text):,} characters"
        yield what, partial(_record, text=text, right=Right(says="a.png"))
    for key, value in (("schema", 99), ("schema", "1"), ("schema", 1.5), ("request", [])):
        yield f"{key} is {value}", partial(_record_with, key=key, value=value)
    for key, value in (
        ("seed", -1), ("seed", 2**70), ("size", 10**6), ("steps", 1e9), ("strength", "NaN"),
        ("prompt", {"a": 1}), ("control_scale", float("nan")), ("backend", "banana"),
        ("dtype", "float8"), ("fit", "bend"),
    ):  # fmt: skip
        yield f"request.{key} is {shown(value)}", partial(_request_with, key=key, value=value)
    for _ in range(3):
        share, bit = draw.random(), draw.randrange(8)
        yield (
            f"bit {bit} at {share:.1%} of the PNG is flipped",
            partial(_flip, share=share, bit=bit),
        )
    yield "a record that unpacks to 100 MB", _bomb
    yield "a picture without a record", _none


def _stored(place: Place) -> dict[str, object]:
    return read_record(place.samples.still)


def _put(place: Place, text: str) -> None:
    plain = place.folder / "a.png"
    Image.open(place.samples.still).save(plain)
    write(plain, with_text(plain.read_bytes(), KEYWORD, text))


def _repeat(place: Place, right: Right, by_command: bool = False) -> None:
    write(place.folder / "cat.png", place.samples.cat.read_bytes())
    place.checkpoint()
    if by_command:
        given = ("--model", "tiny", "--out", "b.png")
        place.sdxs("image", "--from-metadata", "a.png", *given, right=right)
        return

    def again() -> None:
        from ....api.repeat import Places

        places = Places(str(place.folder / "cat.png"), str(place.folder / "tiny"))
        repeat_still(place.folder / "a.png", places)

    place.call(again, right)


def _odd_record(place: Place, by_command: bool) -> None:
    what, text = odd_json(_stored(place), place.draw)
    place.note(what)
    _put(place, text)
    _repeat(place, Right(EITHER), by_command)


def _record(place: Place, text: str, right: Right) -> None:
    _put(place, text)
    _repeat(place, right)


def _record_with(place: Place, key: str, value: object) -> None:
    _put(place, json.dumps(replaced(_stored(place), (key,), value)))
    _repeat(place, Right(EITHER if value == 1.5 else REFUSED, says="a.png"))


def _request_with(place: Place, key: str, value: object) -> None:
    _put(place, json.dumps(replaced(_stored(place), ("request", key), value)))
    codes = EITHER if value == 2**70 else REFUSED
    _repeat(place, Right(codes, says=key if key not in ("fit",) else ""))


def _flip(place: Place, share: float, bit: int) -> None:
    write(place.folder / "a.png", flipped(place.samples.still.read_bytes(), share, bit))
    _repeat(place, Right(EITHER))


def _bomb(place: Place) -> None:
    _put(place, "{}")
    content = KEYWORD.encode() + b"\0\1\0\0\0" + zlib.compress(bytes(100 << 20))
    chunk = struct.pack(">I", len(content)) + b"iTXt" + content
    plain = (place.folder / "a.png").read_bytes()
    made = plain[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + plain[33:]
    write(place.folder / "a.png", made)
    _repeat(place, Right(REFUSED, mb=100))


def _none(place: Place) -> None:
    write(place.folder / "a.png", place.samples.cat.read_bytes())
    _repeat(place, Right(REFUSED, says="a.png"), by_command=True)


@kind("reports of bench")
def reports(draw: Random) -> Iterator[Case]:
    """Reports that are damaged, of other types, NaN, or cut short: compared, or refused."""
    for number in range(14):
        show = number % 4 == 3
        yield f"something odd in it, {number + 1}", partial(_odd_report, show=show)
    for text in draw.sample(NOT_JSON, 5):
        what = f"it is {text[:6]!r}, {len(text):,} characters"
        yield what, partial(_report, text=text, right=Right(REFUSED, says="a.json"))
    nan = float("nan")
    for at, value in (
        (("schema",), 99),
        (("backends",), []),
        (("backends", 0, "rounds", 0, "frame_ms"), [nan] * 3),
        (("backends", 0, "rounds", 0, "frame_ms"), []),
        (("backends", 0, "rounds", 0, "frame_ms"), [-1.0, -2.0]),
        (("backends", 0, "rounds"), []),
        (("backends", 0, "summary", "median"), nan),
    ):
        what = f"{'.'.join(map(str, at))} is {shown(value)}"
        yield what, partial(_report_with, at=at, value=value)
    yield "an interrupted run is marked", _interrupted
    yield "a file that is not there", partial(_compare, right=Right(REFUSED, says="a.json"))


def _compare(place: Place, right: Right, show: bool = False) -> str:
    write(place.folder / "b.json", place.samples.report.read_bytes())
    given = ("--show", "a.json") if show else ("--compare", "b.json", "a.json")
    return place.sdxs("bench", *given, right=right).out


def _odd_report(place: Place, show: bool) -> None:
    what, text = odd_json(json.loads(place.samples.report.read_text()), place.draw)
    place.note(what)
    write(place.folder / "a.json", text)
    _compare(place, Right(EITHER), show)


def _report(place: Place, text: str, right: Right) -> None:
    write(place.folder / "a.json", text)
    _compare(place, right)


def _report_with(place: Place, at: tuple[object, ...], value: object) -> None:
    sound = json.loads(place.samples.report.read_text())
    write(place.folder / "a.json", json.dumps(replaced(sound, at, value)))
    said = _compare(place, Right(EITHER))
    place.demand("slower" not in said and "faster" not in said, "judged slower or faster")


def _interrupted(place: Place) -> None:
    sound = json.loads(place.samples.report.read_text())
    changed = sound | {"complete": False, "ended": "interrupted"}
    write(place.folder / "a.json", json.dumps(changed))
    said = _compare(place, Right((FINE,)))
    place.demand("a.json" in said or "interrupted" in said, "nothing says that it was interrupted")
