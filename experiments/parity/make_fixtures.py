"""Write the committed parity fixtures: what diffusers and transformers make of random weights.

`python -m sdxs.experiments make-fixtures` (extra `[parity]`) writes `tests/fixtures/`.
Weights and inputs are not stored: `fixtures` draws them again. Stored are the outputs, computed in
float64, and 3,000 texts with CLIPTokenizer's ids.
"""

import gzip
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ... import mlx_sdxs  # noqa: F401 - puts the BLAS in place before anything imports MLX or torch

# isort: split
import numpy as np
from safetensors.numpy import save_file

from ...mac_check.fixtures import (
    FIXTURES,
    NAMES,
    PADDINGS,
    STORED,
    TOKENIZER,
    Arrays,
    inputs_of,
    make_texts,
    open_parts,
    padded_tokenizer,
    tiny_checkpoint,
    tiny_inputs,
    weights_sample,
)
from ..options import Options
from .control import write_control_fixtures
from .demos import write_demo_fixtures
from .diffusers import ORACLE, clip_ids, hush


def _write_tokenizer(path: Path) -> None:
    texts = make_texts(3000, json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8")))
    ids: dict[str, dict[str, object]] = {}
    for pad in PADDINGS:
        with tempfile.TemporaryDirectory() as temporary:
            rows = clip_ids(texts, padded_tokenizer(Path(temporary), pad)).tolist()
        last = rows[0][-1]  # of an empty text
        for row in rows:
            while row and row[-1] == last:
                row.pop()
        ids[pad] = {"pad": last, "rows": rows}
    content = {"texts": texts, "ids": ids}
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))


@dataclass(frozen=True, slots=True)
class MakeFixturesOptions(Options):
    """None: the fixtures are what they are."""


def run(options: MakeFixturesOptions) -> None:
    """Write the fixtures, and say so."""
    hush()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    stored: Arrays = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in NAMES:
            folder = tiny_checkpoint(Path(temporary), name)
            stored[f"{name}/weights"] = weights_sample(folder)
            for label, (part, checkpoint) in open_parts(folder).items():
                inputs = inputs_of(label, tiny_inputs(checkpoint))
                for what, array in ORACLE[part](checkpoint, inputs, exact=True).items():
                    if " by " not in what:
                        kept = array if array.dtype == np.uint8 else array.astype(np.float32)
                        stored[f"{name}/{label}/{what}"] = np.ascontiguousarray(kept)
            print(f"{name}: done")
        write_control_fixtures(Path(temporary))
    write_demo_fixtures()
    save_file(stored, FIXTURES / STORED)
    _write_tokenizer(FIXTURES / "tokenizer.json.gz")
