"""mac-check: which convolutions are faster as products, and who writes the table."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sdxs.common.checkpoint.find import find
from sdxs.mac_check import conv_forms, survey
from sdxs.mac_check.conv_forms import Shape, measured
from sdxs.mac_check.question import Plan, Question
from sdxs.mac_check.questions import table
from sdxs.mac_check.setup import Answer, Setup
from sdxs.mlx_sdxs import backend
from sdxs.mlx_sdxs.fast import conv_table, products
from sdxs.mlx_sdxs.fast.conv_table import Maker, Table, read_table

SIZE = 32
MAKER = Maker("Apple M5, applegpu_g17g", "0.32.4")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(conv_table, "user_cache", lambda: tmp_path)
    return tmp_path / "conv-table.json"


@pytest.fixture
def setup(tmp_path: Path, cache: Path) -> Iterator[Setup]:
    """The demo at a tiny size, with an exact picture that is MLX's own."""
    folder = str(find("demo", download=False).folder)
    made = Setup(folder, "demo", str(tmp_path), SIZE, "coreml", 2)
    own, _ = picture(made)
    np.save(made.exact_path, own)
    yield made


def picture(setup: Setup) -> tuple[np.ndarray, object]:
    made = conv_forms._frame_backend(setup)
    picture, *rest = conv_forms.render(made, setup.checkpoint(), setup.frame, 1)
    made.close()
    return picture, rest


def as_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU take Metal's way through a frame."""
    monkeypatch.setattr("sdxs.mlx_sdxs.frame.on_gpu", lambda: True)
    monkeypatch.setattr(backend, "on_metal", lambda: True)
    monkeypatch.setattr(products, "on_metal", lambda: True)


def fast(shape: Shape) -> Answer:
    """Every form at once, for a test."""
    return {"key": shape.key, "us": {}, "error": {}, "form": "unfold"}


@pytest.mark.parametrize(("direct_ms", "pays"), [(50.0, True), (1.0, False)])
def test_the_whole_frame_decides(
    setup: Setup, cache: Path, monkeypatch: pytest.MonkeyPatch, direct_ms: float, pays: bool
) -> None:
    as_metal(monkeypatch)
    monkeypatch.setattr(conv_forms, "measured", fast)
    times = iter([direct_ms, 20.0])
    seen: list[Table | None] = []

    def spread(values: object) -> dict[str, float]:
        seen.append(read_table())
        return {"p50": next(times)}

    monkeypatch.setattr(conv_forms, "spread", spread)
    answer = conv_forms.ask_conv_forms(setup)
    assert answer["ok"] is True and answer["pays"] is pays
    forms = answer["forms"]
    assert isinstance(forms, dict) and len(forms) > 10 and set(forms.values()) == {"unfold"}
    assert all(key.startswith("1 x ") for key in forms)
    assert f"1 x {SIZE} x {SIZE}, 3 -> 24, 3 x 3, stride 1, {conv_forms._dtype()}" in forms
    assert seen == [None, Table(products.maker(), forms)], "without a table, then with it"
    assert answer["psnr_db"] > 45 and not cache.exists()  # type: ignore[operator]
    assert answer["maker"] == asdict(products.maker()) and answer["matrix_unit"]


def test_forms_are_timed_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_forms, "ROUNDS", 1)
    shape = Shape((1, 12, 8, 16), (8, 3, 3, 16), 1, "float32")
    answer = measured(shape)
    assert answer["key"] == "1 x 12 x 8, 16 -> 8, 3 x 3, stride 1, float32"
    assert answer["us"].keys() == answer["error"].keys() == {"direct", "unfold", "columns"}  # type: ignore[attr-defined]
    assert max(answer["error"].values()) < 1e-6  # type: ignore[attr-defined]
    assert min(answer["us"].values()) > 0  # type: ignore[attr-defined]
    assert measured(Shape((1, 4, 4, 2), (2, 1, 1, 2), 1, "float32"))["us"].keys() == {  # type: ignore[attr-defined]
        "direct",
        "unfold",
    }


def test_a_form_that_errs_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    right = conv_forms.convolve
    times = {"direct": 100.0, "unfold": 10.0, "columns": 50.0}

    def coarse(x: mx.array, weight: mx.array, form: str, **more: int) -> mx.array:
        made = right(x, weight, form, **more)
        return made * 1.001 if form == "unfold" else made

    monkeypatch.setattr(conv_forms, "convolve", coarse)
    monkeypatch.setattr(conv_forms, "_chain_us", lambda x, weight, form, *_: times[form])
    assert measured(Shape((1, 12, 8, 16), (8, 3, 3, 16), 1, "float32"))["form"] == "columns"


def test_elsewhere_it_is_not_asked(setup: Setup) -> None:
    if products.on_metal():
        pytest.skip("here is Metal")
    answer = conv_forms.ask_conv_forms(setup)
    assert answer["ok"] and answer["asked"] is False


def answered(**more: object) -> Answer:
    forms = {"a": "unfold", "b": "direct"}
    return {"ok": True, "pays": True, "forms": forms, "maker": asdict(MAKER), **more}


def test_the_table_is_written_if_it_pays_and_not_in_a_rehearsal(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in (answered(pays=False), answered(ok=False), {"ok": True, "asked": False}):
        assert survey.keep_table(answer) == {} and not cache.exists()
    (question, *_) = (each for each in table(Plan()) if each.group == "conv forms")

    class Watcher:
        def __getattr__(self, name: str) -> object:
            return lambda *_: None

    def ask(self: object, question: Question) -> Answer:
        return answered()

    monkeypatch.setattr(survey._Interview, "ask", ask)
    monkeypatch.setattr(survey, "refuse_elsewhere", lambda runtime: None)
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    for runtime, written in (("reference", False), ("coreml", True)):
        plan = Plan(quick=True, runtime=runtime)
        survey.survey(plan, tmp_path / "mac.json", Watcher(), [question])  # type: ignore[arg-type]
        assert cache.exists() is written
    assert read_table() == Table(MAKER, {"a": "unfold", "b": "direct"})
    monkeypatch.setattr(conv_table, "user_cache", lambda: cache)  # a file in the folder's place
    refused = survey.keep_table(answered())
    assert refused["table_written"] is False and refused["table_error"]
