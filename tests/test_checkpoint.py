"""Finding, opening and verifying a checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sdxs.common.checkpoint import find as checkpoint_module
from sdxs.common.checkpoint.config.fields import JsonValue
from sdxs.common.checkpoint.find import (
    Checkpoint,
    find,
    local_folder,
    open_checkpoint,
    weights_folder,
)
from sdxs.common.checkpoint.manifest import SUMS, write_sums
from sdxs.common.checkpoint.registry import ENTRIES, entry
from sdxs.common.errors import ConfigError, SdxsWarning, UsageError, WeightsError

from .fake_hub import point_client_at, register


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide this machine's weights, hub cache and network; the weights folder is empty."""
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    point_client_at(9, tmp_path / "home", monkeypatch)
    return tmp_path / "weights"


def edit(path: Path, **changes: JsonValue) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def test_the_demo_opens_and_verifies(demo: Checkpoint) -> None:
    demo.verify()
    assert (demo.name, demo.origin) == ("demo", "weights")
    assert (demo.frame.timestep, demo.frame.noise_scale, demo.frame.size) == (500, 0.0, 256)
    assert (demo.folder / SUMS).is_file()


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "sdxs.json"]
)
def test_a_changed_byte_in_the_demo_is_noticed(demo: Checkpoint, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(demo.folder, tmp_path / "copy"))
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1  # in the last tensor's values, or in a json's white space or text
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match="the file has changed or is damaged"):
        checkpoint.verify()


def test_a_name_is_looked_for_in_the_weights_folder_first(
    tiny_folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = register(monkeypatch)
    assert local_folder(known) is None
    shutil.copytree(tiny_folder, elsewhere / known.name)
    assert local_folder(known) == (elsewhere / known.name, "weights")
    found = find(known.name)
    assert (found.name, found.origin, found.folder) == (
        known.name,
        "weights",
        elsewhere / known.name,
    )
    found.verify()


def test_the_weights_folder_comes_before_what_ships_with_the_code(
    tiny_folder: Path, elsewhere: Path
) -> None:
    assert find("demo").folder != elsewhere / "demo"
    shutil.copytree(tiny_folder, elsewhere / "demo")
    assert find("demo").folder == elsewhere / "demo"


def test_a_known_name_is_a_name_even_if_a_folder_is_called_so(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, "demo")
    assert find("demo").origin == "weights"
    assert find("./demo").origin == "path"


def test_a_path_is_opened_in_every_way_of_writing_it(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    for model in (str(tiny_folder), "tiny", "./tiny", "~/tiny", "tiny/"):
        found = find(model)
        assert (found.name, found.origin) == ("tiny", "path")
        assert found.folder.samefile(tiny_folder)
    monkeypatch.chdir(tiny_folder)
    assert find(".").name == "tiny"


@pytest.mark.parametrize(
    "model", ["./nowhere", "no/where", "~/nowhere", "~no-such-user/x", "/", ""]
)
def test_a_path_without_a_checkpoint(model: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(model)
    assert f"--model {model}: no checkpoint there" in str(caught.value)
    assert "sdxs weights list" in str(caught.value) and "\n" not in str(caught.value)


def test_a_weights_file_is_not_a_checkpoint(tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder in the diffusers layout"):
        find(str(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"))


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("sdxs-512-09", "sdxs-512-0.9"),
        ("SD-TURBO", "sd-turbo"),
        ("sdxs", "sdxs-512-0.9"),
        ("dmeo", "demo"),
        ("sdxs-dreamshaper", "sdxs-512-dreamshaper"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(asked: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(asked)
    message = str(caught.value)
    assert f"unknown model {asked!r}: did you mean {meant!r}?" in message
    assert all(name in message for name in ENTRIES) and "\n" not in message
    assert caught.value.exit_code == 2


def test_an_unknown_model_near_nothing() -> None:
    with pytest.raises(UsageError) as caught:
        find("zzzz")
    assert "unknown model 'zzzz': known are demo, " in str(caught.value)


def test_the_registry_is_pinned_and_complete() -> None:
    assert {
        "demo",
        "sdxs-512-0.9",
        "sdxs-512-dreamshaper",
        "sd-turbo",
        "tiny-sd",
        "small-sd",
    } <= set(ENTRIES)
    for name, known in ENTRIES.items():
        assert known.name == name and known.licence and known.note
        assert entry(name) is known
        if known.repo and not known.pickle_only:
            assert len(known.revision) == 40 and set(known.revision) <= set("0123456789abcdef")


def test_only_safetensors_json_and_text_are_asked_for() -> None:
    for known in ENTRIES.values():
        suffixes = {Path(name).suffix for name in known.files("vae_large")}
        assert suffixes == {".json", ".txt", ".safetensors"}


def test_a_vae_that_the_demo_does_not_have() -> None:
    with pytest.raises(
        WeightsError, match="demo with the VAE 'vae_large' is not in this installation"
    ):
        find("demo", vae_folder="vae_large")


def test_the_other_vae_of_a_path(tiny_folder: Path) -> None:
    large = find(str(tiny_folder), vae_folder="vae_large")
    large.verify()
    assert large.vae_weights == tiny_folder / "vae_large" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ConfigError, match=r"vae_huge/config\.json: file is missing"):
        find(str(tiny_folder), vae_folder="vae_huge")


def test_nothing_here_and_no_network_names_the_demo() -> None:
    with pytest.raises(WeightsError) as caught:
        find("sdxs-512-0.9")
    assert "sdxs-512-0.9 is not complete on this machine and the hub cannot be reached" in str(
        caught.value
    )
    assert "`--model demo` needs no network" in str(caught.value)


@pytest.mark.parametrize("size", [32, 64, 512, 1024])
def test_a_size_that_fits(tiny_sdxs: Checkpoint, size: int) -> None:
    tiny_sdxs.check_size(size)
    assert size % tiny_sdxs.size_multiple == 0


@pytest.mark.parametrize(
    ("size", "nearest"), [(0, 32), (-64, 32), (31, 32), (33, 32), (500, 512), (513, 512)]
)
def test_a_size_that_does_not_fit(tiny_sdxs: Checkpoint, size: int, nearest: int) -> None:
    assert tiny_sdxs.size_multiple == 32
    with pytest.raises(
        UsageError, match=rf"--size {size}: \S+ needs a multiple of 32; the nearest is {nearest}$"
    ):
        tiny_sdxs.check_size(size)


@pytest.mark.parametrize(
    ("part", "changes", "complaint"),
    [
        (
            "text_encoder",
            {"hidden_size": 128},
            "cross_attention_dim and text encoder hidden_size differ (64, 128)",
        ),
        ("unet", {"in_channels": 8}, "unet in_channels and vae latent_channels differ (8, 4)"),
        ("unet", {"out_channels": 8}, "unet out_channels and vae latent_channels differ (8, 4)"),
        ("vae", {"latent_channels": 16}, "unet in_channels and vae latent_channels differ (4, 16)"),
    ],
)
def test_parts_of_different_checkpoints(
    tiny_folder: Path, part: str, changes: dict[str, JsonValue], complaint: str
) -> None:
    edit(tiny_folder / part / "config.json", **changes)
    with pytest.raises(ConfigError) as caught:
        find(str(tiny_folder))
    assert complaint in str(caught.value) and str(tiny_folder) in str(caught.value)


def test_a_frame_size_that_the_networks_cannot_take(tiny_folder: Path) -> None:
    (tiny_folder / "sdxs.json").write_text('{"size": 500}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sdxs\.json: size is 500, expected a multiple of 32"):
        find(str(tiny_folder))


@pytest.mark.parametrize(
    "part",
    [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_config(tiny_folder: Path, part: str) -> None:
    (tiny_folder / part).unlink()
    with pytest.raises(ConfigError, match="file is missing"):
        open_checkpoint(tiny_folder)


def test_an_unknown_config_value_is_refused_on_opening(tiny_folder: Path) -> None:
    edit(tiny_folder / "unet" / "config.json", class_embed_type="timestep")
    with pytest.raises(ConfigError, match=r'unet/config\.json: class_embed_type is "timestep"'):
        find(str(tiny_folder))


WEIGHTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_missing_weights(tiny_folder: Path, name: str) -> None:
    checkpoint = find(str(tiny_folder))
    (tiny_folder / name).unlink()
    with pytest.raises(WeightsError, match="file is missing"):
        checkpoint.verify()


@pytest.mark.parametrize("name", WEIGHTS)
def test_truncated_weights(tiny_folder: Path, name: str) -> None:
    checkpoint = find(str(tiny_folder))
    content = (tiny_folder / name).read_bytes()
    (tiny_folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged or truncated"):
        checkpoint.verify()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_misshapen_tensor(tiny_folder: Path, name: str) -> None:
    tensors = load_file(tiny_folder / name)
    first = sorted(tensors)[0]
    save_file(tensors | {first: np.zeros(3, np.float32)}, tiny_folder / name)
    with pytest.raises(WeightsError, match=rf"{first} has shape \(3,\), its config asks for"):
        find(str(tiny_folder)).verify()


def test_weights_of_another_model_are_refused(tiny_folder: Path, demo: Checkpoint) -> None:
    shutil.copyfile(demo.unet_weights, tiny_folder / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match="do not belong together"):
        find(str(tiny_folder)).verify()


def rename_text(folder: Path, prefix: str) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    save_file(
        {
            prefix + name.removeprefix("text_model."): tensor
            for name, tensor in load_file(path).items()
        },
        path,
    )


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoders_of_both_transformers(tiny_folder: Path, prefix: str) -> None:
    rename_text(tiny_folder, prefix)
    checkpoint = find(str(tiny_folder))
    assert checkpoint.text_prefix() == prefix
    checkpoint.verify()


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_position_ids_are_no_weights(tiny_folder: Path, prefix: str) -> None:
    rename_text(tiny_folder, prefix)
    path = tiny_folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"{prefix}embeddings.position_ids": np.arange(77)[None]}, path)
    find(str(tiny_folder)).verify()
    save_file(tensors | {f"{prefix}embeddings.other_ids": np.arange(77)[None]}, path)
    with pytest.warns(SdxsWarning, match="other_ids"):
        find(str(tiny_folder)).verify()


def test_half_a_prefix_is_refused(tiny_folder: Path) -> None:
    rename_text(tiny_folder, "")
    path = tiny_folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    tensors[f"text_model.{first}"] = tensors.pop(first)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="tensors missing"):
        find(str(tiny_folder)).verify()


def test_sums_beside_a_path_are_checked(tiny_folder: Path) -> None:
    write_sums(tiny_folder)
    checkpoint = find(str(tiny_folder))
    checkpoint.verify()
    merges = tiny_folder / "tokenizer" / "merges.txt"
    merges.write_bytes(merges.read_bytes() + b"\n")
    with pytest.raises(WeightsError, match=r"merges\.txt: sha256 is"):
        checkpoint.verify()


def test_the_weights_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "big disk"))
    assert weights_folder() == tmp_path / "big disk"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SDXS_WEIGHTS", "~/models")
    assert weights_folder() == tmp_path / "models"


def test_a_source_checkout_keeps_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SDXS_WEIGHTS")
    monkeypatch.setattr(checkpoint_module, "PACKAGE_FOLDER", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    assert weights_folder() == tmp_path / "weights"


@pytest.mark.parametrize("xdg", [None, "", "xdg"])
def test_an_installed_wheel_writes_to_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xdg: str | None
) -> None:
    monkeypatch.delenv("SDXS_WEIGHTS")
    monkeypatch.setattr(checkpoint_module, "PACKAGE_FOLDER", tmp_path / "site-packages" / "sdxs")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg and str(tmp_path / xdg))
    assert weights_folder() == tmp_path / (xdg or ".cache") / "sdxs" / "weights"
