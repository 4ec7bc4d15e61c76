"""Keys: what each one changes, that nothing else does, and what a session makes of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SinkError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.synthetic import read_counter
from sdxs.common.live import session as sessions
from sdxs.common.live.controls import HELP, MOST_TYPED, Controls, Event, Look, View
from sdxs.common.live.loop import _Renderer
from sdxs.common.live.session import Plan, Session, open_session
from sdxs.common.live.stats import Summary
from sdxs.common.live.viewer import Viewer
from sdxs.common.picture.opencv import cv2
from sdxs.common.prompt.syntax import GALLERY

ENTER, BACKSPACE, ESCAPE = 13, 8, 27


def controls(*prompts: str, feedback: float = 0.0, ema: float = 0.0) -> Controls:
    return Controls(
        prompts or ("a", "b", "c"), FrameParams(seed=3, feedback=feedback), Look(ema=ema)
    )


def press(under_test: Controls, keys: str) -> list[Event | None]:
    return [under_test.press(ord(key)) for key in keys]


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("q", Event.QUIT),
        ("s", Event.SNAPSHOT),
        ("r", Event.RECORD),
        (" ", Event.PAUSE),
        ("n", Event.PROMPT),
        ("p", Event.PROMPT),
        ("+", Event.PARAMS),
        ("-", Event.PARAMS),
        ("f", Event.FULL_SCREEN),
        ("e", Event.LOOK),
        ("Q", Event.QUIT),
        ("\x1b", Event.QUIT),
    ],
)
def test_events(key: str, event: Event) -> None:
    assert press(controls(), key) == [event]


def test_every_key_of_the_help_does_something_and_no_other_key_is_left_out() -> None:
    named = {
        part
        for keys, _ in HELP
        for part in keys.replace("space", " ").split("/" if "/" in keys else " or ")
    }
    named = {key.strip() or " " for key in named} - {"esc"}
    assert named == set(Controls._ACTIONS) - {"="}  # the same key as +, without shift


@pytest.mark.parametrize("key", [-1, 0, 1, 9, 200, 0xFFFF, 0x10FFFF, 0x110000, 2**31])
def test_keys_without_a_meaning_change_nothing(key: int) -> None:
    under_test = controls()
    assert under_test.press(key) is None
    press(under_test, "t")
    assert under_test.press(key if key != 200 else 0) is None
    assert (under_test.prompt, under_test.params, under_test.look) == (
        "a",
        FrameParams(seed=3),
        Look(typed=""),
    )


def test_prompts_go_round_both_ways() -> None:
    under_test = controls()
    seen = []
    for key in "nnnpp":
        press(under_test, key)
        seen.append(under_test.prompt)
    assert seen == ["b", "c", "a", "c", "b"]


def test_feedback_and_blend_stay_in_range_and_on_the_grid() -> None:
    under_test = controls()
    press(under_test, "+" * 20)
    assert under_test.params == FrameParams(seed=3, feedback=0.9)
    press(under_test, "-" * 20 + "+=+")
    assert under_test.params.feedback == 0.3  # three times 0.1 is 0.30000000000000004
    press(under_test, "]" * 20)
    assert under_test.look.blend == 1.0
    press(under_test, "[" * 20)
    assert under_test.look.blend == 0.0


def test_more_feedback_never_means_less() -> None:
    under_test = controls(feedback=1.0)
    press(under_test, "+")
    assert under_test.params.feedback == 1.0


def test_smoothing_comes_back_as_it_was() -> None:
    under_test = controls(ema=0.35)
    press(under_test, "e")
    assert under_test.look.ema == 0
    press(under_test, "e")
    assert under_test.look.ema == 0.35
    press(other := controls(), "e")
    assert 0 < other.look.ema < 1


def test_views_replace_each_other() -> None:
    under_test = controls()
    seen = []
    for key in "dcccd":
        press(under_test, key)
        seen.append(under_test.look.view)
    assert seen == [View.SIDE_BY_SIDE, View.SPLIT, View.OUTPUT, View.SPLIT, View.SIDE_BY_SIDE]


def test_a_typed_prompt_comes_next_and_stays_in_the_list() -> None:
    under_test = controls()
    assert press(under_test, "tqn  s\u6d6e\u00e9") == [None] * 8
    assert under_test.look.typed == "qn  s\u6d6e\u00e9"
    assert under_test.press(BACKSPACE) is None
    assert under_test.press(ENTER) is Event.PROMPT
    assert under_test.look.typed is None
    assert under_test.prompts == ["a", "qn s\u6d6e", "b", "c"]
    assert under_test.prompt == "qn s\u6d6e"
    press(under_test, "n")
    assert under_test.prompt == "b"


def test_typing_a_prompt_that_is_there_goes_to_it() -> None:
    under_test = controls()
    press(under_test, "tc")
    assert under_test.press(ENTER) is Event.PROMPT
    assert (under_test.prompts, under_test.prompt) == (["a", "b", "c"], "c")


def test_typing_nothing_or_escape_leaves_everything_as_it_was() -> None:
    under_test = controls()
    press(under_test, "t   ")
    assert under_test.press(ENTER) is None
    press(under_test, "tx")
    assert under_test.press(ESCAPE) is None, "escape while typing must not end the session"
    press(under_test, "t")
    for _ in range(3):
        assert under_test.press(BACKSPACE) is None
    assert under_test.look.typed == ""
    assert (under_test.prompts, under_test.prompt) == (["a", "b", "c"], "a")


def test_typing_ends_somewhere() -> None:
    under_test = controls()
    press(under_test, "t" + "x" * (MOST_TYPED + 50))
    assert under_test.look.typed == "x" * MOST_TYPED


# A whole session: keys in, files out. The window is scripted; all else is real.

Wait = Callable[[Viewer], bool]


class ScriptedWindow:
    """Hands out keys; an entry that is a condition holds the following ones back until it is
    met.
    """

    def __init__(self) -> None:
        self.closed = False
        self.script: Iterator[int | Wait] = iter(())
        self.viewer: Viewer
        self.pictures: list[np.ndarray] = []
        self.full_screen = 0
        self._waiting: Wait | None = None
        self._patience = (
            4000  # looks, 20 to 30 a second: a condition that is never met fails the test
        )

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        assert shown_ns > 0
        self.pictures.append(picture.copy())

    def key(self) -> int | None:
        self._patience -= 1
        assert self._patience, "the script waits for something that does not happen"
        if self._waiting and not self._waiting(self.viewer):
            return None
        step = next(self.script, None)
        self._waiting = None if step is None or isinstance(step, int) else step
        return step if isinstance(step, int) else None

    def toggle_full_screen(self) -> None:
        self.full_screen += 1

    def close(self) -> None:
        self.closed = True


def shown(count: int) -> Wait:
    """Wait for as many more frames."""
    seen: list[int] = []

    def enough(viewer: Viewer) -> bool:
        seen.append(viewer._stats.shown)
        return seen[-1] - seen[0] >= count

    return enough


@pytest.fixture
def run(
    demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Session, ScriptedWindow, Summary]]:
    window = ScriptedWindow()
    monkeypatch.setattr(sessions, "Window", lambda: window)
    monkeypatch.chdir(tmp_path)

    def session(
        *script: int | Wait | str, **plan: object
    ) -> tuple[Session, ScriptedWindow, Summary]:
        wanted = Plan("synthetic", 64, ("first",), skip_threshold=-1, **plan)  # type: ignore[arg-type]
        made = open_session(wanted, demo, [IdentityBackend(demo, BackendOptions(64))])
        window.viewer = made._viewer
        steps = [
            part
            for step in script
            for part in (map(ord, step) if isinstance(step, str) else (step,))
        ]
        window.script = iter([shown(1), *steps])
        return made, window, made.run(lambda *_: None)

    return session


def test_snapshots_of_one_second_have_names_of_their_own(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions.time, "strftime", lambda _: "sdxs-now")
    session, _, _ = run("sss", "r", shown(2), "r", "r", shown(2), "rq")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "sdxs-now-2.mp4",
        "sdxs-now-2.png",
        "sdxs-now-3.png",
        "sdxs-now.mp4",
        "sdxs-now.png",
    ]
    assert sorted(path.name for path in session.files) == names
    assert VideoFile(tmp_path / "sdxs-now-2.mp4").read() is not None


def test_no_overlay_in_any_file(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]], tmp_path: Path
) -> None:
    _, window, _ = run(
        "h", "r", shown(2), "s", shown(2), "rq", outs=(tmp_path / "out.mp4", tmp_path / "out.png")
    )
    assert window.pictures[-1].shape == (720, 720, 3)
    for path in tmp_path.iterdir():
        picture = cv2.imread(str(path)) if path.suffix == ".png" else VideoFile(path).read()
        assert picture is not None and picture.shape == (64, 64, 3)
        assert abs(read_counter(picture)) < 10_000, (
            path
        )  # the test card's counter is where the overlay would be


def test_full_disk_and_read_only_folder_become_notes(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Viewer, "say", lambda _self, note, _seconds=0: notes.append(note))

    def refuse(path: Path, *_: object) -> None:
        raise SinkError(f"{path.name}: cannot be written")

    monkeypatch.setattr("sdxs.common.io.sinks.film.check_writable", refuse)
    monkeypatch.setattr("sdxs.common.io.sinks.image.write_whole", refuse)
    session, _, summary = run("s", shown(1), "r", shown(1), "q")
    assert summary.ended == "stopped" and summary.shown >= 3
    assert [note.split(":")[0] for note in notes] == ["no snapshot", "no recording"]
    assert not session.files and not list(tmp_path.iterdir())


def test_a_recording_that_meets_a_full_disk_stops_alone(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(viewer: Viewer) -> bool:
        monkeypatch.setattr("sdxs.common.io.sinks.film.DISK_CHECK_FRAMES", 1)
        monkeypatch.setattr("sdxs.common.io.sinks.film.LEAST_FREE_BYTES", 1 << 62)
        return True

    notes: list[str] = []
    say = Viewer.say
    monkeypatch.setattr(
        Viewer, "say", lambda self, note, s=4.0: (notes.append(note), say(self, note, s))[1]
    )
    _, _, summary = run(
        "r", shown(2), full, lambda viewer: viewer._recording is None, shown(2), "q"
    )
    assert summary.ended == "stopped"
    assert "disk is full" in notes[-1] and notes[-1].startswith("recording stopped")
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"], (
        "what was recorded until then is kept"
    )


def test_pause_shows_notes_and_typing_without_a_new_frame(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[int, int]] = []

    def mark(viewer: Viewer) -> bool:
        window = viewer._window
        counts.append((viewer._stats.shown, len(window.pictures)))  # type: ignore[union-attr]
        return True

    def still(viewer: Viewer) -> bool:
        """Frames that were under way have come out."""
        if not looks:
            held.clear()
        if held or not looks:
            looks.append(viewer._stats.shown)
        # The look before the last may already have had a frame in its hands, so three must agree.
        return looks[-3:] == 3 * looks[-1:]

    held: list[bool] = []
    looks: list[int] = []
    check = (
        _Renderer.check
    )  # called again and again while the inference thread is held, and has nothing in flight
    monkeypatch.setattr(_Renderer, "check", lambda self: (held.append(True), check(self))[1])
    _, window, _ = run(" ", still, mark, "t", mark, "x", mark, ENTER, "d", mark, " ", shown(2), "q")
    (frames, paused), (_, opened), (_, typed), (after, beside) = counts
    assert frames == after, "a frame was shown while paused"
    assert paused < opened < typed < beside
    assert not np.array_equal(window.pictures[opened - 1], window.pictures[typed - 1])
    assert window.pictures[beside - 1].shape == (720, 1440, 3)


def test_a_typed_prompt_reaches_the_frames_and_the_gallery_is_at_hand(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]],
) -> None:
    def prompt_is(text: str) -> Wait:
        return lambda viewer: viewer._prompt == text

    session, _, _ = run(
        "tred", ENTER, prompt_is("red"), "n", prompt_is(GALLERY[0]), "pp", prompt_is("first"), "q"
    )
    assert session._controls.prompts == ["first", "red", *GALLERY]


def test_prompts_are_encoded_ahead_of_their_turn(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]],
) -> None:
    def all_ahead(viewer: Viewer) -> bool:
        return not made[0]._ahead.is_alive()

    made: list[Session] = []
    begin = Session._encode_ahead
    encoded: list[str] = []

    def watched(self: Session) -> None:
        made.append(self)
        encode = self._encode
        self._encode = lambda text: (encoded.append(text), encode(text))[1]
        begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_encode_ahead", watched)
        run(lambda _: bool(made), all_ahead, "q")
    assert encoded == ["first", *GALLERY]


def test_a_prompt_that_cannot_be_encoded_is_a_note(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = sessions.TextEncoder.encode

    def fail(self: sessions.TextEncoder, prompt: str) -> np.ndarray:
        if prompt == "bad":
            raise SinkError("no such word")
        return encode(self, prompt)

    monkeypatch.setattr(sessions.TextEncoder, "encode", fail)
    _, _, summary = run(
        "tbad", ENTER, lambda v: v._note[0] == "prompt not changed: no such word", shown(1), "q"
    )
    assert summary.ended == "stopped"


def test_the_close_button_ends_the_session_even_while_typing(
    run: Callable[..., tuple[Session, ScriptedWindow, Summary]],
) -> None:
    def close(viewer: Viewer) -> bool:
        viewer._window.closed = True  # type: ignore[union-attr]
        return True

    _, _, summary = run("tabc", close)
    assert summary.ended == "stopped"


def test_digits_lead_to_the_first_nine_prompts() -> None:
    under_test = controls(*(f"prompt {n}" for n in range(1, 13)))
    for digit in "19375":
        assert press(under_test, digit) == [Event.PROMPT] and under_test.prompt == f"prompt {digit}"
    assert press(controls("a", "b"), "3") == [None]


def test_a_bank_is_travelled_in_place() -> None:
    under_test = controls("a >> b", "c")
    assert press(under_test, "...,") == [Event.PROMPT] * 4
    assert under_test.prompts == ["a >> b @ 0.2", "c"]
    press(under_test, "n")
    assert press(under_test, ".") == [None] and under_test.prompt == "c"
