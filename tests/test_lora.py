"""LoRA: names, fit and fusing; what caches, prompts and the text encoder make of it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from command import Command
from sdxs.common.adapt.loras import MOST_LORAS, Lora, identity, read_loras
from sdxs.common.adapt.mix import mixed
from sdxs.common.backend import program_cache
from sdxs.common.backend.assembly import ModelOptions, open_checkpoint_for, with_loras
from sdxs.common.checkpoint.find import Checkpoint, find
from sdxs.common.checkpoint.layout import unet_layout
from sdxs.common.checkpoint.tensor_reader import TensorReader
from sdxs.common.errors import SdxsWarning, UsageError, WeightsError
from sdxs.common.prompt.syntax import parse_prompt
from sdxs.common.prompt.text_encoder import TextEncoder
from sdxs.common.testing.random_lora import Kind, Layers, is_attention, layers_of, write_lora

TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
CONV = "down_blocks.0.resnets.0.conv1"


def some(checkpoint: Checkpoint, *names: str) -> Layers:
    return layers_of(checkpoint, lambda network, layer: network == "unet" and layer in names)


def opened(checkpoint: Checkpoint, path: Path, weight: float = 1.0) -> Checkpoint:
    return with_loras(checkpoint, [Lora(path, weight)])


# Fusing.


@pytest.mark.parametrize("scheme", ["diffusers", "kohya"])
def test_a_weight_becomes_w_plus_s_alpha_over_rank_b_a(
    tmp_path: Path, tiny_sdxs: Checkpoint, scheme: str
) -> None:
    kind = Kind(scheme, 4, 2.0, seed=3)
    path = write_lora(tmp_path / "a.safetensors", some(tiny_sdxs, TO_Q, CONV), kind)
    stored = load_file(path)
    base, found = TensorReader(tiny_sdxs.unet_weights), opened(tiny_sdxs, path, 0.7).unet_tensors()
    scaling = 0.7 * (2 / 4 if scheme == "kohya" else 1)  # diffusers' files say no alpha
    for layer in (TO_Q, CONV):
        name = f"lora_unet_{layer.replace('.', '_')}" if scheme == "kohya" else f"unet.{layer}"
        a, b = ("lora_down", "lora_up") if scheme == "kohya" else ("lora_A", "lora_B")
        down, up = stored[f"{name}.{a}.weight"], stored[f"{name}.{b}.weight"]
        product = np.einsum("or,r...->o...", up.reshape(len(up), -1).astype(float), down)
        expected = base.array(f"{layer}.weight") + scaling * product
        np.testing.assert_allclose(found.array(f"{layer}.weight"), expected, rtol=0, atol=1e-6)
        assert np.abs(expected - base.array(f"{layer}.weight")).max() > 0.01
    other = "conv_in.weight"
    np.testing.assert_array_equal(found.array(other), base.array(other))


def test_alpha_of_the_metadata_counts(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    path = write_lora(tmp_path / "a.safetensors", some(tiny_sdxs, TO_Q))
    plain = opened(tiny_sdxs, path).unet_tensors().array(f"{TO_Q}.weight")
    config = {"unet.lora_alpha": 8, "unet.r": 4, "unet.alpha_pattern": {"attn2.to_q": 2}}
    save_file(load_file(path), path, {"lora_adapter_metadata": json.dumps(config)})
    base = TensorReader(tiny_sdxs.unet_weights).array(f"{TO_Q}.weight")
    halved = opened(tiny_sdxs, path).unet_tensors().array(f"{TO_Q}.weight")
    np.testing.assert_allclose(halved - base, (plain - base) / 2, rtol=0, atol=1e-6)


def test_dora_scales_each_output_to_its_magnitude(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    path = write_lora(tmp_path / "a.safetensors", some(tiny_sdxs, TO_Q, CONV), Kind(dora=True))
    found, stored = opened(tiny_sdxs, path).unet_tensors(), load_file(path)
    for layer in (TO_Q, CONV):
        weight = found.array(f"{layer}.weight")
        norms = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)
        wanted = np.abs(stored[f"unet.{layer}.lora_magnitude_vector"].reshape(-1))
        np.testing.assert_allclose(norms, wanted, rtol=1e-5)


def test_the_order_of_several_makes_no_difference(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    layers = some(tiny_sdxs, TO_Q)
    paths = [
        write_lora(tmp_path / f"{n}.safetensors", layers, Kind(dora=n == 1, seed=n))
        for n in range(3)
    ]
    one = with_loras(tiny_sdxs, [Lora(path, 0.5) for path in paths])
    other = with_loras(tiny_sdxs, [Lora(path, 0.5) for path in paths[::-1]])
    np.testing.assert_allclose(
        one.unet_tensors().array(f"{TO_Q}.weight"),
        other.unet_tensors().array(f"{TO_Q}.weight"),
        rtol=0,
        atol=1e-6,
    )
    assert identity(one.loras) == identity(other.loras) != ""


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("unet."),
        lambda name: "base_model.model." + name,
        lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(
            ".lora_B.", ".lora_B.default."
        ),
        lambda name: name.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."),
        lambda name: re.sub(
            r"\.to_q\.lora_([AB])",
            lambda m: f".processor.to_q_lora.{'down' if m[1] == 'A' else 'up'}",
            name,
        ),
    ],
)
def test_older_names_are_read(tmp_path: Path, tiny_sdxs: Checkpoint, rename) -> None:
    path = write_lora(tmp_path / "a.safetensors", some(tiny_sdxs, TO_Q))
    expected = opened(tiny_sdxs, path).unet_tensors().array(f"{TO_Q}.weight")
    save_file({rename(name): values for name, values in load_file(path).items()}, path)
    found = opened(tiny_sdxs, path).unet_tensors().array(f"{TO_Q}.weight")
    np.testing.assert_array_equal(found, expected)


def test_without_loras_nothing_is_read_differently(tiny_sdxs: Checkpoint) -> None:
    assert tiny_sdxs.adapters() is None
    assert isinstance(tiny_sdxs.unet_tensors(), TensorReader)
    assert identity(()) == ""


# What does not fit.


def test_what_does_not_fit_is_told_by_layer_and_reason(
    tmp_path: Path, tiny_sdxs: Checkpoint
) -> None:
    layers = layers_of(tiny_sdxs, lambda network, layer: network == "unet" and "attn1" in layer)
    layers |= {("unet", "mid_block.attentions.0.proj_in"): (128, 128)}
    path = write_lora(tmp_path / "a.safetensors", layers)
    with pytest.warns(
        SdxsWarning,
        match=r"1 of \d+ layers do not fit .*mid_block.attentions.0.proj_in \(the checkpoint has",
    ):
        opened(tiny_sdxs, path)


def test_with_less_than_nine_tenths_it_stops_unless_told(
    tmp_path: Path, tiny_sdxs: Checkpoint
) -> None:
    layers = some(tiny_sdxs, TO_Q)
    layers[("unet", CONV)] = (999, 32, 3, 3)
    path = write_lora(tmp_path / "a.safetensors", layers)
    with pytest.raises(WeightsError, match=r"1 of 2 layers fit .*\(999, 4, 1, 1\).*--lora-partial"):
        opened(tiny_sdxs, path)
    with pytest.warns(SdxsWarning, match="1 of 2 layers do not fit"):
        taken = with_loras(tiny_sdxs, [Lora(path, partial=True)])
    assert taken.unet_tensors().array(f"{TO_Q}.weight").dtype == np.float32


def broken(path: Path, layers: Layers, how: str) -> None:
    """Write a file that is no sound LoRA of the checkpoint."""
    write_lora(path, layers)
    tensors = load_file(path)
    name = f"unet.{TO_Q}"
    match how:
        case "rank":
            tensors[f"{name}.lora_B.weight"] = tensors[f"{name}.lora_B.weight"][:, :3].copy()
        case "nan":
            tensors[f"{name}.lora_A.weight"][1, 2] = np.nan
        case "half":
            del tensors[f"{name}.lora_B.weight"]
        case "LoHa" | "LoKr":
            part = {"LoHa": "hada_w1_a", "LoKr": "lokr_w1"}[how]
            tensors = {f"lora_unet_conv_in.{part}": np.ones((2, 2), np.float32)}
        case "XL":
            tensors = {"lora_te2_x.lora_down.weight": np.ones((2, 2), np.float32)}
        case "width":
            tensors = {
                key: np.zeros((4, 999), np.float32) if "lora_A" in key else value
                for key, value in tensors.items()
            }
        case "checkpoint":
            tensors = {"conv_in.weight": np.ones((2, 2), np.float32)}
    save_file(tensors, path)
    match how:
        case "empty":
            path.write_bytes(b"")
        case "header":
            path.write_bytes(b"\xff" * 7 + path.read_bytes()[7:])
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "pickle":
            path.write_bytes(b"PK\x03\x04" + bytes(99))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("rank", r"rank 4 in .*lora_A.weight .* and 3 in .*lora_B.weight .*expected one rank"),
        ("nan", r"lora_A.weight holds values that are not finite"),
        ("half", r"has no up matrix"),
        ("LoHa", r"is LoHa, which is not supported; expected LoRA"),
        ("LoKr", r"is LoKr, which is not supported"),
        ("XL", r"is for Stable Diffusion XL"),
        ("width", r"0 of 1 layers fit this checkpoint.*\(4, 999\)"),
        ("checkpoint", r"holds no LoRA: none of its 1 tensors"),
        ("empty", r"is empty \(0 bytes\)"),
        ("header", r"damaged or truncated"),
        ("cut", r"damaged or truncated"),
        ("pickle", r"a pickle under a safetensors name"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, tiny_sdxs: Checkpoint, how: str, said: str) -> None:
    path = tmp_path / "a.safetensors"
    broken(path, some(tiny_sdxs, TO_Q), how)
    with pytest.raises(WeightsError, match=said) as caught:
        opened(tiny_sdxs, path)
    assert str(path) in str(caught.value) and "; " in str(caught.value)  # where, and a remedy


def test_a_pickle_by_its_name_is_never_opened(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"anything")
    with pytest.raises(WeightsError, match="is a pickle by its name"):
        opened(tiny_sdxs, path)


def test_one_of_the_text_encoder_alone_is_taken_only_if_told(
    tmp_path: Path, tiny_sdxs: Checkpoint
) -> None:
    layers = layers_of(tiny_sdxs, lambda network, _: network == "text_encoder")
    path = write_lora(tmp_path / "a.safetensors", layers)
    with pytest.raises(WeightsError, match=r"changes only the text encoder.*--lora-partial"):
        opened(tiny_sdxs, path)
    taken = with_loras(tiny_sdxs, [Lora(path, partial=True)])
    before = TextEncoder(tiny_sdxs).encode("a cat")
    assert np.abs(TextEncoder(taken).encode("a cat") - before).max() > 0.01


# Options.


def test_weights_folders_and_names_are_read(tmp_path: Path) -> None:
    for name in ("a", "b:2", "c"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "d.safetensors").write_bytes(b"x")
    texts = ("a.safetensors", "b:2.safetensors", "c.safetensors:-0.5", "more")
    found = read_loras(f"{tmp_path}/{text}" for text in texts)
    assert [(lora.name, lora.weight) for lora in found] == [
        ("a", 1.0),
        ("b:2", 1.0),
        ("c", -0.5),
        ("d", 0.0),
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("none.safetensors",), "no such file"),
        (("a.safetensors:much",), "weight 'much', expected a number"),
        (("a.safetensors:11",), "weight 11, expected a number from -10 to 10"),
        (("a.safetensors:nan",), "weight nan"),
        (("a.safetensors", "a.safetensors:2"), "has the name of"),
        (("more:0.5",), "a folder has no weight"),
        (("more",), "holds no .safetensors"),
        (("",), "--lora is empty"),
    ],
)
def test_a_wrong_option_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.safetensors").write_bytes(b"x")
    Path("more").mkdir()
    with pytest.raises(UsageError, match=said):
        read_loras(texts)


def test_forty_at_once_are_refused_and_a_folder_of_forty_is_not(
    tmp_path: Path, tiny_sdxs: Checkpoint
) -> None:
    files = [tmp_path / f"{n}.safetensors" for n in range(40)]
    write_lora(files[0], some(tiny_sdxs, TO_Q), Kind(rank=1))
    for file in files[1:]:
        file.write_bytes(files[0].read_bytes())
    with pytest.raises(UsageError, match=f"40 LoRAs at once, expected at most {MOST_LORAS}"):
        read_loras(map(str, files))
    adapters = with_loras(tiny_sdxs, read_loras([str(tmp_path)])).adapters()
    assert adapters is not None and adapters.weights == (0.0,) * 40
    assert sum(mixed(adapters, "a cat <lora:7:0.5>")) == 0.5


# Prompts.


def test_a_prompt_names_loras(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    layers = some(tiny_sdxs, TO_Q)
    files = [write_lora(tmp_path / f"{n}.safetensors", layers) for n in ("ink", "oil")]
    adapters = with_loras(tiny_sdxs, [Lora(files[0], 0.5), Lora(files[1], 0.0)]).adapters()
    assert adapters is not None
    for prompt, weights in (
        ("a cat", (0.5, 0.0)),
        ("a cat <lora:oil:0.8>", (0.5, 0.8)),
        ("<LORA:ink:-1> a cat <lora:oil>", (-1.0, 1.0)),
        ("a >> b <lora:oil:1> @ 0.25", (0.5, 0.25)),
        ("(a:2) and (b <lora:oil:0.3>:1)", (0.5, 0.3)),
        ("a >> b <lora:oil:1> // c <lora:ink:0> >> d @ 0.25 0.5", (0.3125, 0.125)),
    ):
        assert mixed(adapters, prompt) == pytest.approx(weights)
    with pytest.raises(UsageError, match="did you mean 'oil'.*given are ink, oil"):
        mixed(adapters, "a cat <lora:oils:1>")


@pytest.mark.parametrize(
    "text", ["<lora:a:1", "<lora:a:x> b", "<lora::1> b", "<lora:a:1:2> b", "<lora:a:11>"]
)
def test_a_malformed_lora_of_a_prompt_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="<lora:NAME:WEIGHT>"):
        parse_prompt(text)


def test_the_words_beside_a_lora_are_the_prompt(tiny_sdxs: Checkpoint, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "ink.safetensors", some(tiny_sdxs, TO_Q))
    with_ink, plain = TextEncoder(opened(tiny_sdxs, path)), TextEncoder(tiny_sdxs)
    np.testing.assert_array_equal(
        with_ink.encode("a grey <lora:ink:0.3> cat"), plain.encode("a grey cat")
    )
    with pytest.raises(UsageError, match="none was given; add --lora"):
        plain.encode("a grey <lora:ink:0.3> cat")


def test_the_text_encoder_follows_the_weight(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    path = write_lora(tmp_path / "a.safetensors", layers_of(tiny_sdxs, is_attention))
    encoder = TextEncoder(opened(tiny_sdxs, path))
    full, half = encoder.encode("a cat"), encoder.encode("a cat", 0.5)
    np.testing.assert_array_equal(half, encoder.encode("a cat <lora:a:0.5>"))
    np.testing.assert_array_equal(
        encoder.encode("a cat", 0.0), TextEncoder(tiny_sdxs).encode("a cat")
    )
    assert np.abs(full - half).max() > 0.01


# Identity.


def test_a_program_is_known_by_its_loras(tmp_path: Path, tiny_sdxs: Checkpoint) -> None:
    path = write_lora(tmp_path / "a.safetensors", some(tiny_sdxs, TO_Q))
    plain = program_cache.key(tiny_sdxs, {}, "1")
    keys = {program_cache.key(opened(tiny_sdxs, path, weight), {}, "1") for weight in (1, 0.5)}
    assert len(keys | {plain}) == 3
    assert program_cache.key(replace(tiny_sdxs, loras=(Lora(path, 0.0),)), {}, "1") == plain


def test_options_lead_to_a_changed_checkpoint(tmp_path: Path) -> None:
    demo = open_checkpoint_for(ModelOptions("demo"))
    layers = layers_of(
        demo, lambda network, layer: network == "unet" and is_attention(network, layer)
    )
    path = write_lora(tmp_path / "a.safetensors", layers)
    options = ModelOptions("demo", lora=(f"{path}:0.25",))
    assert open_checkpoint_for(options).loras == (Lora(path, 0.25),)
    assert ("--lora", path) in options.reads()
    changed = open_checkpoint_for(options).unet_tensors()
    assert all(name in changed for name in unet_layout(demo.unet))


# Fused checkpoints.


def test_a_fused_checkpoint_is_one_like_any_other(
    tmp_path: Path, tiny_sdxs: Checkpoint, command: Command
) -> None:
    path = write_lora(tmp_path / "ink.safetensors", layers_of(tiny_sdxs, is_attention))
    to = tmp_path / "mine"
    given = ("weights", "fuse", str(tiny_sdxs.folder), "--lora", f"{path}:0.5")
    done = command(*given, "--to", str(to))
    assert done.code == 0 and "verified" in done.out, done
    made, changed = find(str(to)), opened(tiny_sdxs, path, 0.5)
    assert made.loras == ()
    made.verify()
    expected, found = changed.unet_tensors(), made.unet_tensors()
    for name in unet_layout(made.unet):
        np.testing.assert_array_equal(found.array(name), expected.array(name))
    np.testing.assert_array_equal(
        TextEncoder(made).encode("a cat"), TextEncoder(changed).encode("a cat")
    )
    note = json.loads((to / "fused.json").read_text())
    assert note["loras"] == [["ink.safetensors:0.5", Lora(path).sha256]]
    again = command(*given, "--to", str(to))
    assert again.code == 2 and "exists already" in again.err
    assert command(*given, "--to", str(to), "--force").code == 0
    weights = to / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert command("weights", "verify", str(to)).code == 1
