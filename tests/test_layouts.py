"""Checkpoints as people have them: every layout that diffusers reads renders the same picture."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from command import Command
from sdxs.api import open_model
from sdxs.common.checkpoint import find as find_module
from sdxs.common.checkpoint.config.fields import MOST_LAYERS, JsonValue
from sdxs.common.checkpoint.find import Checkpoint, find, open_checkpoint
from sdxs.common.checkpoint.layout import text_encoder_layout, unet_layout, vae_layout
from sdxs.common.checkpoint.manifest import SUMS, remembered_sha256, verify_hashes, write_sums
from sdxs.common.checkpoint.registry import ENTRIES
from sdxs.common.checkpoint.tensor_reader import TensorReader, check_values
from sdxs.common.checkpoint.tensors import read_header
from sdxs.common.checkpoint.torch_import import import_torch
from sdxs.common.checkpoint.weights_file import weights_file
from sdxs.common.errors import ConfigError, SdxsError, SdxsWarning, UsageError, WeightsError
from sdxs.common.prompt.text_encoder import TextEncoder
from sdxs.common.testing import layouts
from sdxs.common.testing.layouts import SAME, TEXT, UNET

from .fake_hub import point_client_at

KL = "vae_large"


def render(folder: Path, vae: str = KL) -> np.ndarray:
    frame = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with open_model(str(folder), "mlx", 64, vae=vae) as model:
        return model(frame, "a red fox")


@pytest.fixture(scope="module")
def plain(tiny_sdxs: Checkpoint) -> np.ndarray:
    return render(tiny_sdxs.folder)


@pytest.mark.parametrize("name", SAME)
def test_every_layout_renders_the_same(name: str, tiny_folder: Path, plain: np.ndarray) -> None:
    before = {path.relative_to(tiny_folder) for path in tiny_folder.rglob("*")}
    SAME[name](tiny_folder)
    if name not in ("old attention", "beside", "linked"):
        assert before != {path.relative_to(tiny_folder) for path in tiny_folder.rglob("*")}
    np.testing.assert_array_equal(render(tiny_folder), plain)
    assert len(np.unique(plain)) > 9


def test_bfloat16_renders_as_the_same_numbers_in_float32(tmp_path: Path, tiny_folder: Path) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "rounded"))
    layouts.bfloat16(tiny_folder)
    layouts.rounded(other)
    for path in layouts.weights_of(tiny_folder):
        assert {info.dtype for info in read_header(path).values()} == {"BF16"}
    np.testing.assert_array_equal(render(tiny_folder), render(other))
    states = TextEncoder(open_checkpoint(tiny_folder)).encode("a cat")
    np.testing.assert_array_equal(states, TextEncoder(open_checkpoint(other)).encode("a cat"))
    ours = TensorReader(tiny_folder / UNET).array("conv_in.weight")
    np.testing.assert_array_equal(ours, load_file(other / UNET)["conv_in.weight"])


@pytest.mark.parametrize("name", SAME)
def test_core_ml_and_the_text_encoder_read_the_same(
    name: str, tiny_folder: Path, tiny_sdxs: Checkpoint
) -> None:
    from sdxs.graphs.weights import Store

    SAME[name](tiny_folder)
    found, expected = (open_checkpoint(f, vae_folder=KL) for f in (tiny_folder, tiny_sdxs.folder))
    for path, plain, layout in (
        (found.unet_weights, expected.unet_weights, unet_layout(found.unet)),
        (found.vae_weights, expected.vae_weights, vae_layout(found.vae)),
    ):
        stored = load_file(plain)
        with Store(path) as store:
            assert not [n for n in layout if (store.tensor(n) != stored[n]).any()]
    states = [TextEncoder(checkpoint).encode("a cat") for checkpoint in (found, expected)]
    np.testing.assert_array_equal(*states)


def test_the_shards_of_a_variant_are_read(tiny_folder: Path) -> None:
    expected = load_file(tiny_folder / UNET)
    index = layouts.shard(tiny_folder / UNET, "fp16")
    assert open_checkpoint(tiny_folder).unet_weights == index
    reader = TensorReader(index)
    assert not [n for n in expected if (reader.array(n) != expected[n]).any()]


def test_a_changed_shard_changes_the_hash(tiny_folder: Path) -> None:
    index = layouts.shard(tiny_folder / UNET)
    before = remembered_sha256(index)
    assert remembered_sha256(index) == before
    layouts.spoil(next(iter(sorted(index.parent.glob("*-00002-of-*.safetensors")))), 0.5)
    assert remembered_sha256(index) != before


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "../../outside.safetensors"}, "expected .safetensors files beside it"),
        ({"a": "model.bin"}, "expected .safetensors files beside it"),
        ({"a": f"{'a' * 5000}.safetensors"}, "expected .safetensors files beside it"),
        ({"a": "gone.safetensors"}, "gone.safetensors: file is missing"),
        ({"a": 3}, "damaged, or no index"),
        ({}, "damaged, or no index"),
        (None, "damaged, or no index"),
        ([], "damaged, or no index"),
    ],
)
def test_an_index_that_is_none(tiny_folder: Path, weight_map: JsonValue, said: str) -> None:
    index = layouts.shard(tiny_folder / UNET)
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    message = refusal(tiny_folder)
    assert said in message and ("pull" in message or "copy" in message)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{" * 5000, b'{"weight_map": ' + b"[" * 5000]
)
def test_an_index_that_is_no_json(tiny_folder: Path, content: bytes) -> None:
    layouts.shard(tiny_folder / UNET).write_bytes(content)
    assert "damaged, or no index" in refusal(tiny_folder)


def test_a_tensor_in_two_shards_is_refused(tiny_folder: Path) -> None:
    index = layouts.shard(tiny_folder / UNET)
    first, second = sorted(index.parent.glob("*.safetensors"))
    shutil.copyfile(first, second)
    assert f"and so does {first.name}" in refusal(tiny_folder)


def test_two_variants_are_named_and_none_is_chosen(tiny_folder: Path) -> None:
    path = tiny_folder / UNET
    shutil.copyfile(path, path.with_suffix(".fp16.safetensors"))
    assert weights_file(path.parent, "diffusion_pytorch_model") == path
    path.rename(path.with_suffix(".non_ema.safetensors"))
    message = refusal(tiny_folder)
    assert "diffusion_pytorch_model.fp16.safetensors and diffusion_pytorch_model.non_ema" in message
    assert f"rename the one to use to {path.name}" in message


def test_what_else_is_in_the_folder_is_named(tiny_folder: Path) -> None:
    (tiny_folder / UNET).rename(tiny_folder / "unet" / "unet_lcm.safetensors")
    assert "the folder holds config.json and unet_lcm.safetensors" in refusal(tiny_folder)


def test_a_link_to_nothing_is_called_that(tiny_folder: Path) -> None:
    (tiny_folder / UNET).unlink()
    (tiny_folder / UNET).symlink_to("../../blobs/0123")
    assert "is a link to ../../blobs/0123, which is not there" in refusal(tiny_folder)


@pytest.mark.parametrize("name", [UNET, TEXT])
def test_a_pointer_of_git_lfs_is_called_that(tiny_folder: Path, name: str) -> None:
    size = (tiny_folder / name).stat().st_size
    layouts.pointer(tiny_folder / name)
    message = refusal(tiny_folder)
    assert f"Git LFS pointer, not the file that it stands for ({size:,} bytes)" in message
    assert "git lfs pull" in message


def test_a_pointer_in_the_place_of_json_or_a_pickle(tiny_folder: Path, tmp_path: Path) -> None:
    pickle = tmp_path / "model.bin"
    pickle.write_bytes(bytes(3000))
    layouts.pointer(pickle)
    with pytest.raises(WeightsError, match="is a Git LFS pointer, .*3,000 bytes"):
        import_torch(pickle, tmp_path / "model.safetensors", tmp_path / "manifest.json")
    layouts.pointer(tiny_folder / "tokenizer" / "vocab.json")
    with pytest.raises(ConfigError, match=r"vocab\.json: not readable as json \(it is a Git LFS"):
        TextEncoder(open_checkpoint(tiny_folder))


def test_tensors_of_a_larger_network_are_left_out_with_a_warning(
    tiny_folder: Path, plain: np.ndarray
) -> None:
    more = {"mid_block.resnets.7.conv1.weight": np.ones((8, 8, 3, 3), np.float32)}
    layouts.change(tiny_folder / UNET, lambda tensors: tensors | more)
    with pytest.warns(SdxsWarning, match=r"1 tensors its config knows nothing of are left out"):
        np.testing.assert_array_equal(render(tiny_folder), plain)


def refusal(folder: Path, vae: str = "vae") -> str:
    with pytest.raises(SdxsError) as caught:
        open_checkpoint(folder, vae_folder=vae).verify()
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SAME)
def test_diffusers_reads_the_same(name: str, tiny_folder: Path) -> None:
    """The same numbers under the same names, for every tensor that we read."""
    diffusers = pytest.importorskip("diffusers", reason="the parity extra is not installed")
    transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
    SAME[name](tiny_folder)
    checkpoint = open_checkpoint(tiny_folder, vae_folder=KL)
    variant = {"variant": "fp16"} if name == "fp16 variant" else {}
    for kind, part, path, layout in (
        (
            diffusers.UNet2DConditionModel,
            "unet",
            checkpoint.unet_weights,
            unet_layout(checkpoint.unet),
        ),
        (diffusers.AutoencoderKL, KL, checkpoint.vae_weights, vae_layout(checkpoint.vae)),
        (
            transformers.CLIPTextModel,
            "text_encoder",
            checkpoint.text_encoder_weights,
            text_encoder_layout(checkpoint.text_encoder),
        ),
    ):
        theirs = {
            key.removeprefix("text_model."): value.numpy()
            for key, value in kind.from_pretrained(tiny_folder / part, **variant)
            .state_dict()
            .items()
        }
        ours = TensorReader(path)
        prefix = checkpoint.text_prefix() if part == "text_encoder" else ""
        for key in layout:
            np.testing.assert_array_equal(ours.array(prefix + key), theirs[key], err_msg=key)


# Values


@pytest.mark.parametrize("name", [UNET, *layouts.VAES, TEXT])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "holds 1 NaN values"),
        pytest.param(float("inf"), "holds 1 infinite values", marks=pytest.mark.thorough),
        (-float("inf"), "holds 1 infinite values"),
        (0.0, "is zero throughout"),
    ],
)
def test_values_that_no_network_has(tiny_folder: Path, name: str, value: float, said: str) -> None:
    tensor = layouts.spoil(tiny_folder / name, value)
    checkpoint = open_checkpoint(tiny_folder, vae_folder=KL if KL in name else "vae")
    checkpoint.verify()
    with pytest.raises(WeightsError) as caught:
        checkpoint.check_values()
    assert f"{tiny_folder / name}: {tensor} {said}; the file is damaged" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_are_counted_in_every_dtype(tmp_path: Path, dtype: type) -> None:
    sound = np.array([[0.0, -0.0, 1.0, np.finfo(dtype).max, np.finfo(dtype).tiny / 4]], dtype)
    path = tmp_path / "a.safetensors"
    tensors = {"a.weight": sound, "a.bias": np.zeros(3, dtype), "one": np.array(1, dtype)}
    save_file(tensors, path)
    check_values(path, tensors)
    save_file(tensors | {"a.bias": np.array([np.nan, np.inf, -np.nan], dtype)}, path)
    with pytest.raises(WeightsError, match="a.bias holds 2 NaN and 1 infinite values; the"):
        check_values(path, tensors)
    check_values(path, ["a.weight", "one"])


def test_values_in_bfloat16(tiny_folder: Path) -> None:
    layouts.spoil(tiny_folder / UNET, float("inf"), "conv_in.bias")
    layouts.spoil(tiny_folder / TEXT, float("nan"))
    layouts.bfloat16(tiny_folder)
    checkpoint = open_checkpoint(tiny_folder)
    with pytest.raises(WeightsError, match=r"conv_in\.bias holds 1 infinite values"):
        checkpoint.check_values()


def test_weights_verify_looks_at_values(tiny_folder: Path, command: Command) -> None:
    sound = command("weights", "verify", tiny_folder)
    assert sound.code == 0 and "hold numbers" in sound.out
    layouts.spoil(tiny_folder / UNET, float("nan"))
    damaged = command("weights", "verify", tiny_folder)
    assert damaged.code == 1 and "1 NaN values" in damaged.out.replace("\n", " ")


def test_convert_looks_at_values(tiny_folder: Path, tmp_path: Path) -> None:
    from sdxs.coreml_backend.program import Variant, build

    layouts.spoil(tiny_folder / layouts.VAES[0], 0)
    with pytest.raises(WeightsError, match="is zero throughout"):
        build(open_checkpoint(tiny_folder), Variant(64), tmp_path / "no.mlpackage")
    assert not (tmp_path / "no.mlpackage").exists()


# Damaged files


def test_a_damaged_header_is_never_called_a_pickle(tmp_path: Path) -> None:
    """A header's length whose first byte is 0x80 made one in 32 a pickle."""
    chance, path, tried = random.Random(5), tmp_path / "model.safetensors", 0
    for pad in range(0, 1300, 8):
        save_file({"a": np.ones(2, np.float32)}, path, {"pad": "x" * pad})
        content = bytearray(path.read_bytes())
        for _ in range(4):
            damaged = bytearray(content)
            damaged[chance.randrange(2, 60)] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged[: chance.choice([9, 30, len(damaged)])])
            if _is_damaged(path):
                with pytest.raises(WeightsError, match="damaged or truncated"):
                    read_header(path)
                tried += damaged[0] == 0x80 and damaged[1] in range(2, 6)
    assert tried >= 8  # with the first two bytes of a pickle


def _is_damaged(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy"):
            return False
    except SafetensorError:
        return True


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensors: {n: t for n, t in tensors.items() if "layers.1.mlp.fc2" not in n},
        lambda tensors: tensors | {"final_layer_norm.bias": np.zeros(3, np.float32)},
        lambda tensors: tensors | {"final_layer_norm.bias": np.zeros(64, np.int64)},
        lambda tensors: tensors | {"final_layer_norm.bias": np.full(64, np.nan, np.float32)},
        lambda tensors: {"a": np.zeros(3, np.float32)},
    ],
    ids=["missing", "shape", "dtype", "nan", "other"],
)
def test_a_text_encoder_is_checked_before_it_encodes(
    tiny_folder: Path, edit: Callable[[layouts.Tensors], layouts.Tensors]
) -> None:
    layouts.change(tiny_folder / TEXT, edit)
    with pytest.raises(WeightsError, match=r"text_encoder/model\.safetensors: ") as caught:
        TextEncoder(open_checkpoint(tiny_folder)).encode("a cat")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_tokens_than_the_text_encoder(tiny_folder: Path) -> None:
    table = "embeddings.token_embedding.weight"
    layouts.change(tiny_folder / TEXT, lambda t: t | {table: t[table][:900].copy()})
    edit(tiny_folder / "text_encoder" / "config.json", vocab_size=900)
    with pytest.raises(
        WeightsError, match="the tokenizer knows token 8,191, the text encoder only"
    ):
        TextEncoder(open_checkpoint(tiny_folder)).encode("a cat")


def edit(path: Path, **changes: JsonValue) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(stored | changes), encoding="utf-8")


# Configs

HUGE = 10**9


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet", {"layers_per_block": HUGE}),
        ("unet", {"layers_per_block": [1, HUGE, 1]}),
        ("unet", {"transformer_layers_per_block": MOST_LAYERS + 1}),
        ("unet", {"block_out_channels": [32, 64, HUGE * 32]}),
        ("unet", {"block_out_channels": [32] * 10_000}),
        ("unet", {"attention_head_dim": HUGE}),
        ("unet", {"in_channels": HUGE}),
        ("unet", {"cross_attention_dim": 10**400}),
        ("unet", {"norm_eps": 10**400}),
        ("vae", {"num_encoder_blocks": [1, 3, 3, HUGE]}),
        ("vae", {"latent_channels": HUGE}),
        ("vae_large", {"layers_per_block": HUGE}),
        ("vae_large", {"block_out_channels": [8, 16, 32, HUGE * 8]}),
        ("text_encoder", {"num_hidden_layers": HUGE}),
        ("text_encoder", {"hidden_size": HUGE * 4}),
        ("text_encoder", {"intermediate_size": HUGE}),
        ("text_encoder", {"vocab_size": HUGE}),
        ("text_encoder", {"num_attention_heads": HUGE}),
    ],
)
def test_absurd_counts_are_refused_from_the_config(
    tiny_folder: Path, part: str, changes: dict[str, JsonValue]
) -> None:
    edit(tiny_folder / part / "config.json", **changes)
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(tiny_folder, vae_folder=KL if part == KL else "vae")
    (key,) = changes
    assert f"{part}/config.json: {key} is " in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sdxs.json", {"size": HUGE}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": HUGE}),
    ],
)
def test_absurd_frames_are_refused(
    tiny_folder: Path, name: str, changes: dict[str, JsonValue]
) -> None:
    if not (tiny_folder / name).exists():
        (tiny_folder / name).write_text("{}", encoding="utf-8")
    edit(tiny_folder / name, **changes)
    with pytest.raises(ConfigError, match="expected at most"):
        open_checkpoint(tiny_folder)


def test_what_the_architectures_ask_for_is_not_absurd(tmp_path: Path) -> None:
    from sdxs.common.testing.random_checkpoint import ARCHITECTURES, architecture

    names = sorted(path.stem for path in ARCHITECTURES.glob("*.json"))
    for name in names:
        for part, config in architecture(name).items():
            stem = "scheduler_config" if part == "scheduler" else "config"
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / f"{stem}.json").write_text(
                json.dumps(config), encoding="utf-8"
            )
        checkpoint = open_checkpoint(tmp_path / name)
        assert text_encoder_layout(checkpoint.text_encoder)
    assert len(names) >= 4


# Hashes and places


def test_an_emptied_sums_file_verifies_nothing(tiny_folder: Path, command: Command) -> None:
    write_sums(tiny_folder)
    assert verify_hashes(tiny_folder, tiny_folder / "manifest.json") > 5
    (tiny_folder / SUMS).write_bytes(b"")
    with pytest.raises(WeightsError, match="SHA256SUMS: names no file, .* restore the file"):
        open_checkpoint(tiny_folder).verify()
    verified = command("weights", "verify", tiny_folder)
    assert verified.code == 1 and "good" not in verified.out


def test_a_path_without_a_checkpoint_says_what_is_there(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "lora").mkdir(parents=True)
    (tmp_path / "models" / "dream.safetensors").touch()
    with pytest.raises(UsageError, match=r"no checkpoint there; it holds dream\.safetensors and l"):
        find(str(tmp_path / "models"))
    with pytest.raises(UsageError, match="no checkpoint there; expected a folder"):
        find(str(tmp_path / "models" / "dream.safetensors"))
    with pytest.raises(UsageError) as caught:
        find(str(tmp_path))
    assert f"but one in {tiny_folder}; use --model {tiny_folder}" in str(caught.value)


def test_another_revision_in_the_hub_cache_is_named_and_renders(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: np.ndarray
) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(find_module, "PACKAGE_FOLDER", tmp_path)
    point_client_at(9, tmp_path / "home", monkeypatch)
    from huggingface_hub import constants

    known = ENTRIES["sd-turbo"]
    repo = Path(constants.HF_HUB_CACHE, f"models--{known.repo.replace('/', '--')}")
    other = repo / "snapshots" / ("ab" * 20)
    other.parent.mkdir(parents=True)
    shutil.copytree(tiny_folder, other)
    said = f"the hub cache holds its revision abababababab, which `--model {other}` renders with"
    for download in (True, False):
        with pytest.raises(WeightsError) as caught:
            find("sd-turbo", download=download)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    np.testing.assert_array_equal(render(other), plain)
    with pytest.raises(UsageError, match=f"but one in {other}"):
        find(str(repo))
    other.rename(other.with_name(known.revision))  # without all of its files
    (other.with_name(known.revision) / UNET).unlink()
    with pytest.raises(WeightsError, match="the hub cache holds other files of its revision"):
        find("sd-turbo", download=False)
