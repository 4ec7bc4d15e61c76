"""PNGs of a session say how they were made, for `sdxs image --from-metadata` and other programs."""

import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Command
from sdxs.api.still import read_record
from sdxs.common.backend.identity import SPEC, IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams, StageTimes
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.checkpoint.tensors import sha256
from sdxs.common.errors import SinkError
from sdxs.common.io.sources import registry
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live import opening
from sdxs.common.live.look import Look, View
from sdxs.common.live.opening import open_session
from sdxs.common.live.options import SessionFiles, SessionOptions
from sdxs.common.live.parameters import LiveParameters, Set
from sdxs.common.live.record import Moment, SessionRecord, SourceFacts
from sdxs.common.live.stats import Stats
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.live.viewer import Viewer
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.png_text import with_text, without_text
from sdxs.common.picture.record import KEYWORD, Recipe, Still, parameters_of, stamped

ROOT = Path(__file__).parent.parent
CLIP, CAT = ROOT / "docs" / "demo" / "clip.mp4", ROOT / "docs" / "demo" / "cat.jpg"
SIZE = 64
LIVE = ("live", "--headless", "--size", SIZE)
PASSED = (*LIVE, "--model", "demo", "--backend", "identity")  # frames are passed on


@pytest.fixture
def live(command: Command, tmp_path: Path) -> Callable[..., Path]:
    """Run a session with these options and return what it wrote."""

    def run(*options: object, name: str = "a.png") -> Path:
        done = command(*options, "--out", tmp_path / name)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def again(command: Command, path: Path, *options: object) -> Path:
    """Repeat a picture from its record."""
    out = path.with_name(f"{path.stem}-again.png")
    done = command("image", "--from-metadata", path, "--out", out, *options)
    assert done.code == 0 and done.err == "", done.err
    return out


def parameters(path: Path) -> str:
    with Image.open(path) as image:
        return str(image.info["parameters"])


def facts(path: Path) -> dict[str, str]:
    """The last line of `parameters` as other programs read it: pairs between commas."""
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last(path))
    return {name: json.loads(text) if text[:1] == '"' else text for name, text in pairs}


def last(path: Path) -> str:
    return parameters(path).splitlines()[-1]


def test_a_session_and_an_image_write_the_same_record(
    live: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    shutil.copy(CAT, tmp_path / "cat.jpg")
    given = ("--model", "demo-sketch", "--backend", "mlx", "--prompt", "ink", "--seed", 3)
    of_live = read_record(live(*LIVE, *given, "--source", tmp_path / "cat.jpg"))
    still = tmp_path / "still.png"
    size = ("--size", SIZE, "--input", tmp_path / "cat.jpg", "--out", still)
    assert command("image", *given, *size).code == 0
    of_image = read_record(still)
    assert of_live.keys() == of_image.keys() | {"live"}
    assert of_image["source"] == {"kind": "image", "name": "cat.jpg"}
    assert of_live["source"] == {"kind": "image", "name": "cat.jpg", "frame": 0}
    for name in of_image.keys() - {"source"}:
        assert of_live[name] == of_image[name], name
    assert of_live["origin"] == "weights" and of_live["versions"]["numpy"]  # type: ignore[index]


def test_every_frame_of_a_folder_has_a_record_of_its_own(live: Callable[..., Path]) -> None:
    prompts = ("--prompt", "ink", "--prompt", "pop art >> a sketch @ 0.5", "--hold", 2)
    folder = live(*PASSED, "--source", CLIP, *prompts, "--frames", 4, name="frames")
    records = [read_record(path) for path in sorted(folder.iterdir())]
    assert [record["source"]["frame"] for record in records] == [0, 1, 2, 3]  # type: ignore[index]
    times = [record["source"]["time_s"] for record in records]  # type: ignore[index]
    assert times == pytest.approx([0, 0.05, 0.1, 0.15], abs=0.002)
    bank = "pop art >> a sketch @ 0.5"
    assert [record["prompt"] for record in records] == ["ink", "ink", bank, bank]
    hashes = [record["hashes"]["pixels"] for record in records]  # type: ignore[index]
    assert len(set(hashes)) == 4
    assert records[0]["hashes"]["source"] == sha256(CLIP)  # type: ignore[index]


def test_the_live_parameters_are_in_the_record(live: Callable[..., Path]) -> None:
    given = ("--ema", 0.5, "--blend", 0.2, "--mirror", "--skip", 200, "--transition", "2s")
    record = read_record(live(*PASSED, "--source", "synthetic", "--frames", 2, *given))
    said = record["live"]
    assert said == {
        **{"feedback": 0, "ema": 0.5, "blend": 0.2, "skip": 200, "transition": 2},
        **{"mirror": True, "pause": False, "view": "output", "gliding": False, "reused": True},
    }
    assert record["source"] == {"kind": "synthetic", "name": "synthetic", "frame": 1}


def test_other_files_carry_nothing(live: Callable[..., Path], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    jpeg = live(*PASSED, "--source", CAT, "--contact-sheet", sheet, "--frames", 1, name="a.jpg")
    for path in (jpeg, sheet):
        with Image.open(path) as image:
            assert not {"sdxs", "parameters"} & image.info.keys()


class Tinted(IdentityBackend):
    """Paints seed, feedback and control scale of each frame into its picture."""

    depth = 2

    def __init__(self) -> None:
        super().__init__(None, BackendOptions(SIZE))
        self._params = FrameParams()
        self._taken: deque[FrameParams] = deque()

    def set_params(self, params: FrameParams) -> None:
        self._params = params

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._taken.append(self._params)
        super().submit(frame, edges)

    def collect(self, out: np.ndarray) -> StageTimes:
        times, params = super().collect(out), self._taken.popleft()
        out[:] = params.seed, round(100 * params.feedback), 0
        return times


def recipe_of(checkpoint: Checkpoint, **request: object) -> Recipe:
    asked = Still(checkpoint.name, "", size=SIZE, backend="identity", **request)  # type: ignore[arg-type]
    return Recipe(checkpoint, SPEC, {}, asked)


def test_a_record_holds_what_that_very_frame_was_rendered_with(
    demo: Checkpoint, tmp_path: Path
) -> None:
    """Seed and feedback change while frames are under way; each record says its own frame's."""
    session = open_session(
        SessionOptions("synthetic", headless=True, frames=12),
        LiveParameters(),
        SessionFiles((str(tmp_path / "frames"),)),
        SIZE,
        demo,
        [Tinted()],
        recipe=recipe_of(demo),
    )

    def change(number: int, _prompt: str) -> None:
        session.apply(Set("seed", number))
        session.apply(Set("feedback", number / 100))

    session.run(change)
    seeds = []
    for path in sorted((tmp_path / "frames").iterdir()):
        record, pixel = read_record(path), cv2.imread(str(path))[0, 0]
        seeds.append(record["seed"])
        assert record["seed"] == pixel[2]
        assert record["live"]["feedback"] == pytest.approx(pixel[1] / 100)  # type: ignore[index]
    assert len(seeds) == 12 and len(set(seeds)) > 3, "no change came into effect"


@pytest.fixture
def record(demo: Checkpoint) -> SessionRecord:
    described = [IdentityBackend(demo, BackendOptions(SIZE)).describe()]
    return SessionRecord(recipe_of(demo), SourceFacts("camera", "camera 0"), lambda: described)


def test_a_snapshot_tells_of_the_frame_that_it_shows(record: SessionRecord, tmp_path: Path) -> None:
    class Shown:
        def write(self, picture: np.ndarray, shown_ns: int) -> None:
            pass

        def close(self) -> None:
            pass

    values = LiveParameters(ema=0.5)
    viewer = Viewer(SIZE, Look(), Stats(), [], Shown(), values, record=record)
    frame = LiveFrame(*(np.zeros((SIZE, SIZE, 3), np.uint8), [np.ones((SIZE, SIZE, 3), np.uint8)]))
    frame.id, frame.prompt, frame.params = 7, "ink", FrameParams(seed=5)
    viewer.show(frame)
    frame.id, frame.prompt, frame.params = 8, "pop art", FrameParams(seed=6)  # it is used again
    viewer.use(LiveParameters(ema=0.9))
    viewer.look.view = View.SIDE_BY_SIDE
    assert viewer.save_snapshot(tmp_path / "s.png")
    found = read_record(tmp_path / "s.png")
    assert (found["prompt"], found["seed"]) == ("ink", 5)
    assert found["source"] == {"kind": "camera", "name": "camera 0", "frame": 7}
    said = found["live"]
    assert (said["ema"], said["view"]) == (0.5, "side by side")  # type: ignore[index]


def test_without_a_recipe_a_session_writes_bare_pngs(demo: Checkpoint, tmp_path: Path) -> None:
    for name, recipe in (("a.png", None), ("b.png", recipe_of(demo))):
        open_session(
            SessionOptions("synthetic", headless=True, frames=1),
            LiveParameters(),
            SessionFiles((str(tmp_path / name),)),
            SIZE,
            demo,
            [IdentityBackend(demo, BackendOptions(SIZE))],
            recipe=recipe,
        ).run(lambda *_: None)
    bare, told = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert bare != told and without_text(told) == bare == without_text(bare)


def test_a_source_that_is_gone_is_told(demo: Checkpoint, tmp_path: Path) -> None:
    gone = SourceFacts("film", "gone.mp4", tmp_path / "gone.mp4")
    record = SessionRecord(recipe_of(demo), gone, list)
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    stamp = record.stamp(Moment.of(LiveFrame(picture, [picture]), LiveParameters(), "output"))
    with pytest.raises(SinkError, match=r"gone\.mp4: cannot be read again .*No such file"):
        stamp(b"", picture)


# Other programs.


def test_other_programs_read_prompt_and_settings(live: Callable[..., Path]) -> None:
    given = ("--prompt", "(ink:2) and (neon:1)", "--seed", 7, "--blend", 0.25)
    path = live(*LIVE, "--model", "demo-sketch", "--source", CAT, *given)
    assert parameters(path).splitlines()[0] == "(ink:2) and (neon:1)"
    unet = str(read_record(path)["hashes"]["unet"])  # type: ignore[index]
    assert facts(path) == {
        **{"Steps": "1", "Sampler": "Euler", "CFG scale": "1", "Seed": "7", "Size": "64x64"},
        **{"Model hash": unet[:10], "Model": "demo-sketch", "Blend": "0.25", "Source": "cat.jpg"},
        **{"Frame": "0", "Backend": "mlx", "Version": f"sdxs {read_record(path)['sdxs']}"},
    }


@pytest.mark.parametrize(
    ("prompt", "kind"), [("caf\u00e9", b"tEXt"), ("\u732b", b"iTXt"), ("a\nb", b"tEXt")]
)
def test_the_chunk_is_one_that_every_reader_knows_where_it_can_be(
    prompt: str, kind: bytes, live: Callable[..., Path]
) -> None:
    path = live(*PASSED, "--source", CAT, "--prompt", prompt)
    assert parameters(path).splitlines()[0] == " ".join(prompt.split())
    assert kind + b"parameters\0" in path.read_bytes() and last(path).startswith("Steps: 1, ")
    assert read_record(path)["prompt"] == prompt


def test_a_name_with_commas_stays_one_fact(live: Callable[..., Path], tmp_path: Path) -> None:
    name = 'a, b: "c".jpg'
    shutil.copy(CAT, tmp_path / name)
    path = live(*PASSED, "--source", tmp_path / name)
    assert facts(path)["Source"] == name and facts(path)["Frame"] == "0"


def test_a_name_that_is_no_text_does_not_end_the_session(demo: Checkpoint) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    recipe = recipe_of(demo, source="caf\udce9.png")
    described = IdentityBackend(demo, BackendOptions(SIZE)).describe()
    png = cv2.imencode(".png", picture)[1].tobytes()
    made = stamped(png, recipe.record(recipe.request, described, picture))
    assert b"caf?.png" in made and cv2.imdecode(np.frombuffer(made, np.uint8), 1) is not None


def test_control_and_strength_are_told_where_they_matter(demo: Checkpoint) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    described = IdentityBackend(demo, BackendOptions(SIZE)).describe()
    recipe = recipe_of(demo, strength=0.5, control="sketch", control_scale=0.8, edges="canny")
    said = parameters_of(recipe.record(recipe.request, described, picture))
    assert "Denoising strength: 0.5, Control: sketch, Control scale: 0.8, Edges: canny" in said
    recipe = recipe_of(demo)
    said = parameters_of(recipe.record(recipe.request, described, picture))
    assert "Control" not in said and "Denoising" not in said


# No folder of anybody's.


def test_records_name_no_folder(live: Callable[..., Path], command: Command) -> None:
    """A picture is passed on, and the path of a file tells who its owner is."""
    home = live(*PASSED, "--source", CAT).parent / "home" / "somebody"
    model = shutil.copytree(ROOT / "weights" / "demo-sketch", home / "models" / "own")
    control = model.rename(home / "models" / "own") / "controlnet"
    shutil.copy(CAT, home / "private.jpg")
    (home / "prompts.txt").write_text("ink\n")
    given = ("--model", home / "models" / "own", "--backend", "mlx", "--control", control)
    listed = ("--source", home / "private.jpg", "--prompts", home / "prompts.txt")
    of_live = live(*LIVE, *given, *listed, name="live.png")
    of_image = of_live.with_name("image.png")
    size = ("--size", SIZE, "--input", home / "private.jpg", "--out", of_image)
    done = command("image", *given, "--prompt", "ink", *size)
    assert done.code == 0, done.err
    for path in (of_live, of_image):
        text = parameters(path) + json.dumps(read_record(path))
        assert "private.jpg" in text and "own" in text and "controlnet" in text
        for private in ("somebody", "models", "prompts.txt", str(home), str(Path.home())):
            assert private not in text, path


def test_a_stream_has_no_address_and_is_not_read_for_its_hash(tmp_path: Path) -> None:
    """A pipe gives each byte once; an address may hold a password."""
    os.mkfifo(tmp_path / "pipe")
    card = Synthetic(SIZE)
    for spec, name in (
        (str(tmp_path / "pipe"), "pipe"),
        ("rtsp://me:secret@host/1", "rtsp://host/1"),
    ):
        card.name = name
        shown = "stream" if "://" in name else name
        assert opening._facts_of(spec, card) == SourceFacts("stream", shown)
    card.name = "clip.mp4"
    assert opening._facts_of(str(CLIP), card) == SourceFacts("film", "clip.mp4", CLIP)
    assert opening._facts_of("0", card).kind == "camera"


# Again.


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "demo", "--source", CAT, "--mirror", "--blend", 0.3, "--seed", 4),
        ("--model", "demo", "--source", CAT, "--isolate", "--background", "black"),
        (
            *("--model", "demo-sketch", "--control", "sketch", "--edges", "canny"),
            *("--source", CAT, "--frames", 3, "--control-scale", 0.7, "--seed", 2),
        ),
    ],
)
def test_a_frame_of_an_image_is_repeated_bit_for_bit(
    options: tuple[object, ...], live: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    shutil.copy(CAT, tmp_path / "cat.jpg")
    path = live(*LIVE, *(tmp_path / "cat.jpg" if each is CAT else each for each in options))
    assert again(command, path).read_bytes() == path.read_bytes()


def test_a_frame_of_a_film_is_repeated_from_the_film(
    live: Callable[..., Path], command: Command
) -> None:
    folder = live(*LIVE, "--model", "demo", "--source", CLIP, "--frames", 3, name="frames")
    path = folder / "frame-000003.png"
    assert again(command, path, "--input", CLIP).read_bytes() == path.read_bytes()
    done = command("image", "--from-metadata", path, "--out", folder / "gone.png")
    assert done.code == 1 and "clip.mp4: no such file beside" in done.err
    done = command("image", "--from-metadata", path, "--input", CAT, "--out", folder / "b.png")
    assert done.code != 0 and done.err.count("\n") == 1


def test_a_test_card_is_repeated_by_itself(live: Callable[..., Path], command: Command) -> None:
    path = live(*PASSED, "--source", "synthetic", "--frames", 5)
    assert again(command, path).read_bytes() == path.read_bytes()


FRAMES = ("--source", "synthetic", "--frames", 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            (*FRAMES, "--backend", "mlx", "--feedback", 0.3),
            "feedback 0.3 let the frames before it in",
        ),
        ((*FRAMES, "--ema", 0.6), "smoothing (ema 0.6) let the frames before it in"),
        ((*FRAMES, "--skip", 200), "it is the picture of an earlier frame (skip 200)"),
        ((*FRAMES, "--side-by-side"), "it shows more than the picture (view 'side by side')"),
        (
            (*FRAMES, "--hold", 2, "--prompt", "a", "--prompt", "b", "--transition", "2s"),
            "its prompt was on the way from another one",
        ),
        (("--source", "0", "--frames", 1), "it is a frame of camera 0, which nothing gives again"),
    ],
)
def test_what_depends_on_more_than_its_record_is_told(
    options: tuple[object, ...],
    reason: str,
    live: Callable[..., Path],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Camera(Synthetic):
        name = "camera 0"

    monkeypatch.setitem(registry.SOURCES, "camera", lambda rest, size, *_: Camera(size))
    monkeypatch.setattr("sdxs.commands.live.ask_for_camera", lambda index: None)
    path = live(*PASSED, *options)
    out = path.with_name("again.png")
    done = command("image", "--from-metadata", path, "--out", out)
    assert done.code == 2 and f"cannot be repeated: {reason}; " in done.err
    assert done.err.count("\n") == 1 and not out.exists()


def test_two_backends_and_edges_of_a_film_are_told(
    live: Callable[..., Path], command: Command
) -> None:
    both = live(*PASSED, *FRAMES, "--compare", "identity", name="both.png")
    held = live(
        *(*LIVE, "--model", "demo-sketch", "--control", "sketch"),
        *("--source", CLIP, "--frames", 3),
        name="held",
    )
    for path, reason in (
        (both, "it shows the pictures of two backends"),
        (held / "frame-000003.png", "its edges depend on the frames before it"),
    ):
        done = command("image", "--from-metadata", path, "--input", CLIP, "--out", "again.png")
        assert done.code == 2 and reason in done.err
    assert len(read_record(both)["live"]["beside"]) == 1  # type: ignore[index]
    first = held / "frame-000001.png"
    assert again(command, first, "--input", CLIP).read_bytes() == first.read_bytes()


def test_a_folder_of_models_is_asked_for(
    live: Callable[..., Path], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(ROOT / "weights" / "demo-sketch", tmp_path / "there" / "own")
    control = model / "controlnet"
    given = ("--model", model, "--control", control, "--source", "synthetic", "--frames", 1)
    path = live(*LIVE, *given)
    asked = ("image", "--from-metadata", path, "--out", tmp_path / "b.png")
    done = command(*asked)
    assert done.code == 2 and "a folder 'own', which is not here; name" in done.err
    done = command(*asked, "--model", model)
    assert done.code == 2 and "in a folder 'controlnet', which is not here" in done.err
    repeated = again(command, path, "--model", model, "--control", control)
    assert repeated.read_bytes() == path.read_bytes()
    monkeypatch.chdir(model.parent)
    assert command(*asked, "--control", control).code == 0  # a folder of that name is here


@pytest.mark.parametrize(
    "change",
    [
        {"live": "ink"},
        {"live": {}},
        {"source": None},
        {"source": {"kind": "film", "name": "a", "frame": "x"}},
        {"live": {"view": "output", "feedback": "much"}},
    ],
)
def test_a_damaged_record_of_a_session_is_told(
    change: dict[str, object], live: Callable[..., Path], command: Command
) -> None:
    path = live(*PASSED, *FRAMES)
    told = {**read_record(path), **change}
    path.write_bytes(with_text(without_text(path.read_bytes()), KEYWORD, json.dumps(told)))
    done = command("image", "--from-metadata", path, "--out", path.with_name("b.png"))
    assert done.code == 1 and "its record is damaged" in done.err and done.err.count("\n") == 1
