"""Which way to call Core ML should be the default: the rule, and what it says of some answers."""

from collections.abc import Mapping, Sequence

from .setup import Answer

WAYS_GROUP = "ways"
HOSTED = "predict hosted"
MOST_GIL = 0.1  # share of a frame in which no other Python thread runs
GAIN = 0.95  # of the hosted way's frame time
RULE = (
    f"'{HOSTED}' is the default unless another way is right in every cycle, stops other threads of "
    f"Python for at most {MOST_GIL:.0%} of a frame, and takes at most {GAIN:.0%} of its frame time "
    "(p50): hosting keeps a session alive where Core ML ends its process, and that is worth 5 %"
)


def verdict(variants: Sequence[Answer], rehearsed: bool) -> Answer:
    """Apply the rule to the answers so far; without a default in a rehearsal or before the end.

    Returns {"rule": text, "default": way or None, "because": {way: text}}.
    """
    ways = {str(each["way"]): each for each in variants}
    because = {way: reason(answer, ways.get(HOSTED)) for way, answer in ways.items()}
    found: Answer = {"rule": RULE, "default": None, "because": because}
    if rehearsed:
        return found | {"note": "a rehearsal: no figure is one of a Mac"}
    if HOSTED not in ways:
        return found | {"note": f"'{HOSTED}' was not asked yet"}
    better = [way for way, text in because.items() if text == "fits" and way != HOSTED]
    better.sort(key=lambda way: _ms(ways[way]) or 0.0)
    return found | {"default": better[0] if better else HOSTED}


def reason(answer: Answer, hosted: Answer | None) -> str:
    """Return why a way is not the default, or 'fits'."""
    if answer.get("asked") is False:
        return f"not asked: {answer.get('note')}"
    if not answer.get("ok"):
        return f"not right: {answer.get('died') or answer.get('error') or 'see its answer'}"
    if answer is hosted:
        return "fits"
    share, ms = answer.get("gil_share"), _ms(answer)
    if not isinstance(share, float) or ms is None:
        return "not measured"
    if share > MOST_GIL:
        return f"stops other threads for {share:.0%} of a frame"
    theirs = _ms(hosted) if hosted and hosted.get("ok") else None
    if theirs is not None and ms > GAIN * theirs:
        return f"{ms / theirs:.0%} of the hosted way's frame time"
    return "fits"


def _ms(answer: Answer | None) -> float | None:
    frame_ms = (answer or {}).get("frame_ms")
    found = frame_ms.get("p50") if isinstance(frame_ms, Mapping) else None
    return float(found) if isinstance(found, int | float) else None
