"""Sound moves parameters: WAV files, devices, bands, and the base that others set."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fake_session import FakeSession
from fake_sounddevice import Fake
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SdxsWarning, UsageError
from sdxs.common.io.inputs import here
from sdxs.common.io.inputs.schedule import parse_schedule
from sdxs.common.io.sound.bands import HOPS_A_SECOND, NAMES, Analyser
from sdxs.common.io.sound.follower import QUIETEST, Follower, Response
from sdxs.common.io.sound.wav import FLOAT, PCM, WavFile
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live import opening
from sdxs.common.live.inputs import InputOptions, check_inputs
from sdxs.common.live.modulation import HeardPlan, Modulation, Route, read_route
from sdxs.common.live.opening import open_session
from sdxs.common.live.options import SessionFiles, SessionOptions
from sdxs.common.live.parameters import TABLE, LiveParameters, Set, Step
from sdxs.common.live.plan import FilmPlan
from sdxs.common.live.sound import make_sound
from sdxs.common.live.stage import Stage
from sdxs.common.picture.size import FrameSize

LOUDEST = Response(0.0, 0.0, 0.0)  # no smoothing, no gain


def tone(hertz: float, seconds: float = 0.5, rate: int = 48000, loud: float = 1.0) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write_wav(
    path: Path, samples: np.ndarray, rate: int = 48000, bits: int = 16, kind: int = PCM
) -> Path:
    """Write samples, (N,) or (N, channels), full scale 1."""
    table = samples.reshape(len(samples), -1)
    if kind == FLOAT:
        data = table.astype(f"<f{bits // 8}").tobytes()
    elif bits == 8:
        data = np.uint8(np.round(table * 127) + 128).tobytes()
    elif bits == 24:
        wide = np.round(table * (2**23 - 1)).astype("<i4")
        data = wide.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    else:
        data = np.round(table * (2 ** (bits - 1) - 1)).astype(f"<i{bits // 8}").tobytes()
    frame = table.shape[1] * bits // 8
    described = struct.pack("<HHIIHH", kind, table.shape[1], rate, rate * frame, frame, bits)
    chunks = b"LIST\x03\0\0\0abc\0" + b"fmt " + struct.pack("<I", 16) + described
    chunks += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def heard(path: Path, seconds: float) -> np.ndarray:
    ear = WavFile(path)
    found = ear.hear(seconds)
    ear.close()
    return found


# Bands.


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize(("hertz", "band"), [(80, "low"), (700, "mid"), (3000, "high")])
def test_a_tone_is_in_its_band_at_any_rate(rate: int, hertz: float, band: str) -> None:
    found = Analyser(rate, 1).take(tone(hertz, 0.5, rate)[:, None])
    assert found.shape == (50, 4), "a hundred a second, also where the rate is no multiple"
    last = dict(zip(NAMES, found[-1], strict=True))
    assert last["level"] == pytest.approx(np.sqrt(0.5), rel=0.1)
    assert last[band] == pytest.approx(np.sqrt(0.5), rel=0.1)
    others = [last[name] for name in ("low", "mid", "high") if name != band]
    assert max(others) < 0.05


def test_the_figures_do_not_depend_on_the_blocks() -> None:
    samples = np.random.default_rng(0).normal(0, 0.2, (22050, 2))
    whole = Analyser(22050, 2).take(samples)
    parts, analyser = [], Analyser(22050, 2)
    for block in np.array_split(samples, [1, 2, 700, 701, 5000, 20000]):
        parts.append(analyser.take(block))
    assert np.array_equal(np.concatenate(parts), whole) and len(whole) == 100


def test_channels_in_opposite_phase_do_not_cancel_and_eight_are_as_one() -> None:
    one = tone(100)[:, None]
    alone = Analyser(48000, 1).take(one)[-1]
    both = Analyser(48000, 2).take(np.hstack([one, -one]))[-1]
    eight = Analyser(48000, 8).take(np.tile(one, 8))[-1]
    assert both == pytest.approx(alone) and eight == pytest.approx(alone)


def test_silence_numbers_that_are_none_and_clipping() -> None:
    analyser = Analyser(48000, 1)
    assert not analyser.take(np.zeros((48000, 1))).any()
    broken = tone(100)[:, None].copy()
    broken[::7], broken[3::7], broken[5::7] = np.nan, np.inf, 1e30
    found = analyser.take(broken)
    assert np.isfinite(found).all() and found.max() <= 1.0 and analyser.wrong > 1000


# Attack, release, gain.


def test_values_rise_fast_and_fall_slowly() -> None:
    follower = Follower(Response(0.02, 0.5, 0.0))
    follower.follow(np.ones((2, 4)))
    assert follower.value("low") == pytest.approx(1 - np.exp(-1), abs=1e-6), "one time constant"
    follower.follow(np.ones((100, 4)))
    assert follower.value("low") == pytest.approx(1, abs=1e-6)
    follower.follow(np.zeros((50, 4)))
    assert follower.value("low") == pytest.approx(np.exp(-1), abs=1e-4)


def test_the_automatic_gain_raises_what_is_quiet_but_no_hiss() -> None:
    quiet, follower = np.full((10, 4), 0.02), Follower(Response(0, 0))
    follower.follow(quiet)
    assert follower.value("level") == 1
    follower.follow(quiet / 2)
    assert follower.value("level") == pytest.approx(0.5, rel=0.01)
    follower.follow(quiet[:1] * 40)  # a bang: what follows is small beside it, for a while
    follower.follow(quiet)
    assert follower.value("level") < 0.05
    for _ in range(60):
        follower.follow(np.tile(quiet, (10, 1)))
    assert follower.value("level") == 1
    silent = Follower(Response(0, 0))
    silent.follow(np.full((3000, 4), QUIETEST / 10))
    assert silent.value("level") == pytest.approx(0.1)


# WAV files.


@pytest.mark.parametrize(
    ("bits", "kind"), [(8, PCM), (16, PCM), (24, PCM), (32, PCM), (32, FLOAT), (64, FLOAT)]
)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_every_kind_of_wav_gives_the_same_figures(
    tmp_path: Path, bits: int, kind: int, channels: int
) -> None:
    samples = np.tile(tone(100, 0.3, 8000, 0.5)[:, None], channels)
    found = heard(write_wav(tmp_path / "a.wav", samples, 8000, bits, kind), 0.3)
    wanted = Analyser(8000, channels).take(samples)
    assert found == pytest.approx(wanted, abs=0.01 if bits == 8 else 1e-4) and len(found) == 30


def test_a_file_is_heard_by_its_own_time_and_is_silent_after_its_end(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(100, 1.0))
    at_once, ear = heard(path, 1.5), WavFile(path)
    in_steps = [ear.hear(at) for at in (0.0, 1 / 30, 1 / 30, 0.02, 0.5, 0.999, 1.5)]
    assert len(in_steps[0]) == len(in_steps[2]) == len(in_steps[3]) == 0
    assert np.array_equal(np.concatenate(in_steps), at_once) and len(at_once) == 150
    assert at_once[99].any() and not at_once[100:].any()
    ear.close()
    assert not ear.hear(2.0).any()


def test_an_extensible_header_a_stream_without_a_size_and_a_file_cut_off(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(100, 0.2))
    stored = path.read_bytes()
    wanted = heard(path, 0.2)
    at = stored.index(b"fmt ")
    made = bytearray(stored)
    made[at + 8 : at + 10] = struct.pack("<H", 0xFFFE)
    more = struct.pack("<HHIH", 22, 16, 0, 1) + b"\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"[:14]
    made[at + 4 : at + 8] = struct.pack("<I", 16 + len(more))
    made[at + 24 : at + 24] = more
    path.write_bytes(made)
    assert np.array_equal(heard(path, 0.2), wanted)
    at = stored.index(b"data")
    path.write_bytes(stored[: at + 4] + b"\xff\xff\xff\xff" + stored[at + 8 :])
    assert np.array_equal(heard(path, 0.2), wanted)
    path.write_bytes(stored[:-9601])  # of a middle of a sample, too
    assert np.array_equal(heard(path, 0.09), wanted[:9])


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (b"", "its header is damaged"),
        (b"RIFF\0\0\0\0AVI ", "is no WAV file"),
        (b"RF64\0\0\0\0WAVE", "RF64"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "header is damaged"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 2, 1, 8000, 0, 1, 4), "kind 2"),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 0, 8000, 0, 0, 16),
            "0 chan",
        ),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 7, 0, 2, 16),
            "7 samples",
        ),
    ],
)
def test_what_is_no_wav_is_refused_with_a_remedy(tmp_path: Path, stored: bytes, says: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(stored)
    with pytest.raises(UsageError, match=rf"--audio .*a\.wav: .*{says}.*ffmpeg -i FILE sound\.wav"):
        WavFile(path)
    with pytest.raises(UsageError, match="not readable"):
        WavFile(tmp_path / "none.wav")


def test_damaged_headers_end_in_one_line(tmp_path: Path) -> None:
    stored = write_wav(tmp_path / "a.wav", tone(100, 0.01)).read_bytes()
    generator = np.random.default_rng(7)
    opened = 0
    for _ in range(300):
        made = bytearray(stored)
        for at in generator.integers(0, 60, 3):
            made[at] = generator.integers(256)
        (tmp_path / "b.wav").write_bytes(made[: generator.integers(1, len(made))])
        try:
            opened += bool(np.isfinite(heard(tmp_path / "b.wav", 0.05)).all())
        except UsageError as error:
            assert "\n" not in str(error)
    assert 0 < opened < 300


# Devices.


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake(("Built-in Microphone", 1, 48000.0), ("Scarlett 18i8", 18, 192000.0))
    before = sys.modules.pop("sdxs.common.io.sound.device", None)
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    yield made
    sys.modules.pop("sdxs.common.io.sound.device", None)
    if before is not None:
        sys.modules["sdxs.common.io.sound.device"] = before


def device_module() -> Any:
    import importlib

    return importlib.import_module("sdxs.common.io.sound.device")


@pytest.mark.parametrize("part", ["default", "scarlett"])
def test_a_device_hears_what_a_file_hears_and_keeps_the_rules(
    fake: Fake, part: str, tmp_path: Path
) -> None:
    device = device_module().AudioDevice(part)
    device.start()
    (stream,) = fake.streams
    rate = int(stream.samplerate)
    samples = tone(300, 1.0, rate, 0.4)
    found = []
    for block in np.array_split(samples, 7):
        stream.send(block)
        found.append(device.hear(0.0))
    assert np.concatenate(found) == pytest.approx(Analyser(rate, 1).take(samples[:, None]))
    assert not len(device.hear(0.0)) and fake.broken == []
    device.close()
    device.close()
    assert stream.closed


def test_the_ring_goes_on_when_nobody_listened_for_a_while(fake: Fake) -> None:
    device = device_module().AudioDevice("built")
    device.start()
    sent = np.concatenate([np.zeros(48000 * 9), tone(100, 3.3)])
    fake.streams[0].send(sent, block=700)  # which the ring is no multiple of
    found = device.hear(0.0)
    assert len(found) == HOPS_A_SECOND, "the last second, and nothing that was overwritten"
    assert found[10:, 0] == pytest.approx(np.sqrt(0.5), rel=0.01), "across its end, too"


def test_names_that_are_none_or_several(fake: Fake) -> None:
    AudioDevice = device_module().AudioDevice
    with pytest.raises(
        UsageError, match=r"--audio guitar: no audio input has this name; there are"
    ):
        AudioDevice("guitar")
    with pytest.raises(UsageError, match="several inputs"):
        AudioDevice("i")
    fake.opens = False
    with pytest.raises(UsageError, match=r"cannot be opened \(.*unavailable.*no other program"):
        AudioDevice("built").start()
    fake.devices.clear()
    with pytest.raises(UsageError, match="no audio input is connected"):
        AudioDevice("default")


def test_a_device_that_sends_only_zeros_is_said_once(fake: Fake) -> None:
    device = device_module().AudioDevice("built")
    device.start()
    for _ in range(12):
        fake.streams[0].send(np.zeros(48000))
        device.hear(0.0)
    assert "Microphone allows" in device.complaint()
    device._watch_for_silence(np.zeros(48000 * 30))
    assert len(device._complaints) == 1


@pytest.mark.parametrize("how", ["ended", "silent"])
def test_a_device_that_vanishes_is_one_warning_and_the_session_goes_on(
    fake: Fake, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = device_module()
    sound = Modulation([read_route("blend=level:0.2..0.8")], module.AudioDevice("built"), LOUDEST)
    session = FakeSession(stage=Stage(sound=sound), inputs=[sound], blend=0.1)
    session._idle()
    fake.streams[0].send(np.ones(4800))
    session._idle()
    assert session._in_force.blend == pytest.approx(0.9, abs=0.01)
    if how == "ended":
        fake.streams[0].end()
    else:
        monkeypatch.setattr(module, "GONE_S", -1.0)
    with pytest.warns(SdxsWarning, match=r"Built-in Microphone: delivers no more.*blend go on"):
        session._idle()
    for _ in range(3):
        session._idle()
    assert session.values.blend == 0.1 and session._in_force.blend == 0.1
    assert sum("no more sound" in note for note in session.notes) == 1


def test_without_sounddevice_or_portaudio_the_error_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = InputOptions(audio="default", audio_to=("blend=low:0..1",))
    monkeypatch.delitem(sys.modules, "sdxs.common.io.sound.device", raising=False)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UsageError, match=r"--audio: 'sounddevice' is not .*pip install 'sdxs\[aud"):
        check_inputs(options)
    monkeypatch.setattr("sdxs.common.live.sound.needing", _no_portaudio)
    with pytest.raises(UsageError, match="apt install libportaudio2"):
        check_inputs(options)


def _no_portaudio(*_: object) -> ModuleType:
    raise OSError("PortAudio library not found")


# What moves what.


class Steady:
    """An ear that hears a level in every band."""

    name, is_live = "steady", False

    def __init__(self, level: float = 0.0) -> None:
        self.level, self.closed, self.asked = level, False, list[float]()

    def start(self) -> None:
        pass

    def hear(self, at_s: float) -> np.ndarray:
        self.asked.append(at_s)
        return np.full((1, 4), self.level)

    def complaint(self) -> str:
        return ""

    def close(self) -> None:
        self.closed = True


def session_of(ear: Steady, *routes: str, **values: object) -> FakeSession:
    sound = Modulation([read_route(each) for each in routes], ear, LOUDEST)
    prompt = PAD if routes[0].startswith("position_y") else BANK
    session = FakeSession(prompt, control=True, stage=Stage(sound=sound), inputs=[sound], **values)
    session._incoming.saw(None)
    session._idle()
    return session


BANK, PAD = "a >> b >> c", "a >> b // c >> d"
MOVES = {  # route, level, what is in force then
    "position": ("position=low:0..2", 0.5, 1.0),
    "position_y": ("position_y=low:0..1", 0.5, 0.5),
    "seed": ("seed=mid:0..9", 1.0, 9),
    "control_scale": ("control_scale=high:0..-1", 0.25, 0.75),
    "edges": ("edges=level:0..1", 1.0, "canny"),
    "lora_scale": ("lora_scale=low:0..1", 0.5, 1.5),
    "feedback": ("feedback=low:0.1..0.5", 0.0, 0.1),
    "ema": ("ema=low:0..0.5", 0.5, 0.25),
    "blend": ("blend=low:0.2..0.8", 0.5, 0.5),
    "skip": ("skip=low:0..4", 1.0, 4.0),
    "transition": ("transition=low:0..2", 1.0, 2.0),
    "pause": ("pause=level:0..1", 1.0, True),
    "mirror": ("mirror=level:0..1", 1.0, True),
}


def test_the_walk_of_sound_has_every_parameter_that_is_no_text() -> None:
    movable = [n for n, r in TABLE.items() if not r.at_start and (r.kind is not str or r.choices)]
    assert list(MOVES) == movable


@pytest.mark.parametrize("name", MOVES)
def test_sound_moves_every_parameter_and_the_base_stays(name: str) -> None:
    route, level, wanted = MOVES[name]
    ear = Steady(level)
    session = session_of(ear, route)
    base = getattr(session.values, name)
    assert getattr(session._in_force, name) == wanted and base != wanted
    assert base == getattr(FakeSession(BANK, control=True).values, name)
    assert session.calls or name in ("ema", "blend"), "the loop is told"
    told = len(session.calls)
    session._idle()
    assert len(session.calls) == told and session.notes == [], "once, and no note of it"
    session._incoming.close()
    assert ear.closed


def test_what_others_set_is_the_base_and_all_of_them_see_only_that() -> None:
    ear = Steady(0.5)
    session = session_of(ear, "feedback=low:0..0.4")
    seen = []
    session.controls.watch(lambda news: seen.append((news.names, news.values.feedback)))
    assert session.calls[-1] == ("params", FrameParams(feedback=0.2, control_scale=1.0))
    session.controls.offer(Set("feedback", 0.3), "osc")
    session._idle()
    assert session.values.feedback == 0.3 and seen == [(("feedback",), 0.3)]
    assert session.calls[-1] == ("params", FrameParams(feedback=0.5, control_scale=1.0))
    assert session.notes == ["feedback 0.3 \u00b7 control 1.0"], "what was set"
    ear.level = 1.0
    session._idle()
    assert session.values.feedback == 0.3 and len(seen) == 1
    assert session.calls[-1] == ("params", FrameParams(feedback=0.7, control_scale=1.0))
    session.apply(Step("control_scale", -0.5))
    assert session.calls[-1] == ("params", FrameParams(feedback=0.7, control_scale=0.5))
    session.apply(Set("feedback", 0.9))
    session._idle()
    assert session._in_force.feedback == 0.9, "sums end where steps end"


def test_bands_add_up_and_a_switch_does_not_flutter() -> None:
    ear = Steady(0.5)
    session = session_of(ear, "blend=low:0..0.4", "blend=high:0..0.2", "mirror=level:0..1")
    assert session._in_force.blend == 0.3 and not session._in_force.mirror
    for level, mirrored in ((0.55, False), (0.65, True), (0.5, True), (0.45, True), (0.3, False)):
        ear.level = level
        session._idle()
        assert session._in_force.mirror is mirrored, level
    session.apply(Set("mirror", True))
    ear.level = 1.0
    session._idle()
    assert session.values.mirror and not session._in_force.mirror, "turned over"


def test_a_place_in_a_bank_moves_without_changing_the_list() -> None:
    ear = Steady(0.25)
    session = session_of(ear, "position=low:0..2")
    assert session.calls[-1] == ("prompt", "a >> b >> c @ 0.5")
    assert session.prompts.texts[0] == "a >> b >> c" and session.values.position == 0
    session.apply(Set("prompt", "x >> y"))
    assert session.calls[-1] == ("prompt", "x >> y @ 0.5")
    ear.level = 1.0
    session._idle()
    assert session.calls[-1] == ("prompt", "x >> y @ 1"), "the last stop of the new bank"


def test_a_file_of_sound_begins_with_the_first_frame_and_goes_by_a_films_time() -> None:
    for by_film, wanted in ((True, [0.0, 2.5]), (False, [0.0])):
        ear = Steady()
        sound = Modulation([Route("blend", "low", 0, 1)], ear, LOUDEST, by_film)
        sound.listen(100.0)
        assert ear.asked == []
        sound.saw(0)
        sound.listen(101.0)
        sound.saw(2_500_000_000)
        sound.listen(109.0)
        assert ear.asked == (wanted if by_film else [0.0, 8.0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blend", "expected NAME=BAND:LOW..HIGH"),
        ("blend=low", "expected NAME=BAND:LOW..HIGH"),
        ("blend=low:0..nan", "expected numbers"),
        ("blend=low:a..b", "expected numbers"),
        ("blend=bass:0..1", "unknown band 'bass'; known are level, low, mid, high"),
        ("blur=low:0..1", "unknown parameter 'blur'"),
        ("prompt=low:0..1", "is a text, which no sound can move"),
        ("strength=low:0..1", "is fixed once a session runs"),
    ],
)
def test_a_route_that_is_wrong_is_refused_at_the_start(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"--audio-to {text.partition('.')[0]}.*{says}"):
        InputOptions(audio="a.wav", audio_to=(text,))


def test_half_of_what_sound_needs_is_refused() -> None:
    with pytest.raises(UsageError, match="--audio-to: is part of --audio"):
        InputOptions(audio_to=("blend=low:0..1",))
    with pytest.raises(UsageError, match="--audio default: moves nothing; add --audio-to"):
        InputOptions(audio="default")
    with pytest.raises(UsageError, match="--audio is empty"):
        InputOptions(audio=" ", audio_to=("blend=low:0..1",))


def test_what_a_session_has_not_is_refused(fake: Fake, tmp_path: Path) -> None:
    path = str(write_wav(tmp_path / "a.wav", tone(100)))

    def make(route: str, audio: str = path, realtime: bool = True, turns: bool = False) -> None:
        unusable = {"edges": "nothing reads edges"}
        place = LiveParameters(), unusable, realtime, False, turns
        make_sound(audio, [route], Response(), *place)

    for route, more, says in (
        ("edges=low:0..1", {}, "nothing reads edges"),
        ("position=low:0..1", {"turns": True}, "take turns"),
        ("pause=low:0..1", {"realtime": False}, "stop the film"),
        ("blend=low:0..1", {"realtime": False, "audio": "default"}, "no time to listen"),
    ):
        with pytest.raises(UsageError, match=says):
            make(route, **more)  # type: ignore[arg-type]
    make("blend=low:0..1", realtime=False)


# Films, to the frame.


def test_a_plan_adds_sound_to_what_a_schedule_sets(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(24000), tone(100, 0.5)])
    ear = WavFile(write_wav(tmp_path / "a.wav", samples))
    sound = Modulation([read_route("blend=low:0..0.4")], ear, Response(0, 0))
    schedule = parse_schedule("0 ema 0.5\n0.8 blend 0.2", "show.txt")
    start = LiveParameters()
    plan = HeardPlan(sound, start, FilmPlan(schedule, start, 120))
    found = [plan.at(frame / 10) for frame in range(10)]
    sound.close()
    assert all(each is not None for each in found)
    first, sixth, last = found[0], found[7], found[9]
    assert first and sixth and last and first.base and last.base
    assert first.values.ema == 0.5 and first.names == {"ema", "blend"} and first.values.blend == 0
    assert sixth.values.blend == pytest.approx(0.4, abs=0.01)
    assert last.base.blend == 0.2 and last.values.blend == pytest.approx(0.6, abs=0.01)


def test_a_place_is_told_of_a_film_only_where_it_moves(tmp_path: Path) -> None:
    """Each frame that told it would have the prompt encoded and a change of words begun anew."""
    samples = np.concatenate([np.zeros(24000), tone(100, 0.5)])
    for name, prompt in (("position", BANK), ("position_y", PAD)):
        ear = WavFile(write_wav(tmp_path / f"{name}.wav", samples))
        sound = Modulation([read_route(f"{name}=low:0..1")], ear, Response(0, 0))
        plan = HeardPlan(sound, LiveParameters(prompt=prompt), None)
        names = [plan.at(frame / 10).names for frame in range(10)]  # type: ignore[union-attr]
        sound.close()
        assert names[:5] == [frozenset()] * 5 and any(name in each for each in names[5:7])


class Noting(IdentityBackend):
    """Keeps the feedback of every frame, and paints black."""

    def __init__(self) -> None:
        super().__init__(None, BackendOptions(64))
        self.params, self.seen = FrameParams(), list[float]()

    def set_params(self, params: FrameParams) -> None:
        self.params = params

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self.seen.append(self.params.feedback)
        super().submit(np.zeros_like(frame))


class Cards(Synthetic):
    """Thirty white pictures, at thirty a second."""

    count = 0

    def read(self) -> np.ndarray:
        self.count += 1
        return np.full((64, 64, 3), 255, np.uint8) if self.count <= 30 else None  # type: ignore[return-value]


class Kept:
    def __init__(self) -> None:
        self.levels: list[float] = []

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self.levels.append(float(picture.mean()))

    def close(self) -> None:
        pass


def test_a_film_in_step_with_sound_is_the_same_twice_and_in_turn(
    tmp_path: Path, demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence until frame 15, at half a second; then a tone of half the loudness."""
    samples = np.concatenate([np.zeros(24000), tone(100, 0.5, loud=np.sqrt(0.5))])
    path = write_wav(tmp_path / "a.wav", samples)
    found = []
    for loop in ("threaded", "threaded", "sequential"):
        backend, sink = Noting(), Kept()
        monkeypatch.setattr(opening, "open_sink", lambda *_, sink=sink: sink)
        monkeypatch.setattr(opening, "open_source", lambda *_: Cards(FrameSize(64, 64)))
        session = open_session(
            SessionOptions("synthetic", headless=True, loop=loop),  # type: ignore[arg-type]
            LiveParameters(skip=-1.0, feedback=0.1),
            SessionFiles(("shown.png",)),
            FrameSize(64, 64),
            demo,
            [backend],
            inputs=InputOptions(
                audio=str(path),
                audio_to=("blend=low:0..0.8", "feedback=level:0..0.4"),
                audio_gain=0.0,
                audio_attack=0.02,
            ),
        )
        session.run(lambda *_: None)
        assert session.values.feedback == 0.1 and session.values.blend == 0, "the base"
        found.append((backend.seen, sink.levels))
    assert found[0] == found[1] == found[2]
    feedback, levels = found[0]
    assert len(levels) == 30 and not any(levels[:15]) and set(feedback[:15]) == {0.1}
    assert np.all(np.diff(levels[15:18]) > 0) and np.all(np.diff(feedback[15:18]) > 0)
    assert levels[-1] == pytest.approx(255 * 0.4, rel=0.05)
    assert feedback[-1] == pytest.approx(0.1 + 0.4 / 2, rel=0.05)


def test_a_file_that_is_gone_is_one_warning(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(100))
    sound = Modulation([read_route("blend=low:0..1")], WavFile(path), LOUDEST)
    path.unlink()
    with pytest.warns(SdxsWarning, match=r"a\.wav: not readable \(.*blend go on"):
        sound.hear(0.5)
    sound.hear(1.0)
    assert sound.of(LiveParameters()) == LiveParameters()


def test_the_doctor_lists_the_inputs_or_says_why_there_are_none(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "_version", lambda package: "1.0")
    assert here.audio_here() == (
        True,
        "sounddevice 1.0; here: Built-in Microphone, Scarlett 18i8",
        "",
    )
    fake.devices.clear()
    assert here.audio_here()[0] is None and "no audio input" in here.audio_here()[1]
    monkeypatch.setattr(here, "_version", lambda package: "")
    assert (
        here.audio_here()[2] == "pip install 'sdxs[audio]', for --audio; a WAV file needs nothing"
    )
