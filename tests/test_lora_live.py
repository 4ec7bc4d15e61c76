"""LoRAs in MLX while frames are rendered: fused again beside them, swapped between them."""

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from command import Command
from sdxs.api import open_model
from sdxs.api.repeat import Places, repeat_still
from sdxs.api.still import Still, render_still, write_still
from sdxs.common.adapt.loras import Lora
from sdxs.common.backend.assembly import with_loras
from sdxs.common.backend.protocol import FrameParams, check_loras
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.testing.random_lora import Kind, layers_of, write_lora
from sdxs.mlx_sdxs.adapt import state
from sdxs.mlx_sdxs.adapt.following import Follower
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64
STATES = np.random.default_rng(1).standard_normal((1, 77, 64)).astype(np.float32)
PICTURE = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_sdxs: Checkpoint) -> Checkpoint:
    """Every layer of the UNet changes, also those that folding rewrites; one file is DoRA."""
    folder = tmp_path_factory.mktemp("loras")
    layers = layers_of(tiny_sdxs, lambda network, layer: network == "unet")
    all_ = write_lora(folder / "all.safetensors", layers, Kind("kohya", 2, size=0.2))
    dora = {key: shape for key, shape in layers.items() if "attn" in key[1] or "conv1" in key[1]}
    other = write_lora(folder / "dora.safetensors", dora, Kind(dora=True, seed=1))
    return with_loras(tiny_sdxs, [Lora(all_, 0.5), Lora(other, 0.0)])


def loaded(checkpoint: Checkpoint, **options: object) -> MlxBackend:
    backend = MlxBackend(checkpoint, MlxOptions(SIZE, lanes=2, **options))
    backend.load()
    backend.set_conditioning(STATES)
    return backend


@pytest.fixture(scope="module")
def backend(checkpoint: Checkpoint) -> Iterator[MlxBackend]:
    made = loaded(checkpoint)
    yield made
    made.close()


def rendered(backend: MlxBackend, params: FrameParams) -> np.ndarray:
    out = np.empty_like(PICTURE)
    backend.set_params(params)
    backend.submit(PICTURE)
    backend.collect(out)
    return out


def weighted(checkpoint: Checkpoint, *weights: float) -> Checkpoint:
    pairs = zip(checkpoint.loras, weights, strict=True)
    return replace(checkpoint, loras=tuple(replace(lora, weight=w) for lora, w in pairs))


def fresh(checkpoint: Checkpoint, *weights: float) -> np.ndarray:
    backend = loaded(weighted(checkpoint, *weights))
    try:
        return rendered(backend, FrameParams())
    finally:
        backend.close()


@pytest.mark.parametrize("weights", [(0.5, 0.0), (1.0, 0.8)])
def test_weights_changed_live_are_those_of_a_fresh_load(
    backend: MlxBackend, checkpoint: Checkpoint, weights: tuple[float, ...]
) -> None:
    found = rendered(backend, FrameParams(loras=weights))
    np.testing.assert_array_equal(found, fresh(checkpoint, *weights))


def test_a_scale_of_zero_is_the_checkpoint_itself(
    backend: MlxBackend, checkpoint: Checkpoint, tiny_sdxs: Checkpoint
) -> None:
    plain = loaded(tiny_sdxs)
    expected = rendered(plain, FrameParams())
    plain.close()
    np.testing.assert_array_equal(rendered(backend, FrameParams(lora_scale=0)), expected)
    assert (rendered(backend, FrameParams()) != expected).any()


@pytest.mark.thorough
def test_every_array_that_folding_makes_follows(checkpoint: Checkpoint) -> None:
    """Also of a network in which nothing is folded, because it takes several steps."""
    two = replace(checkpoint, frame=replace(checkpoint.frame, steps=2))
    backend = loaded(two)
    found = rendered(backend, FrameParams(loras=(1.0, 0.8)))
    backend.close()
    np.testing.assert_array_equal(found, fresh(two, 1.0, 0.8))


@pytest.mark.thorough
def test_folded_attention_follows_too(checkpoint: Checkpoint) -> None:
    backend = loaded(checkpoint, attention="folded")
    found = rendered(backend, FrameParams(loras=(1.0, 0.8)))
    backend.close()
    other = loaded(weighted(checkpoint, 1.0, 0.8), attention="folded")
    np.testing.assert_array_equal(found, rendered(other, FrameParams()))
    other.close()


def test_a_change_that_may_come_later_keeps_no_frame_waiting(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that fuses is held; frames go on under the weights before, and say so."""
    held = []

    class Held:
        def __init__(self, fuse) -> None:
            self.fuse, self.asked = fuse, []
            held.append(self)

        def ask(self, weights) -> None:
            self.asked.append(weights)

        def take(self):
            return self.fuse(self.asked.pop()) if self.ready else None

        ready = False

        def close(self) -> None:
            pass

    monkeypatch.setattr(state, "Follower", Held)
    backend = loaded(checkpoint)
    before, out = rendered(backend, FrameParams()), np.empty_like(PICTURE)
    backend.set_params(FrameParams(loras=(1.0, 0.8), later=True))
    backend.submit(PICTURE)
    assert backend.collect(out).behind
    np.testing.assert_array_equal(out, before)
    held[0].ready = True
    backend.submit(PICTURE)
    assert not backend.collect(out).behind
    backend.close()
    np.testing.assert_array_equal(out, fresh(checkpoint, 1.0, 0.8))


def test_frames_in_flight_keep_the_weights_they_began_with(
    backend: MlxBackend, checkpoint: Checkpoint
) -> None:
    pictures = {w: rendered(backend, FrameParams(loras=(w, 0.0))) for w in (0.0, 0.5, 1.0)}
    out = np.empty_like(PICTURE)
    for weight in pictures:
        backend.set_params(FrameParams(loras=(weight, 0.0)))
        backend.submit(PICTURE)
    for expected in pictures.values():
        backend.collect(out)
        np.testing.assert_array_equal(out, expected)


def test_the_latest_of_many_changes_is_fused(backend: MlxBackend) -> None:
    """A thousand changes: each is dropped or fused, the last one is in the end."""
    out = np.empty_like(PICTURE)
    rendered(backend, FrameParams(loras=(1.0, 0.0)))
    for number in range(1000):
        backend.set_params(FrameParams(loras=(number / 999, 0.25), later=True))
        if number % 100 == 0:
            backend.submit(PICTURE)
            backend.collect(out)
    while backend._loras.behind:
        backend.submit(PICTURE)
        backend.collect(out)
    assert backend._loras.fused.weights == (1.0, 0.25)


def test_changes_leave_no_memory_behind(backend: MlxBackend) -> None:
    def used(changes: int) -> int:
        for number in range(changes):
            rendered(backend, FrameParams(loras=(number / 100, 0.5)))
        gc.collect()
        return mx.get_active_memory()

    first = used(2)
    assert used(5) <= first + 100_000  # of 8 MB that one change makes


def test_a_follower_tells_what_failed_and_ends() -> None:
    begun = threading.Event()

    def fuse(weights):
        begun.set()
        raise ValueError("broken")

    follower = Follower(fuse)
    follower.ask((1.0,))
    assert begun.wait(10)
    follower._asked.put(None)
    follower._thread.join(10)
    with pytest.raises(ValueError, match="broken"):
        follower.take()
    follower.close()
    assert not follower._thread.is_alive()


def test_programs_refuse_other_weights() -> None:
    check_loras("coreml", FrameParams(loras=(0.5,)), (0.5,))
    check_loras("coreml", FrameParams(lora_scale=0.5), ())
    for params in (FrameParams(loras=(0.4,)), FrameParams(lora_scale=0.5)):
        with pytest.raises(BackendError, match=r"built with LoRA weights 0.5.*--backend mlx"):
            check_loras("coreml", params, (0.5,))


def test_the_api_takes_loras_and_prompts_that_name_them(
    checkpoint: Checkpoint, tiny_sdxs: Checkpoint
) -> None:
    files = [f"{lora.path}:{lora.weight}" for lora in checkpoint.loras]
    with open_model(str(tiny_sdxs.folder), "mlx", SIZE, lora=files) as model:
        own = model(PICTURE, "a cat")
        named = model(PICTURE, "a cat <lora:all:0.25>")
        assert (own != named).any()
        np.testing.assert_array_equal(model(PICTURE, "a cat", lora_scale=0.5), named)
        with pytest.raises(UsageError, match="there is no LoRA of this name"):
            model(PICTURE, "a cat <lora:none:1>")
    plain = open_model(str(tiny_sdxs.folder), "mlx", SIZE)
    with plain, pytest.raises(UsageError, match="no LoRA is loaded"):
        plain(PICTURE, "a cat", lora_scale=0.5)


def test_a_record_names_loras_and_the_picture_is_repeated(
    checkpoint: Checkpoint, tiny_sdxs: Checkpoint, tmp_path: Path
) -> None:
    files = tuple(f"{lora.path}:{lora.weight}" for lora in checkpoint.loras)
    still = Still(str(tiny_sdxs.folder), "a cat", size=SIZE, loras=files, lora_scale=0.5)
    made = render_still(still)
    assert made.record["request"]["loras"] == ["all.safetensors:0.5", "dora.safetensors:0"]
    assert made.record["hashes"]["lora all"] == checkpoint.loras[0].sha256
    write_still(made, tmp_path / "a.png")
    places = Places(model=str(tiny_sdxs.folder), loras=files)
    again = repeat_still(tmp_path / "a.png", places)
    np.testing.assert_array_equal(again.picture, made.picture)
    with pytest.raises(UsageError, match="made with the LoRA 'all.safetensors'.*--lora"):
        repeat_still(tmp_path / "a.png", Places(model=str(tiny_sdxs.folder)))


@pytest.mark.slow
def test_a_session_glides_and_obeys_prompts(
    checkpoint: Checkpoint, tmp_path: Path, command: Command
) -> None:
    """Frame by frame: the first is the checkpoint's own, then each has more of the LoRA."""
    plan = tmp_path / "plan.txt"
    plan.write_text("0s lora_scale 0\n0.1s lora_scale 1 over 0.3s\n")
    given = ("live", "--model", checkpoint.folder, "--size", SIZE, "--source", "synthetic")
    given += ("--headless", "--every-frame", "--frames", 16, "--prompt", "a cat", "--skip", -1)
    lora = ("--lora", f"{checkpoint.loras[0].path}:0.5")
    done = command(*given, *lora, "--schedule", plan, "--out", f"{tmp_path}/some/")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "some").glob("*.png"))) == 16
    for options in ((), lora):
        folder = f"{tmp_path}/{'with' if options else 'none'}/"
        assert command(*given, *options, "--out", folder).code == 0
    first, last = (sorted((tmp_path / "some").iterdir())[n] for n in (0, -1))
    assert pixels(first) == pixels(tmp_path / "none" / first.name)
    assert pixels(last) == pixels(tmp_path / "with" / last.name)
    refused = command(*given, *lora, "--prompt", "a <lora:none:1>", "--out", f"{tmp_path}/x/")
    assert refused.code == 2 and "there is no LoRA of this name" in refused.err
    refused = command(*given, "--lora-scale", 0.5, "--backend", "coreml", "--out", f"{tmp_path}/x/")
    assert refused.code == 2 and "--lora-scale" in refused.err


def pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()
