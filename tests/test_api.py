"""The Python API: the documented lines run, and what it renders is what a live session renders."""

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import sdxs.api
from command import Command
from sdxs.api import open_model
from sdxs.common.backend.assembly import options_for
from sdxs.common.backend.spec import spec_of
from sdxs.common.errors import UsageError
from sdxs.common.picture.opencv import cv2
from sdxs.experiments.parity.control import tiny_controlled

ROOT = Path(__file__).parent.parent
SIZE = 64


def documented() -> str:
    """The lines of the package's own documentation."""
    lines = (sdxs.api.__doc__ or "").splitlines()
    return (
        textwrap.dedent(
            "\n".join(line for line in lines if line.startswith("    ") or not line)
        ).strip()
        + "\n"
    )


def run(code: str, tmp_path: Path) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documented_lines_run(tmp_path: Path) -> None:
    assert len([line for line in documented().splitlines() if line]) <= 10
    assert run(documented(), tmp_path) == "(256, 256, 3) uint8\n"


def test_the_readmes_lines_run(tmp_path: Path) -> None:
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    shown = [block.split("```")[0] for block in blocks if "sdxs.api" in block]
    if not shown:
        pytest.skip("the README shows no Python yet")
    for code in shown:
        run(code, tmp_path)


def test_it_renders_what_a_live_session_renders(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    cv2.imwrite(
        str(source), np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    )
    done = command(
        "live",
        "--model",
        "demo",
        "--size",
        SIZE,
        "--source",
        source,
        "--headless",
        "--frames",
        1,
        "--prompt",
        "pop art",
        "--out",
        tmp_path / "out.png",
    )
    assert done.code == 0, done.err
    with open_model("demo", size=SIZE) as model:
        frame = cv2.cvtColor(cv2.imread(str(source)), cv2.COLOR_BGR2RGB)
        before = frame.copy()
        picture = model(frame, "pop art")
        np.testing.assert_array_equal(frame, before)
    np.testing.assert_array_equal(
        cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), cv2.imread(str(tmp_path / "out.png"))
    )


def test_every_call_is_its_own(tmp_path: Path) -> None:
    folder = tiny_controlled(tmp_path, "sdxs-512-dreamshaper").folder
    generator = np.random.default_rng(1)
    frame = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with open_model(str(folder), size=SIZE, control="sketch", edges="canny", still=True) as model:
        calls = {
            "held": lambda: model(frame, "a cat"),
            "free": lambda: model(frame, "a cat", control_scale=0),
            "other prompt": lambda: model(frame, "a dog"),
            "other seed": lambda: model(frame, "a cat", seed=1),
            "prompt alone": lambda: model(None, "a cat"),
        }
        pictures = {name: call() for name, call in calls.items()}
        for name, call in reversed(calls.items()):
            np.testing.assert_array_equal(call(), pictures[name], err_msg=name)
        for name, picture in pictures.items():
            assert picture.shape == frame.shape and picture.dtype == np.uint8
            assert all((picture != other).any() for key, other in pictures.items() if key != name)
        np.testing.assert_array_equal(model(None, "a cat", feedback=0.5), pictures["prompt alone"])
        with pytest.raises(UsageError, match="no edges to hold to"):
            model(None, "a cat", control_scale=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "tpu"}, "--backend tpu: expected one of mlx, coreml, coreai, identity"),
        ({"model": "sdxl"}, "unknown model 'sdxl'"),
        ({"size": 63}, "needs a multiple of"),
        ({"edges": "hed"}, "--edges hed"),
        ({"control": "sketch"}, "no sketch ControlNet for demo"),
        ({"strength": 0.5}, "trained for timestep"),
        ({"dtype": "float8"}, "--dtype float8"),
        ({"settings": {"colour": "red"}}, "unknown setting 'colour'"),
    ],
)
def test_what_cannot_be_is_refused_as_on_the_command_line(
    options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        open_model(**({"model": "demo"} | options))  # type: ignore[arg-type]


def test_the_demo_cannot_paint_from_a_prompt_alone() -> None:
    with (
        open_model("demo", size=SIZE) as model,
        pytest.raises(UsageError, match="paints over a picture"),
    ):
        model(None, "a cat")


def test_another_backend_takes_the_same_calls() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with open_model("demo", backend="identity", size=SIZE) as model:
        np.testing.assert_array_equal(model(frame, "a cat"), frame)
        assert model.describe()["backend"] == "identity"


WRONG: list[tuple[str, object]] = [
    *(("model", value) for value in (5, None, b"demo", ["demo"], np.zeros(2))),
    *(("backend", value) for value in (5, None, ["mlx"], b"mlx")),
    *(("size", value) for value in (64.0, math.nan, [64], True, 10**5000, "9" * 5000, b"64", -64)),
    *(("dtype", value) for value in (5, None, np.float32, [])),
    *(("vae", value) for value in (5, None, [])),
    *(("strength", value) for value in ("1", math.nan, math.inf, -1, 2, [1], 10**400, True)),
    *(("steps", value) for value in ("1", 1.5, math.nan, [1], True)),
    *(("control", value) for value in (5, None, [])),
    *(("edges", value) for value in (5, None, ["soft"], np.zeros(3))),
    *(("settings", value) for value in (5, "a=b", [("a", 1)], {5: 6})),
    *(("still", value) for value in (5, None, "yes")),
    *(("report", value) for value in (5, None, "yes")),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda each: type(each).__name__)
def test_an_argument_of_a_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        open_model(**({"model": "demo", "backend": "identity"} | {name: value}))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_precision_that_a_backend_has_no_choice_of_is_refused() -> None:
    """Bug: it was dropped."""
    with pytest.raises(UsageError, match=r"--dtype float16: identity has no choice of precision"):
        open_model("demo", "identity", dtype="float16")


def test_a_closed_model_says_that_it_is_closed() -> None:
    model = open_model("demo", "identity", 64)
    model.close()
    model.close()
    with pytest.raises(UsageError, match="the model is closed; open it again"):
        model(np.zeros((64, 64, 3), np.uint8), "a cat")


CALLS: list[tuple[str, object]] = [
    *(("prompt", value) for value in (5, None, b"a", ["a"])),
    *(("seed", value) for value in (-1, 1.5, "1", None, math.nan, True, [1])),
    *(("feedback", value) for value in (math.nan, -0.1, 1.1, "1", None, True, 10**400)),
    *(("control_scale", value) for value in (math.nan, -1, 3, "1", [1], math.inf)),
    ("frame", [[[0, 0, 0]]]),
    ("frame", np.zeros((SIZE, SIZE, 3))),
    ("frame", np.zeros((SIZE, SIZE), np.uint8)),
    ("frame", np.zeros((SIZE, SIZE, 4), np.uint8)),
    ("frame", "in.png"),
]


def test_a_call_names_the_argument_that_it_cannot_take(tmp_path: Path) -> None:
    folder = tiny_controlled(tmp_path, "sdxs-512-dreamshaper").folder
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    with open_model(str(folder), size=SIZE, control="sketch") as model:
        good = model(frame, "a cat", seed=np.int64(3), control_scale=np.float32(0.5))  # type: ignore[arg-type]
        for name, value in CALLS:
            with pytest.raises(UsageError, match=name) as caught:
                model(**({"frame": frame, "prompt": "a cat"} | {name: value}))  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)
        after = model(np.asfortranarray(frame), "a cat", seed=3, control_scale=0.5)
        np.testing.assert_array_equal(after, good)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sizes", 5), ("sizes", ["a"]), ("placement", 5), ("placement", ("ne",)), ("noise_seed", -1)],
)
def test_a_backends_setting_of_a_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        options_for(spec_of("coreml"), 64, {}, {name: value})
