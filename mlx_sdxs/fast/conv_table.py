"""The table of convolutions' forms that a Mac measured for itself: its file, and what it is for.

MLX has kernels for the matrix unit of an M5 (its neural accelerators) for products, quantised
products and attention, none for convolutions. So a convolution may be faster as a product
(`products.py`), by how much only the Mac at hand can tell. `sdxs mac-check` measures every shape
and writes this table; a frame then takes each convolution in the form that the table names.

Without a table, or with one of another machine, MLX or version of the forms, every convolution is
MLX's own, as it was before there were tables. `sdxs doctor` says which it is. Imports no MLX.

Not known without a Mac: whether a product of these shapes is fast enough to pay for gathering
its windows, whether MLX's rule for the unit (`unit`, as in its device.cpp) is still this, and
whether a run used the unit: Metal does not say, only times do.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...common.errors import WeightsError
from ...common.files import user_cache, write_whole

SCHEMA = 1
FORM_VERSION = 1  # increment when a form computes otherwise
FORMS = ("direct", "unfold", "columns")
# MLX's rule for its kernels of the matrix unit, by the name of the Metal architecture
LEAST_MACOS, LEAST_GENERATION, LEAST_OF_PHONES = (26, 2), 17, 18


@dataclass(frozen=True, slots=True)
class Maker:
    """What a table is valid for. machine: the GPU's name and architecture. mlx: its version."""

    machine: str
    mlx: str
    form_version: int = FORM_VERSION

    @staticmethod
    def of(info: Mapping[str, object], mlx: str) -> "Maker":
        """Describe this machine by `mx.device_info()`."""
        names = (str(info.get(name, "")) for name in ("device_name", "architecture"))
        return Maker(", ".join(filter(None, names)), mlx)


@dataclass(frozen=True, slots=True)
class Table:
    """Forms by `shape_key`; those that are missing are direct."""

    maker: Maker
    forms: Mapping[str, str] = field(default_factory=dict)

    def form(self, key: str) -> str:
        """Return the form of one shape."""
        return self.forms.get(key, "direct")

    @property
    def as_products(self) -> int:
        """Return how many shapes are products."""
        return sum(form != "direct" for form in self.forms.values())


def shape_key(shape: tuple[int, ...], weight: tuple[int, ...], stride: int, dtype: str) -> str:
    """Name a convolution. shape: (B, H, W, C) of its map. weight: (O, k, k, C)."""
    batch, height, width, inputs = shape
    outputs, kernel = weight[:2]
    name = f"{batch} x {height} x {width}, {inputs} -> {outputs}, {kernel} x {kernel}"
    return f"{name}, stride {stride}, {dtype}"


def table_path() -> Path:
    """Return the table's file, in the user's cache folder."""
    return user_cache() / "conv-table.json"


def read_table(path: Path | None = None) -> Table | None:
    """Read a table, whoever made it; None if there is none. Raises WeightsError if damaged."""
    path = path or table_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        made = content["maker"]
        maker = Maker(str(made["machine"]), str(made["mlx"]), int(made["form_version"]))
        forms = {str(key): str(form) for key, form in content["forms"].items()}
        if not set(forms.values()) <= set(FORMS) and maker.form_version == FORM_VERSION:
            raise ValueError(f"an unknown form; expected one of {', '.join(FORMS)}")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: no table of convolutions ({type(error).__name__}: {error}); delete it, or "
            "run `sdxs mac-check` again"
        ) from None
    return Table(maker, forms)


def mismatch(table: Table, here: Maker) -> str:
    """Return why a table is not valid here, or ''."""
    for what, theirs, ours in (
        ("machine", table.maker.machine, here.machine),
        ("MLX", table.maker.mlx, here.mlx),
        ("version of the forms", table.maker.form_version, here.form_version),
    ):
        if theirs != ours:
            return f"it is of another {what}: {theirs}, here {ours}"
    return ""


def store(forms: Mapping[str, str], maker: Maker, path: Path | None = None) -> Path:
    """Write a table; rows of the same maker that are not measured again stay. Raises SinkError."""
    path = path or table_path()
    try:
        before = read_table(path)
    except WeightsError:
        before = None  # it is replaced
    kept = dict(before.forms) if before and not mismatch(before, maker) else {}
    content = {
        "schema": SCHEMA,
        "maker": {
            "machine": maker.machine,
            "mlx": maker.mlx,
            "form_version": maker.form_version,
        },
        "forms": kept | dict(forms),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def choose(us: Mapping[str, float], passing: Iterable[str], gain: float = 0.95) -> str:
    """Return the fastest form that is near enough: a product only if it gains 5 % and more."""
    fit = {form: time for form, time in us.items() if form in set(passing) | {"direct"}}
    best = min(fit, key=lambda form: fit[form])
    return best if fit[best] <= gain * us["direct"] else "direct"


def unit(architecture: str, macos: str) -> str:
    """Say whether MLX takes a GPU to have the matrix unit: 'there', or why not.

    architecture: as 'applegpu_g17s'; its number is the generation, its last letter 'p' a phone's.
    """
    found = re.search(r"g(\d+)([a-z])$", architecture)
    if not found:
        return f"unknown for the GPU {architecture or 'without a name'}"
    least = LEAST_OF_PHONES if found[2] == "p" else LEAST_GENERATION
    if int(found[1]) < least:
        return f"none in {architecture}; it came with generation {least}, the M5"
    version = tuple(int(part) for part in macos.split(".")[:2] if part.isdecimal())
    if version < LEAST_MACOS:
        return f"in the chip, but MLX uses it from macOS 26.2, this is {macos or 'unknown'}"
    return "there"
