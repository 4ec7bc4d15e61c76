"""The ControlNet against diffusers' outputs for the same weights, and checkpoints it cannot fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from command import Command
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.config.controlnet import ControlNetConfig
from sdxs.common.checkpoint.config.fields import Fields
from sdxs.common.checkpoint.find import Checkpoint, find, open_checkpoint, with_control
from sdxs.common.checkpoint.layout import controlnet_layout, parameter_count, skip_channels
from sdxs.common.errors import BackendError, ConfigError, UsageError, WeightsError
from sdxs.common.picture.size import FrameSize
from sdxs.common.testing.random_checkpoint import (
    architecture,
    control_config,
    tiny,
    write_checkpoint,
    write_control,
)
from sdxs.experiments.parity.control import (
    CONTROL_FIXTURES,
    CONTROL_NAMES,
    draw_control_inputs,
    run_control,
    tiny_controlled,
)
from sdxs.mac_check.fixtures import NETWORK_LIMIT, SHAPES, X0_LIMIT, error
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.networks.controlnet import ControlNetModel
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64
STORED = load_file(CONTROL_FIXTURES)
DREAMSHAPER = "sdxs-512-dreamshaper"


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    made: dict[str, Checkpoint] = {}

    def checkpoint(name: str = DREAMSHAPER) -> Checkpoint:
        if name not in made:
            made[name] = tiny_controlled(tmp_path_factory.mktemp("controlled"), name)
        return made[name]

    return checkpoint


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("name", CONTROL_NAMES)
def test_residuals_and_x0_equal_diffusers(
    name: str, square: bool, controlled: Callable[[str], Checkpoint]
) -> None:
    checkpoint = controlled(name)
    size = FrameSize.of(SIZE) if square else SHAPES[checkpoint.size_multiple][0]
    stored = name if square else f"{name} {size}"
    ours = run_control(checkpoint, draw_control_inputs(checkpoint, size, seed=7))
    assert {f"{stored}/{what}" for what in ours} == {
        key for key in STORED if key.startswith(f"{stored}/")
    }
    for what, array in ours.items():
        assert error(what, array, STORED[f"{stored}/{what}"]) <= (
            X0_LIMIT if what.startswith("x0") else NETWORK_LIMIT
        ), what
    assert error("x0", ours["x0 controlled"], ours["x0 free"]) > 0.01, (
        "the control makes no difference"
    )


def full_config(name: str = DREAMSHAPER) -> ControlNetConfig:
    return ControlNetConfig.parse(Fields(control_config(architecture(name)["unet"]), "here"))


def test_the_published_sketch_controlnet_has_this_layout() -> None:
    """Its config's layout has 746 MB in float32, its size on the hub, middle block included."""
    config = full_config()
    assert skip_channels(config.unet) == (320, 320, 320, 640, 640, 1280)
    assert round(4 * parameter_count(controlnet_layout(config)) / 1e6) == 746
    layout = controlnet_layout(config)
    assert layout["controlnet_cond_embedding.blocks.5.weight"] == (256, 96, 3, 3)
    assert layout["controlnet_down_blocks.5.weight"] == (1280, 1280, 1, 1)


@pytest.mark.parametrize("name", CONTROL_NAMES)
def test_attributes_are_the_files_keys(name: str) -> None:
    """Full size; parameters are lazy, so nothing is allocated."""
    config = full_config(name)
    ours = {key: array.shape for key, array in tree_flatten(ControlNetModel(config).parameters())}
    layout = controlnet_layout(config)
    assert ours.keys() == layout.keys()
    for key, shape in layout.items():
        expected = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
        assert ours[key] == expected, key


def test_its_norms_have_the_eps_of_diffusers() -> None:
    norms = {
        k: m
        for k, m in ControlNetModel(full_config()).named_modules()
        if isinstance(m, nn.GroupNorm)
    }
    inner = {k for k in norms if "attentions" in k}
    assert inner and {norms[k].eps for k in inner if k.endswith(".norm")} == {1e-6}
    assert {m.eps for k, m in norms.items() if k not in inner} == {1e-5}


# In the backend


@pytest.fixture
def backend(controlled: Callable[[str], Checkpoint]):
    made = MlxBackend(controlled(DREAMSHAPER), MlxOptions(SIZE))
    made.load()
    made.set_conditioning(np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32))
    yield made
    made.close()


def drawing(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        (255 * (generator.random((SIZE, SIZE)) < 0.1)).astype(np.uint8),
    )


def render(backend: MlxBackend, picture: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    out = np.empty_like(picture)
    backend.submit(picture, edges)
    backend.collect(out)
    return out


def test_scale_is_live_and_zero_is_the_frame_without_control(
    backend: MlxBackend, controlled: Callable[[str], Checkpoint]
) -> None:
    picture, edges = drawing(1)
    pictures = {}
    for scale in (0.0, 0.5, 1.0):
        backend.set_params(FrameParams(control_scale=scale))
        pictures[scale] = render(backend, picture, edges)
    assert (pictures[0.5] != pictures[1.0]).mean() > 0.1 and (
        pictures[0.5] != pictures[0.0]
    ).mean() > 0.1
    backend.set_params(FrameParams(control_scale=1.0))
    np.testing.assert_array_equal(render(backend, picture, edges), pictures[1.0])
    assert (render(backend, picture, drawing(2)[1]) != pictures[1.0]).any()

    free = MlxBackend(replace(controlled(DREAMSHAPER), control=None), MlxOptions(SIZE))
    free.load()
    free.set_conditioning(np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32))
    np.testing.assert_array_equal(render(free, picture, None), pictures[0.0])
    free.close()


def test_a_scale_of_zero_does_not_run_the_controlnet(
    backend: MlxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, edges = drawing(1)
    calls: list[object] = []
    original = ControlNetModel.__call__
    monkeypatch.setattr(
        ControlNetModel, "__call__", lambda self, *a: calls.append(1) or original(self, *a)
    )
    backend.set_params(FrameParams(control_scale=0.0))
    render(backend, picture, None)
    assert not calls
    backend.set_params(FrameParams(control_scale=0.1))
    render(backend, picture, edges)
    assert calls


@pytest.mark.parametrize(
    "edges",
    [
        None,
        np.zeros((SIZE, SIZE), np.float32),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((SIZE, 2 * SIZE), np.uint8)[:, ::2],
    ],
    ids=["none", "float", "colour", "strided"],
)
def test_wrong_edges_are_refused(backend: MlxBackend, edges: np.ndarray | None) -> None:
    backend.set_params(FrameParams(control_scale=1.0))
    with pytest.raises(BackendError, match="edges"):
        backend.submit(drawing(1)[0], edges)


def test_a_scale_without_a_controlnet_is_refused(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE))
    backend.load()
    with pytest.raises(BackendError, match="no ControlNet is loaded"):
        backend.set_params(FrameParams(control_scale=0.5))
    backend.close()


# What does not fit


@pytest.fixture
def dreamshaper(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "dream", tiny(architecture(DREAMSHAPER)))


def config(**changes: object) -> dict[str, object]:
    return control_config(tiny(architecture(DREAMSHAPER))["unet"]) | changes  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cross_attention_dim": 128}, "cross_attention_dim is 128, dream needs 64"),
        ({"layers_per_block": 2}, "number of residuals is 9, dream needs 6"),
        (
            {"block_out_channels": [32, 64, 64]},
            r"widths of residuals is \(32, 32, 32, 64, 64, 64\), dream needs",
        ),
        (
            {"conditioning_embedding_out_channels": [16, 32, 96]},
            "reduction of the picture is 4, dream needs 8",
        ),
        ({"in_channels": 8}, "in_channels is 8, dream needs 4"),
        ({"conditioning_channels": 1}, "conditioning_channels is 1, dream needs 3"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name is"),
        ({"global_pool_conditions": True}, "global_pool_conditions is true"),
        ({"controlnet_conditioning_channel_order": "hsv"}, "controlnet_conditioning_channel_order"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
    ],
)
def test_a_controlnet_of_another_model_is_refused(
    changes: dict[str, object], said: str, dreamshaper: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "control"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(**changes)))
    with pytest.raises(ConfigError, match=said):
        with_control(open_checkpoint(dreamshaper), str(folder))


def test_sketch_of_09_and_dreamshaper_do_not_mix(
    tiny_sdxs: Checkpoint, dreamshaper: Path, tmp_path: Path
) -> None:
    """At full size it is the prompt's width, 1024 against 768."""
    full = architecture("sdxs-512-0.9")["unet"]
    assert (full["cross_attention_dim"], full_config().unet.cross_attention_dim) == (1024, 768)
    unet = ControlNetConfig.parse(Fields(control_config(full), "here")).unet
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text(
        json.dumps(control_config(architecture(DREAMSHAPER)["unet"]))
    )
    with pytest.raises(ConfigError, match="cross_attention_dim is 768, tiny needs 1024"):
        with_control(replace(tiny_sdxs, name="tiny", unet=unet), str(tmp_path / "c"))


def test_a_missing_tensor_is_named(dreamshaper: Path) -> None:
    folder = write_control(
        dreamshaper / "controlnet", control_config(tiny(architecture(DREAMSHAPER))["unet"])
    )
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["controlnet_mid_block.weight"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="first 'controlnet_mid_block.weight'"):
        with_control(open_checkpoint(dreamshaper), "sketch").verify()


def test_sketch_is_found_beside_its_checkpoint_or_by_its_name(
    dreamshaper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    checkpoint = open_checkpoint(dreamshaper, DREAMSHAPER)
    assert with_control(checkpoint, "none").control is None
    with pytest.raises(
        WeightsError,
        match="sketch is not on this machine and cannot be pulled: published as a pickle",
    ):
        with_control(checkpoint, "sketch")
    with pytest.raises(
        UsageError, match="no sketch ControlNet for demo .known: .*; demo-sketch.*trained for demo$"
    ):
        with_control(replace(find("demo", download=False), folder=dreamshaper), "sketch")
    with pytest.raises(UsageError, match="--control canny: expected none, sketch, or a folder"):
        with_control(checkpoint, "canny")
    small = control_config(tiny(architecture(DREAMSHAPER))["unet"])
    known = write_control(tmp_path / "weights" / f"{DREAMSHAPER}-sketch", small)
    found = with_control(checkpoint, "sketch").control
    assert found is not None and found.folder == known
    listed = command("weights", "list")
    assert any("sketch" in line and "weights" in line for line in listed.out.splitlines()), (
        listed.out
    )
    own = write_control(dreamshaper / "controlnet", small)
    found = with_control(checkpoint, "sketch").control
    assert found is not None and found.folder == own


def test_colours_go_in_the_order_the_config_names(controlled: Callable[[str], Checkpoint]) -> None:
    control = controlled(DREAMSHAPER).control
    assert control is not None
    models = []
    for bgr in (False, True):
        models.append(ControlNetModel(replace(control.config, bgr=bgr)))
        models[-1].load_weights(
            [
                (k, mx.array(v).transpose(0, 2, 3, 1) if v.ndim == 4 else mx.array(v))
                for k, v in load_file(control.weights).items()
            ]
        )
    generator = np.random.default_rng(0)
    sample, states, edges = (
        mx.array(generator.standard_normal(shape, dtype=np.float32))
        for shape in ((1, 8, 8, 4), (1, 77, 64), (1, 64, 64, 3))
    )
    straight = models[0](sample, 999.0, states, edges, mx.array(1.0)).middle
    turned = models[1](sample, 999.0, states, edges[..., ::-1], mx.array(1.0)).middle
    assert mx.array_equal(straight, turned)
    assert not mx.array_equal(
        straight, models[1](sample, 999.0, states, edges, mx.array(1.0)).middle
    )
