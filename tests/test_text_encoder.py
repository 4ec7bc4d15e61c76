"""The text encoder beyond parity: causality, stored precision, names, one prompt end to end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.errors import SdxsWarning
from sdxs.common.prompt.text_encoder import TextEncoder, encode_tokens

IDS = np.random.Generator(np.random.PCG64(3)).integers(0, 8000, (1, 77))


def _encode(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    return encode_tokens(
        ids, checkpoint.text_encoder, checkpoint.text_encoder_weights, checkpoint.text_prefix()
    )


def test_a_prompt_becomes_finite_float32_states(tiny_sdxs: Checkpoint) -> None:
    states = TextEncoder(tiny_sdxs).encode("a cat")
    assert states.shape == (1, 77, 64) and states.dtype == np.float32 and np.isfinite(states).all()
    assert np.abs(states - TextEncoder(tiny_sdxs).encode("a dog")).max() > 0.1


def test_a_long_prompt_warns_and_still_encodes(tiny_sdxs: Checkpoint) -> None:
    with pytest.warns(SdxsWarning, match="75 fit"):
        states = TextEncoder(tiny_sdxs).encode("cat " * 100)
    assert (states == TextEncoder(tiny_sdxs).encode("cat " * 75)).all()


def test_a_token_does_not_see_what_follows_it(tiny_sdxs: Checkpoint) -> None:
    changed = IDS.copy()
    changed[0, 40] += 1
    before, after = _encode(tiny_sdxs, IDS), _encode(tiny_sdxs, changed)
    np.testing.assert_allclose(after[:, :40], before[:, :40], rtol=0, atol=1e-6)
    assert (np.abs(after - before)[0, 40:].max(axis=-1) > 1e-3).all()


def test_prompts_of_a_batch_do_not_mix(tiny_sdxs: Checkpoint) -> None:
    other = np.roll(IDS, 1)
    both = _encode(tiny_sdxs, np.concatenate([IDS, other]))
    singly = np.concatenate([_encode(tiny_sdxs, IDS), _encode(tiny_sdxs, other)])
    np.testing.assert_allclose(both, singly, rtol=0, atol=1e-5)


def test_old_names_with_a_prefix_are_read_too(tiny_folder: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    expected, path = _encode(checkpoint, IDS), checkpoint.text_encoder_weights
    tensors = {f"text_model.{key}": value for key, value in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = np.arange(77)[None]
    save_file(tensors, path)
    checkpoint.verify()
    assert checkpoint.text_prefix() == "text_model."
    assert (_encode(checkpoint, IDS) == expected).all()


def test_half_precision_weights_are_computed_in_float32(tiny_folder: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    path = checkpoint.text_encoder_weights
    halves = {key: value.astype(np.float16) for key, value in load_file(path).items()}
    save_file({key: value.astype(np.float32) for key, value in halves.items()}, path)
    expected = _encode(checkpoint, IDS)
    save_file(halves, path)
    checkpoint.verify()
    states = _encode(checkpoint, IDS)
    assert states.dtype == np.float32 and (states == expected).all()


def test_the_config_chooses_the_activation(tiny_sdxs: Checkpoint) -> None:
    assert tiny_sdxs.text_encoder.hidden_act == "gelu"
    other = replace(
        tiny_sdxs, text_encoder=replace(tiny_sdxs.text_encoder, hidden_act="quick_gelu")
    )
    assert np.abs(_encode(other, IDS) - _encode(tiny_sdxs, IDS)).max() > 1e-3
