"""Faults of a checkpoint's texts: configs and tokenizers."""

import json
from collections.abc import Iterator
from functools import partial
from random import Random

from .checkpoints import CONFIGS, EITHER, REFUSED, TOKENIZER, edit_file, folder_in_place, render
from .damage import NOT_JSON, odd_json, overwritten, shown, write
from .fault import Case, Right, kind
from .place import Place


@kind("configs")
def configs(draw: Random) -> Iterator[Case]:
    """Values of wrong types, absurd counts, NaN; texts that are no JSON."""
    for number in range(18):
        name = CONFIGS[number % len(CONFIGS)]
        yield f"{name}: something odd", partial(_odd_config, name=name)
    for key, value in (
        ("block_out_channels", [10**9] * 3),
        ("layers_per_block", 10**9),
        ("attention_head_dim", [0, 0, 0]),
        ("norm_num_groups", 0),
        ("cross_attention_dim", -64),
        ("in_channels", 10**15),
        ("layers_per_block", [1] * 10**5),
    ):
        yield (
            f"unet/config.json: {key} is {shown(value)}",
            partial(_set, name="unet/config.json", key=key, value=value),
        )
    for key, value in (("num_hidden_layers", 10**9), ("vocab_size", 10**12), ("hidden_size", 0)):
        name = "text_encoder/config.json"
        yield f"{name}: {key} is {value}", partial(_set, name=name, key=key, value=value)
    for key, value in (
        ("size", float("nan")),
        ("size", 10**9),
        ("timestep", -1),
        ("timestep", "x"),
    ):
        what = f"sdxs.json: {key} is {value}"
        yield what, partial(_set, name="sdxs.json", key=key, value=value)
    for text in draw.sample(NOT_JSON, 5):
        name = draw.choice(CONFIGS)
        what = f"{name} is {text[:6]!r}, {len(text):,} characters"
        codes = EITHER if text == "\ufeff{}" else REFUSED
        yield what, partial(_texted, name=name, text=text, right=Right(codes))


def _odd_config(place: Place, name: str) -> None:
    path = place.checkpoint() / name
    what, text = odd_json(json.loads(path.read_text(encoding="utf-8")), place.draw)
    place.note(what)
    write(path, text)
    render(place, Right(EITHER))


def _set(place: Place, name: str, key: str, value: object) -> None:
    path = place.checkpoint() / name
    given = json.loads(path.read_text(encoding="utf-8"))
    write(path, json.dumps(given | {key: value}))
    render(place, Right(REFUSED, says=key if key != "layers_per_block" else ""))


def _texted(place: Place, name: str, text: str, right: Right) -> None:
    write(place.checkpoint() / name, text)
    render(place, right)


@kind("tokenizers")
def tokenizers(draw: Random) -> Iterator[Case]:
    """Vocabularies and merges that are damaged, of another model, or no text."""
    for text in ("", "{}", "[]", '{"a": "b"}', '{"a": -1, "b": 1e99}', "{", DEEP_VOCAB):
        what = f"vocab.json is {text[:20]!r}"
        yield what, partial(_texted, name=TOKENIZER[0], text=text, right=Right(REFUSED))
    for text in ("", "#version: 0.2\n", "a b c d\n" * 3, "\0", "one\n", "zz qq\n" * 5):
        what = f"merges.txt is {text[:20]!r}"
        yield what, partial(_texted, name=TOKENIZER[1], text=text, right=Right(EITHER))
    for text in ("[]", '{"pad_token": 5}', '{"pad_token": {"content": []}}', "null"):
        what = f"special_tokens_map.json is {text}"
        yield what, partial(_texted, name=TOKENIZER[2], text=text, right=Right(EITHER))
    for name in TOKENIZER[:2]:
        share = draw.random()
        yield (
            f"{name} is cut off at {share:.1%}",
            partial(
                edit_file,
                name=name,
                edit=lambda b, s=share: b[: int(s * len(b))],
                right=Right(REFUSED if name.endswith("json") else EITHER),
            ),
        )
        yield (
            f"{name}: bytes that are no UTF-8",
            partial(
                edit_file,
                name=name,
                edit=lambda b, s=share: overwritten(b, s, b"\xff\xfe"),
                right=Right(REFUSED),
            ),
        )
        yield f"{name} is a folder", partial(folder_in_place, name=name, right=Right(REFUSED))


DEEP_VOCAB = '{"a":' * 50_000
