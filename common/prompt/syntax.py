"""Parse prompts: plain text, a weighted blend, a bank of stops, and lists of prompts.

    an oil painting                                plain text
    (oil painting:1.3) and (neon city:0.7)         a blend of two prompts, weights 1.3 and 0.7
    a sketch >> (ink:2) and (neon:1) >> pop art    a bank: a path of two or more stops
    a sketch >> pop art @ 0.3                      a bank, at 0.3 of the way to its second stop
    a >> b // c >> d @ 0.3 0.7                     a pad of two to four corners: those above, those
                                                   below; its place across and down
    a harbour <lora:ink:0.8>                       with the LoRA of this name at this weight

A weight is the share of one part among the others. It is above 0, and a single part has none. A
backslash inside parentheses escapes `( ) : \\`. A single part without a weight, `a portrait (oil)`,
is plain text, and so is `//` where nothing has a `>>`. `blend.py` computes blends and positions in
a bank, `pad.py` those on a pad. A LoRA belongs to a stop; between two stops its weight is on the
way, too (`adapt/mix.py`).
"""

import math
import re
import unicodedata
from dataclasses import dataclass, replace

from ..errors import UsageError, reason
from ..files import expanded

GALLERY = (
    "an oil painting",
    "a watercolor painting",
    "a pencil sketch",
    "neon cyberpunk city",
    "anime style",
    "an HDR photograph",
    "impressionist painting",
    "dark fantasy",
    "ukiyo-e woodblock print",
    "pop art",
)
KEYED = 9  # prompts that the keys 1 to 9 select
ARROW, PLACE = ">>", "@"
MOST_ABREAST = 2  # prompts in a row of a pad
_ROWS = re.compile(r"(?<!\S)//(?!\S)")
_LARGEST_WEIGHT = 100.0
_WEIGHTED = re.compile(r"(?<!\\):\s*[-+]?[\d.,]+\s*\)|\)\s+and\s+\(")
_PART = re.compile(r"\(((?:\\.|[^\\():])*)(?::([^()\\]*))?\)")
_AND = re.compile(r"\s+and\s+")
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")
# What other programs take for an instruction, as they write it.
_ELSEWHERE = {
    "BREAK": re.compile(r"\bBREAK\b"),
    "[a:b:.5]": re.compile(r"\[[^\[\]:]*:[^\[\]:]*:\s*[\d.]+\s*\]"),
    "{a|b}": re.compile(r"\{[^{}|]*\|[^{}]*\}"),
}
_LORA = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)
_LORA_WEIGHT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)")
_LARGEST_LORA = 10.0
MOST_LIST_BYTES = 1 << 20  # of a file of prompts


@dataclass(frozen=True, slots=True)
class Part:
    """Hold a text, its share of a blend, and the LoRAs of its stop: (name, weight)."""

    text: str
    weight: float = 1.0
    loras: tuple[tuple[str, float], ...] = ()


Blend = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """Hold the stops of a bank and a position among them, 0 to len(stops) - 1.

    A plain prompt or a blend has one stop. below: the lower corners of a pad, whose `stops` are the
    upper ones; position_y: the place between both, 0 to 1.
    """

    stops: tuple[Blend, ...]
    position: float = 0.0
    below: tuple[Blend, ...] = ()
    position_y: float = 0.0

    @property
    def corners(self) -> tuple[Blend, ...]:
        """Every stop: those of a bank, or those above and then those below of a pad."""
        return (*self.stops, *self.below)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to encode."""
        return tuple(part.text for stop in self.corners for part in stop)

    @property
    def last(self) -> int:
        """The largest position."""
        return max(len(self.stops), len(self.below)) - 1


def parse_prompt(text: str) -> ParsedPrompt:
    """Parse one prompt. Raises UsageError that quotes the syntax error."""
    if ARROW not in text:
        return ParsedPrompt((_blend(text),))
    path, place = text, ""
    if has_place := PLACE in text[text.rindex(ARROW) :]:
        path, _, place = text.rpartition(PLACE)
    rows = [[piece.strip() for piece in row.split(ARROW)] for row in _ROWS.split(path)]
    _check_rows(text, rows)
    places = [float(each) if _NUMBER.fullmatch(each) else math.nan for each in place.split()]
    if has_place and (not 1 <= len(places) <= len(rows) or any(map(math.isnan, places))):
        expected = "the place between the stops, such as @ 0.5"
        if len(rows) > 1:
            expected = "the place across and down, such as @ 0.3 0.7"
        raise _malformed(text, f"{place.strip()[:20]!r} after '@'", expected)
    across, down = [*places, 0.0, 0.0][:2]
    stops, below = (tuple(map(_blend, row)) for row in [*rows, []][:2])
    parsed = ParsedPrompt(stops, across, below, down)
    if across > parsed.last:
        raise _malformed(text, f"@ {across:g}", f"0 to {parsed.last}, the number of the last stop")
    if down > 1:
        raise _malformed(text, f"@ {across:g} {down:g}", "0 to 1 down a pad")
    return parsed


def _check_rows(prompt: str, rows: list[list[str]]) -> None:
    """Refuse what is neither a bank, of one row, nor a pad, of two with one or two prompts each."""
    if not all(all(row) for row in rows):
        mark = "'>>'" if len(rows) == 1 else "'>>' or '//'"
        raise _malformed(prompt, f"nothing before or after {mark}", "a prompt on both sides")
    widest = max(map(len, rows))
    if len(rows) > 2 or (len(rows) == 2 and widest > MOST_ABREAST):
        raise _malformed(
            prompt,
            f"a pad of {len(rows)} rows, the widest of {widest} prompts",
            f"two rows of {MOST_ABREAST} prompts at most, 'a >> b // c >> d'",
        )


def split_place(text: str) -> tuple[str, float, float]:
    """Split a bank or a pad into its text and its place; any other prompt is at 0, 0.

    Raises UsageError.
    """
    parsed = parse_prompt(text)
    if not parsed.last or PLACE not in text[text.rindex(ARROW) :]:
        return text, 0.0, 0.0
    return text.rpartition(PLACE)[0].rstrip(), parsed.position, parsed.position_y


def with_place(bank: str, position: float, position_y: float = 0.0) -> str:
    """Append a place to a bank or a pad without one; omit what is 0 at its end."""
    if position_y:
        return f"{bank} {PLACE} {position:g} {position_y:g}"
    return f"{bank} {PLACE} {position:g}" if position else bank


def _blend(text: str) -> Blend:
    """Parse one stop, and take the LoRAs out of it."""
    rest, loras = _take_loras(text)
    parts = _parts(rest)
    return tuple(replace(part, loras=loras) for part in parts) if loras else parts


def _take_loras(text: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    loras: dict[str, float] = {}
    for match in _LORA.finditer(text):
        name, colon, weight = match[1].partition(":")
        right = _LORA_WEIGHT.fullmatch(weight.strip()) if colon else True
        if not name.strip() or not right or (colon and abs(float(weight)) > _LARGEST_LORA):
            raise _malformed(
                text,
                match[0][:40],
                f"<lora:NAME:WEIGHT> with a number from -{_LARGEST_LORA:g} to {_LARGEST_LORA:g}",
            )
        loras[name.strip()] = float(weight) if colon else 1.0
    rest = " ".join(_LORA.sub(" ", text).split()) if loras else text
    if "<lora:" in rest.lower():
        raise _malformed(text, "'<lora:' without its end", "<lora:NAME:WEIGHT>, and a space behind")
    return rest, tuple(loras.items())


def _parts(text: str) -> Blend:
    if not _WEIGHTED.search(text):
        return (Part(text),)
    parts: list[Part] = []
    place = 0
    text = text.strip()
    while True:
        part = _PART.match(text, place)
        if part is None:
            raise _malformed(
                text,
                repr(text[place : place + 30]),
                "(TEXT:WEIGHT), with \\ before ( ) : in a text",
            )
        parts.append(_part(text, part[1], part[2]))
        place = part.end()
        if place == len(text):
            break
        joint = _AND.match(text, place)
        if joint is None:
            raise _malformed(
                text, repr(text[place : place + 30]), "' and ' between two parts, or the end"
            )
        place = joint.end()
    if len(parts) == 1 and parts[0].weight != 1:
        raise _malformed(
            text,
            f"one part of weight {parts[0].weight:g}",
            "two parts or more: a weight is a share beside others",
        )
    return tuple(parts)


def _part(prompt: str, written: str, weight: str | None) -> Part:
    text = re.sub(r"\\(.)", r"\1", _stripped(written))
    if not text:
        raise _malformed(prompt, "a part without text", "(TEXT:WEIGHT)")
    if weight is None:
        return Part(text)
    weight = weight.strip()
    if weight.startswith("-") or (_NUMBER.fullmatch(weight) and float(weight) == 0):
        raise _malformed(
            prompt,
            f"weight {' '.join(weight.split())[:20]}",
            "a number above 0; a distilled model has no negative prompts, "
            "leave the part out instead",
        )
    if not _NUMBER.fullmatch(weight) or not float(weight) <= _LARGEST_WEIGHT:
        raise _malformed(
            prompt,
            f"weight {weight[:20]!r}",
            f"a number above 0, at most {_LARGEST_WEIGHT:g}, such as 1.3",
        )
    return Part(text, float(weight))


def _stripped(written: str) -> str:
    """Strip white space; one that a backslash escapes stays."""
    text = written.strip()
    if (len(text) - len(text.rstrip("\\"))) % 2:
        text += written.lstrip()[len(text) :][:1]
    return text


def foreign_syntax(text: str) -> tuple[str, ...]:
    """Return what of a prompt is an instruction to other programs, and words to this one."""
    return tuple(name for name, pattern in _ELSEWHERE.items() if pattern.search(text))


def _malformed(prompt: str, found: str, expected: str) -> UsageError:
    return UsageError(
        f"prompt {prompt[:60]!r}: found {found}, expected {expected}; blends are written "
        "'(oil painting:1.3) and (neon:0.7)', banks 'a sketch >> pop art @ 0.5', pads "
        "'a >> b // c >> d @ 0.3 0.7'"
    )


def read_prompts(name: str) -> tuple[str, ...]:
    """Read prompts from a text file, or return the gallery.

    name: 'gallery', or a path. A file holds one prompt per line, as UTF-8 with or without a byte
    order mark; a line that starts with '#' is a comment. Raises UsageError.
    """
    if name == "gallery":
        return GALLERY
    try:
        with expanded(name).open("rb") as file:
            stored = file.read(MOST_LIST_BYTES + 1)
        lines = stored.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(
            f"--prompts {name}: is not UTF-8 text; save it as UTF-8, or name 'gallery'"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--prompts {name}: not readable ({reason(error)}); expected 'gallery' or a text file"
        ) from None
    if len(stored) > MOST_LIST_BYTES or any(
        unicodedata.category(character) == "Cc" and character != "\t"
        for line in lines
        for character in line
    ):
        raise UsageError(
            f"--prompts {name}: is not a list of prompts; expected 'gallery' or a text file of at "
            f"most {MOST_LIST_BYTES >> 20} MB with one prompt per line"
        )
    prompts = tuple(text for line in lines if (text := line.strip()) and text[0] != "#")
    if not prompts:
        raise UsageError(f"--prompts {name}: holds no prompt; write one per line")
    return prompts


def read_seconds(option: str, text: str) -> float:
    """Parse a time such as '2s', '500ms' or '2' into seconds. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|ms|)\s*", text)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else math.inf
    if not seconds <= 3600:
        raise UsageError(f"{option} {text}: expected a time of at most an hour: 2s or 500ms")
    return seconds


def refuse_negative(text: str, model: str) -> None:
    """Raise UsageError for a negative prompt: these models run without classifier-free guidance."""
    if text:
        raise UsageError(
            f"--negative-prompt {text[:40]!r}: {model} renders a frame in one pass without "
            "classifier-free guidance, which a negative prompt needs (distilled models have the "
            "guidance trained in); describe the wanted picture in --prompt, or give a part a "
            "larger weight: '(clean lines:1.5) and (ink:1)'"
        )
