"""Prompts as a user writes them: one text, a weighted blend, a bank to travel through, and lists
of them.

    an oil painting                              one text (oil painting:1.3) and (neon city:0.7)
    a blend: shares 1.3 and 0.7 of two prompts at once a sketch >> (ink:2) and (neon:1) >> pop art
    a bank: two or more stops to travel between a sketch >> pop art @ 0.3                    the
    same bank, three tenths on the way to the second stop

A weight says how much of a blend a prompt is beside the others, so it is above 0 and one alone
means nothing. Inside parentheses a backslash makes `( ) : \\` plain. Text in parentheses without a
weight and without another part, `a portrait (oil)`, is plain text. What a blend or a place in a
bank becomes is `embeddings.py`'s.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

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
KEYED = 9  # prompts that a key 1 to 9 leads to
ARROW, PLACE = ">>", "@"
_LARGEST_WEIGHT = 100.0
_WEIGHTED = re.compile(r"(?<!\\):\s*[-+]?[\d.,]+\s*\)|\)\s+and\s+\(")
_PART = re.compile(r"\(\s*((?:\\.|[^\\():])*?)\s*(?::\s*([^()\\]*?)\s*)?\)")
_AND = re.compile(r"\s+and\s+")
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


@dataclass(frozen=True, slots=True)
class Part:
    """A text and its share of a blend."""

    text: str
    weight: float = 1.0


Blend = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """Stops of a bank, one for a plain prompt, and where between them, 0 to len(stops) - 1."""

    stops: tuple[Blend, ...]
    position: float = 0.0

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that has to be encoded."""
        return tuple(part.text for stop in self.stops for part in stop)


def parse_prompt(text: str) -> ParsedPrompt:
    """Read one prompt. Raises UsageError that quotes the place where its syntax breaks."""
    if ARROW not in text:
        return ParsedPrompt((_blend(text),))
    path, position = text, 0.0
    if PLACE in text[text.rindex(ARROW) :]:
        path, _, place = text.rpartition(PLACE)
        if not _NUMBER.fullmatch(place.strip()):
            raise _malformed(
                text,
                f"{place.strip()[:20]!r} after '@'",
                "the place between the stops, such as @ 0.5",
            )
        position = float(place)
    pieces = [piece.strip() for piece in path.split(ARROW)]
    if not all(pieces):
        raise _malformed(text, "nothing before or after '>>'", "a prompt on both sides")
    if position > len(pieces) - 1:
        raise _malformed(
            text, f"@ {position:g}", f"0 to {len(pieces) - 1}, the number of the last stop"
        )
    return ParsedPrompt(tuple(_blend(piece) for piece in pieces), position)


def split_place(text: str) -> tuple[str, float]:
    """Return a bank without its place, and the place; for any other prompt its text and 0. Raises
    UsageError.
    """
    parsed = parse_prompt(text)
    if len(parsed.stops) == 1 or PLACE not in text[text.rindex(ARROW) :]:
        return text, 0.0
    return text.rpartition(PLACE)[0].rstrip(), parsed.position


def with_place(bank: str, position: float) -> str:
    """Write a bank that has no place with one; 0 needs none."""
    return f"{bank} {PLACE} {position:g}" if position else bank


def _blend(text: str) -> Blend:
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
    text = re.sub(r"\\(.)", r"\1", written)
    if not text:
        raise _malformed(prompt, "a part without text", "(TEXT:WEIGHT)")
    if weight is None:
        return Part(text)
    if weight.startswith("-") or (_NUMBER.fullmatch(weight) and float(weight) == 0):
        raise _malformed(
            prompt,
            f"weight {weight}",
            "a number above 0; a distilled model cannot be told what not to paint, "
            "leave the part out instead",
        )
    if not _NUMBER.fullmatch(weight) or not float(weight) <= _LARGEST_WEIGHT:
        raise _malformed(
            prompt,
            f"weight {weight[:20]!r}",
            f"a number above 0, at most {_LARGEST_WEIGHT:g}, such as 1.3",
        )
    return Part(text, float(weight))


def _malformed(prompt: str, found: str, expected: str) -> UsageError:
    return UsageError(
        f"prompt {prompt[:60]!r}: found {found}, expected {expected}; blends are written "
        "'(oil painting:1.3) and (neon:0.7)', banks 'a sketch >> pop art @ 0.5'"
    )


def read_prompts(name: str) -> tuple[str, ...]:
    """'gallery', or the path of a text file with one prompt a line; '#' starts a comment. Raises
    UsageError.
    """
    if name == "gallery":
        return GALLERY
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--prompts {name}: not readable ({error}); expected 'gallery' or a text file"
        ) from None
    if any(
        not character.isprintable() for line in lines for character in line if character != "\t"
    ):
        raise UsageError(
            f"--prompts {name}: is not text; expected 'gallery' or a text file with one prompt a "
            "line"
        )
    prompts = tuple(text for line in lines if (text := line.partition("#")[0].strip()))
    if not prompts:
        raise UsageError(f"--prompts {name}: holds no prompt; write one a line")
    return prompts


def read_seconds(option: str, text: str) -> float:
    """A time such as '2s', '500ms' or '2'. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|ms|)\s*", text)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else math.inf
    if not seconds <= 3600:
        raise UsageError(f"{option} {text}: expected a time up to an hour, such as 2s or 500ms")
    return seconds


def refuse_negative(text: str, model: str) -> None:
    """Raise UsageError: there is nothing that a negative prompt could act on."""
    if text:
        raise UsageError(
            f"--negative-prompt {text[:40]!r}: {model} renders a frame in one pass without "
            "classifier-free guidance, which a "
            "negative prompt needs (distilled models have the guidance trained in); say in "
            "--prompt what there should be "
            "instead, or give it a larger share: '(clean lines:1.5) and (ink:1)'"
        )
