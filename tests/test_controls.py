"""What a session makes of keys and other changes, down to the files it leaves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fake_session import FakeSession
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SinkError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.synthetic import read_counter
from sdxs.common.live import opening
from sdxs.common.live import session as sessions
from sdxs.common.live.look import View
from sdxs.common.live.opening import open_session
from sdxs.common.live.options import SessionFiles, SessionOptions
from sdxs.common.live.parameters import LiveParameters, Set
from sdxs.common.live.session import Session
from sdxs.common.live.stats import Summary
from sdxs.common.live.threads.renderer import Renderer
from sdxs.common.live.viewer import Viewer
from sdxs.common.picture.opencv import cv2
from sdxs.common.prompt.syntax import GALLERY

ENTER = 13


def test_prompts_go_round_both_ways() -> None:
    session, seen = FakeSession(), []
    for key in "nnnpp":
        session.press(key)
        seen.append(session.values.prompt)
    assert seen == ["b", "c", "a", "c", "b"]
    assert session.calls == [("prompt", text) for text in seen]


def test_feedback_and_blend_stay_in_range_and_on_the_grid() -> None:
    session = FakeSession(seed=3)
    session.press("+" * 20)
    assert session.calls[-1] == ("params", FrameParams(seed=3, feedback=0.9))
    session.press("-" * 20 + "+=+")
    assert session.values.feedback == 0.3  # three times 0.1 is 0.30000000000000004
    assert session.notes[-1] == "feedback 0.3"
    session.press("]" * 20)
    assert session.values.blend == 1.0
    session.press("[" * 20)
    assert session.values.blend == 0.0
    assert session.notes[-1] == "smoothing 0.0 \u00b7 camera 0.0"


def test_more_feedback_never_means_less() -> None:
    session = FakeSession(feedback=1.0)
    session.press("+")
    assert session.values.feedback == 1.0


def test_smoothing_comes_back_as_it_was() -> None:
    session, seen = FakeSession(ema=0.35), []
    for key in "ee":
        session.press(key)
        seen.append(session.values.ema)
    assert seen == [0, 0.35]
    session.apply(Set("ema", 0.7))
    session.press("ee")
    assert session.values.ema == 0.7
    other = FakeSession()
    other.press("e")
    assert 0 < other.values.ema < 1


def test_views_replace_each_other() -> None:
    session, seen = FakeSession(), []
    for key in "dcccd":
        session.press(key)
        seen.append(session.look.view)
    assert seen == [View.SIDE_BY_SIDE, View.SPLIT, View.OUTPUT, View.SPLIT, View.SIDE_BY_SIDE]


def test_overlay_and_help_go_on_and_off() -> None:
    session = FakeSession()
    session.press("oh")
    assert session.look.overlay and session.look.help
    session.press("oh")
    assert not session.look.overlay and not session.look.help


def test_a_typed_prompt_comes_next_and_stays_in_the_list() -> None:
    session = FakeSession()
    session.press("tred")
    assert session.typed == "red" and not session.calls
    session.press(ENTER)
    assert session.typed is None and session.calls == [("prompt", "red")]
    assert session.prompts.texts == ["a", "red", "b", "c"] and session.values.prompt == "red"
    session.press("n")
    assert session.values.prompt == "b"


def test_typing_a_prompt_that_is_there_goes_to_it() -> None:
    session = FakeSession()
    session.press("tc")
    session.press(ENTER)
    assert (session.prompts.texts, session.values.prompt) == (["a", "b", "c"], "c")


def test_a_malformed_prompt_is_a_note_and_stays_out_of_the_list() -> None:
    session = FakeSession()
    session.press("t(a:0) and (b:1)")
    session.press(ENTER)
    assert session.notes[-1].startswith("prompt not changed: prompt '(a:0)") and not session.calls
    assert (session.prompts.texts, session.values.prompt) == (["a", "b", "c"], "a")


def test_digits_lead_to_the_first_nine_prompts() -> None:
    session = FakeSession(*(f"prompt {n}" for n in range(1, 13)))
    for digit in "19375":
        session.press(digit)
        assert session.values.prompt == f"prompt {digit}"
    two = FakeSession("a", "b")
    two.press("3")
    assert two.values.prompt == "a" and not two.calls


def test_a_bank_is_travelled_in_place() -> None:
    session = FakeSession("a >> b", "c")
    session.press("...,")
    assert [text for _, text in session.calls] == [
        "a >> b @ 0.1",
        "a >> b @ 0.2",
        "a >> b @ 0.3",
        "a >> b @ 0.2",
    ]
    assert session.prompts.texts == ["a >> b @ 0.2", "c"]
    assert (session.values.prompt, session.values.position) == ("a >> b", 0.2)
    session.press("n.")
    assert session.values.prompt == "c" and session.calls[-1] == ("prompt", "c")
    session.press("p")
    assert session.values.position == 0.2, "it stays where it was left"


def test_a_text_that_is_in_the_list_twice_stops_nobody() -> None:
    session = FakeSession("a >> b", "a >> b @ 0.1", "c")
    session.press(".nn")
    assert session.values.prompt == "c"


# A whole session: keys in, files out. The window is scripted; all else is real.

Wait = Callable[[Viewer], bool]


class ScriptedWindow:
    """Hands out keys; an entry that is a condition holds back the keys after it."""

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
    monkeypatch.setattr(opening, "Window", lambda: window)
    monkeypatch.chdir(tmp_path)

    def session(
        *script: int | Wait | str, outs: tuple[str, ...] = ()
    ) -> tuple[Session, ScriptedWindow, Summary]:
        made = open_session(
            SessionOptions("synthetic"),
            LiveParameters("first", skip=-1),
            SessionFiles(outs),
            64,
            demo,
            [IdentityBackend(demo, BackendOptions(64))],
        )
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
        "h",
        "r",
        shown(2),
        "s",
        shown(2),
        "rq",
        outs=(str(tmp_path / "out.mp4"), str(tmp_path / "out.png")),
    )
    assert window.pictures[-1].shape == (720, 720, 3)
    for path in tmp_path.iterdir():
        picture = cv2.imread(str(path)) if path.suffix == ".png" else VideoFile(path).read()
        assert picture is not None and picture.shape == (64, 64, 3)
        # The test card's counter is where the overlay would be.
        assert abs(read_counter(picture)) < 10_000, path


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
    # Called again and again while the inference thread is held, and has nothing in flight.
    check = Renderer.check
    monkeypatch.setattr(Renderer, "check", lambda self: (held.append(True), check(self))[1])
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
    assert session.prompts.texts == ["first", "red", *GALLERY]


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
    encode = opening.TextEncoder.encode

    def fail(self: opening.TextEncoder, prompt: str) -> np.ndarray:
        if prompt == "bad":
            raise SinkError("no such word")
        return encode(self, prompt)

    monkeypatch.setattr(opening.TextEncoder, "encode", fail)
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
