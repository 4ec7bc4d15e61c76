"""Convolutions as products: exact, chosen by a table of this machine only, and else MLX's own."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from sdxs.common import files
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SdxsWarning, WeightsError
from sdxs.mlx_sdxs import backend, doctor
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.fast import conv_table, products
from sdxs.mlx_sdxs.fast.conv_table import Maker, Table, choose, mismatch, read_table, store, unit
from sdxs.mlx_sdxs.fast.products import ProductConv, convolve, use_products
from sdxs.mlx_sdxs.options import MlxOptions

MAKER = '{"machine": "a", "mlx": "b", "form_version": 1}'
HERE = Maker("Apple M5 Max, applegpu_g17s", "0.32.4")


def normal(*shape: int) -> mx.array:
    generator = np.random.default_rng(shape)
    return mx.array(generator.standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(6, 10), (7, 5)])
@pytest.mark.parametrize("form", ["unfold", "columns"])
def test_a_product_computes_the_convolution(
    form: str, sides: tuple[int, int], stride: int, bias: bool
) -> None:
    """Two pictures and odd sides, so that a mixed-up axis shows; within float32's rounding.

    On a CPU 3e-7 was seen; a GPU sums in another order.
    """
    x, weight = normal(2, *sides, 4), normal(5, 3, 3, 4)
    added = normal(5) if bias else None
    exact = convolve(x, weight, "direct", added, stride)
    made = convolve(x, weight, form, added, stride)
    assert made.shape == exact.shape
    assert float(mx.abs(made - exact).max() / mx.abs(exact).max()) < 5e-6


def test_a_product_of_single_pixels() -> None:
    x, weight, bias = normal(2, 5, 3, 4), normal(6, 1, 1, 4), normal(6)
    exact, made = (convolve(x, weight, form, bias) for form in ("direct", "unfold"))
    assert float(mx.abs(made - exact).max()) < 1e-5
    for form in ("columns", "tiles4"):
        with pytest.raises(ValueError, match=f"form '{form}' cannot compute a 1 x 1"):
            convolve(x, weight, form, bias)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(4, 4, 3, padding=1)
        self.without_bias = nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False)
        self.one = nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(4, 4, 5, padding=2)
        self.cut = nn.Conv2d(4, 4, 3)

    def __call__(self, x: mx.array) -> mx.array:
        return self.cut(self.wide(self.one(self.without_bias(self.plain(x)))))


def test_what_is_replaced_and_by_what_key() -> None:
    net, x, asked = Net(), normal(1, 12, 8, 4), list[str]()
    exact = net(x)
    parameters = {name for name, _ in nn.utils.tree_flatten(net.parameters())}

    def note(key: str) -> str:
        asked.append(key)
        return "direct"

    use_products(net, note)
    assert {name for name, _ in nn.utils.tree_flatten(net.parameters())} == parameters
    assert mx.array_equal(net(x), exact), "direct is MLX's own, bit for bit"
    assert asked == [
        "1 x 12 x 8, 4 -> 4, 3 x 3, stride 1, float32",
        "1 x 12 x 8, 4 -> 4, 3 x 3, stride 2, float32",
        "1 x 6 x 4, 4 -> 4, 1 x 1, stride 1, float32",
    ]
    table = Table(HERE, {asked[0]: "columns", asked[1]: "unfold", asked[2]: "unfold"})
    use_products(other := Net(), table.form)
    other.update(net.parameters())
    made = other(x)
    assert float(mx.abs(made - exact).max()) < 1e-5 and table.as_products == 3
    assert not mx.array_equal(made, exact), "the forms were taken"


@pytest.mark.slow  # a CPU compiles in C++
@pytest.mark.parametrize("form", ["unfold", "columns"])
def test_a_form_can_be_compiled(form: str) -> None:
    x, weight = normal(2, 6, 10, 4), normal(5, 3, 3, 4)
    made = mx.compile(lambda x: convolve(x, weight, form))(x)
    assert float(mx.abs(made - convolve(x, weight, "direct")).max()) < 1e-4


# The table


def test_a_table_is_read_as_it_was_stored_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "a" / "forms.json"
    assert read_table(path) is None
    store({"one": "unfold", "two": "direct"}, HERE, path)
    store({"two": "columns"}, HERE, path)
    assert read_table(path) == Table(HERE, {"one": "unfold", "two": "columns"})
    newer = replace(HERE, mlx="0.33.0")
    store({"two": "direct"}, newer, path)
    found = read_table(path)
    assert found == Table(newer, {"two": "direct"}), "what another MLX measured is gone"
    assert found.form("one") == "direct" and found.as_products == 0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(HERE, machine="Apple M2, applegpu_g14g"), "another machine"),
        (replace(HERE, mlx="0.31.0"), "another MLX: 0.31.0, here 0.32.4"),
        (replace(HERE, form_version=0), "another version of the forms"),
    ],
)
def test_a_table_of_another_maker_is_not_used(other: Maker, said: str) -> None:
    assert said in mismatch(Table(other), HERE) and not mismatch(Table(HERE), HERE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": 2}',
        '{"schema": 1, "maker": {}, "forms": {}}',
        f'{{"schema": 1, "maker": {MAKER}, "forms": {{"k": "fast"}}}}',
        f'{{"schema": 1, "maker": {MAKER}, "forms": []}}',
    ],
)
def test_a_damaged_table_is_named_and_not_used(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "conv-table.json"
    path.write_text(text)
    with pytest.raises(WeightsError, match=r"conv-table.json: no table .*delete it"):
        read_table(path)
    monkeypatch.setattr(conv_table, "user_cache", lambda: tmp_path)
    with pytest.warns(SdxsWarning, match="convolutions are MLX's own"):
        assert products.valid_table() is None
    store({"k": "unfold"}, HERE, path)
    assert read_table(path) == Table(HERE, {"k": "unfold"})


@pytest.mark.parametrize(
    ("us", "passing", "form"),
    [
        ({"direct": 100.0, "unfold": 94.0, "columns": 96.0}, ("unfold", "columns"), "unfold"),
        ({"direct": 100.0, "unfold": 96.0, "columns": 97.0}, ("unfold", "columns"), "direct"),
        ({"direct": 100.0, "unfold": 10.0, "columns": 50.0}, ("columns",), "columns"),
        ({"direct": 100.0, "unfold": 10.0}, (), "direct"),
    ],
)
def test_a_product_has_to_gain(us: dict[str, float], passing: tuple[str, ...], form: str) -> None:
    assert choose(us, passing) == form


@pytest.mark.parametrize(
    ("architecture", "macos", "said"),
    [
        ("applegpu_g17s", "26.2", "there"),
        ("applegpu_g17g", "27.0", "there"),
        ("applegpu_g16s", "26.4", "none in applegpu_g16s"),
        ("applegpu_g17p", "26.4", "generation 18"),
        ("applegpu_g18p", "26.4", "there"),
        ("applegpu_g17s", "26.1", "from macOS 26.2, this is 26.1"),
        ("applegpu_g17s", "", "this is unknown"),
        ("", "26.2", "unknown"),
    ],
)
def test_who_has_the_matrix_unit(architecture: str, macos: str, said: str) -> None:
    assert said in unit(architecture, macos)


# The backend and the doctor


def picture(demo: Checkpoint) -> tuple[np.ndarray, MlxBackend]:
    made = MlxBackend(demo, MlxOptions(64, dtype="float32"))
    made.load()
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    out = np.empty_like(frame)
    made.submit(frame)
    made.collect(out)
    return out, made


def test_a_frame_takes_the_forms_of_the_table(
    demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU in the place of Metal: the table names every shape a product."""
    monkeypatch.setattr("sdxs.mlx_sdxs.frame.on_gpu", lambda: True)  # MLX's own convolutions
    monkeypatch.setattr(conv_table, "user_cache", lambda: tmp_path)
    plain, without = picture(demo)
    assert not {"convolutions"} & dict(without.describe().facts).keys()
    without.close()
    monkeypatch.setattr(backend, "on_metal", lambda: True)
    untouched, unused = picture(demo)  # no table yet
    assert np.array_equal(untouched, plain)
    unused.close()
    keys: list[str] = []
    monkeypatch.setattr(ProductConv, "__call__", noted(keys, ProductConv.__call__))
    store({"none of these": "unfold"}, products.maker())
    same, used = picture(demo)
    assert np.array_equal(same, plain) and keys, "direct, bit for bit"
    used.close()
    store(dict.fromkeys(keys, "unfold"), products.maker())
    made, used = picture(demo)
    assert int(np.abs(made.astype(int) - plain).max()) <= 1
    told = dict(used.describe().facts)["convolutions"]
    assert told == f"{len({*keys, 'none of these'})} shapes as products"
    used.close()


def noted(keys: list[str], right: object) -> object:
    def call(self: ProductConv, x: mx.array) -> mx.array:
        dtype = str(x.dtype).rpartition(".")[2]
        keys.append(conv_table.shape_key(x.shape, self.weight.shape, self._stride, dtype))
        return right(self, x)  # type: ignore[operator]

    return call


def test_doctor_says_whether_the_unit_is_there_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"device_name": "Apple M5 Max", "architecture": "applegpu_g17s"}
    monkeypatch.setattr(conv_table, "user_cache", lambda: tmp_path)
    monkeypatch.setattr(doctor, "macos_version", lambda: "26.2")
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.32.4")

    def said() -> tuple[bool | None, str]:
        check = doctor.matrix_unit(info)
        assert check.ok is not False and (check.ok or check.remedy)
        return check.ok, check.finding

    ok, finding = said()
    assert ok is None and "there" in finding and "not measured" in finding
    store({"a": "unfold", "b": "direct"}, Maker.of(info, "0.32.4"))
    ok, finding = said()
    assert ok and "1 of 2 shapes" in finding and str(tmp_path) in finding
    store({"a": "unfold"}, Maker.of(info, "0.31"))
    ok, finding = said()
    assert ok is None and "another MLX" in finding
    (tmp_path / "conv-table.json").write_text(json.dumps([]))
    assert said()[0] is None
    info["architecture"] = "applegpu_g14s"
    (tmp_path / "conv-table.json").unlink()
    ok, finding = said()
    assert ok and "none in applegpu_g14s" in finding
    assert files.user_cache() != tmp_path
