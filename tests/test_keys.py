"""The window's keys: what each one means, and that the help tells of each."""

import pytest

from sdxs.common.io.inputs.keys import HELP, KEYS, MOST_TYPED, ROWS, Keys
from sdxs.common.live.parameters import TABLE, Change, Event, Set, Step

ENTER, BACKSPACE, ESCAPE = 13, 8, 27


def press(keys: Keys, pressed: str) -> list[Change | None]:
    return [keys.press(ord(key)) for key in pressed]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("q", Event.QUIT),
        ("Q", Event.QUIT),
        ("\x1b", Event.QUIT),
        ("s", Event.SNAPSHOT),
        ("r", Event.RECORD),
        (" ", Step("pause", 1)),
        ("n", Event.NEXT_PROMPT),
        ("p", Event.PREVIOUS_PROMPT),
        ("1", Event.PROMPT_1),
        ("9", Event.PROMPT_9),
        (".", Step("position", 0.1)),
        (",", Step("position", -0.1)),
        (">", Step("position_y", 0.1)),
        ("<", Step("position_y", -0.1)),
        ("+", Step("feedback", 0.1)),
        ("=", Step("feedback", 0.1)),
        ("-", Step("feedback", -0.1)),
        ("k", Step("control_scale", 0.1)),
        ("j", Step("control_scale", -0.1)),
        ("]", Step("blend", 0.1)),
        ("[", Step("blend", -0.1)),
        ("e", Event.SMOOTHING),
        ("b", Event.TAP),
        ("m", Event.LEARN),
        ("v", Event.NEXT_CUE),
        ("z", Event.PREVIOUS_CUE),
        ("d", Event.SIDE_BY_SIDE),
        ("c", Event.SPLIT),
        ("x", Event.EDGES),
        ("o", Event.OVERLAY),
        ("f", Event.FULL_SCREEN),
        ("h", Event.HELP),
    ],
)
def test_what_each_key_means(key: str, change: Change) -> None:
    assert press(Keys(), key) == [change]


def test_the_help_names_every_key_once_and_the_table_knows_every_parameter() -> None:
    assert len(KEYS) == sum(len(row.changes) for row in ROWS), "a key stands in two rows"
    assert dict(HELP)["q / esc"] == "quit" and dict(HELP)["1 to 9"] == "the first nine prompts"
    labels = " ".join(label for label, _ in HELP).split()
    unnamed = {key for row in ROWS for key in row.unnamed}
    for key in KEYS.keys() - unnamed - set("2345678"):
        assert labels.count({" ": "space", "\x1b": "esc"}.get(key, key)) == 1, key
    for change in KEYS.values():
        assert isinstance(change, Event) or change.name in TABLE


@pytest.mark.parametrize("key", [-1, 0, 1, 9, 200, 0xFFFF, 0x10FFFF, 0x110000, 2**31])
def test_keys_without_a_meaning_change_nothing(key: int) -> None:
    keys = Keys()
    assert keys.press(key) is None and keys.typed is None
    press(keys, "t")
    assert keys.press(key if key != 200 else 0) is None and keys.typed == ""


def test_a_prompt_is_typed_and_used() -> None:
    keys = Keys()
    assert press(keys, "tqn  s\u6d6e\u00e9") == [None] * 8
    assert keys.typed == "qn  s\u6d6e\u00e9"
    assert keys.press(BACKSPACE) is None
    assert keys.press(ENTER) == Set("prompt", "qn s\u6d6e") and keys.typed is None


def test_typing_nothing_or_escape_changes_nothing() -> None:
    keys = Keys()
    press(keys, "t   ")
    assert keys.press(ENTER) is None and keys.typed is None
    press(keys, "tx")
    assert keys.press(ESCAPE) is None, "escape while typing must not end the session"
    press(keys, "t")
    assert [keys.press(BACKSPACE) for _ in range(3)] == [None] * 3 and keys.typed == ""


def test_typing_ends_somewhere() -> None:
    keys = Keys()
    press(keys, "t" + "x" * (MOST_TYPED + 50))
    assert keys.typed == "x" * MOST_TYPED
