"""CLIP's text model in NumPy: computes encoder_hidden_states, identical for every backend.

Mirrors transformers' CLIPTextModel (last_hidden_state). It runs once per prompt and reads one layer
at a time from the file: a 1.4 GB encoder needs the memory of one layer. Blends and banks (see
`syntax.py`) combine the encoder_hidden_states of their texts.
"""

import math
import threading
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..adapt.fusing import Tensors
from ..adapt.loras import unknown
from ..adapt.mix import Weights, scaled, weights_of
from ..checkpoint.config.text_encoder import CLIPTextConfig
from ..checkpoint.find import Checkpoint
from ..checkpoint.tensor_reader import TensorReader
from ..errors import SdxsWarning, WeightsError
from .blend import combine
from .cache import EmbeddingCache
from .syntax import Part, foreign_syntax, parse_prompt
from .tokenizer import ClipTokenizer

_Key = tuple[str, Weights]  # a text, and the LoRAs' weights if they change the encoder
MOST_BYTES = 64 << 20  # kept in memory: 213 texts of width 1024


class _Recent:
    """The encoder_hidden_states used last, up to `MOST_BYTES`. Thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[_Key, np.ndarray] = {}  # the one used last comes last
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, text: _Key) -> np.ndarray | None:
        with self._lock:
            found = self._kept.pop(text, None)
            if found is not None:
                self._kept[text] = found
            return found

    def put(self, text: _Key, encoded: np.ndarray, needed: Collection[_Key]) -> None:
        """Keep what was encoded.

        needed: texts that stay, however many: those of one blend are needed together, and again
        for the next frame.
        """
        with self._lock:
            before = self._kept.pop(text, None)
            self._kept[text] = encoded
            self._bytes += encoded.nbytes - (0 if before is None else before.nbytes)
            for old in [each for each in self._kept if each not in needed and each != text]:
                if self._bytes <= MOST_BYTES:
                    break
                self._bytes -= self._kept.pop(old).nbytes


class TextEncoder:
    """Encode prompts of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, cache: EmbeddingCache | None = None) -> None:
        """Read the tokenizer; `encode` reads the weights. Raises ConfigError, WeightsError.

        cache: of encoded prompts; None for the user's.
        """
        self._checkpoint, self._checked = checkpoint, False
        self._tokenizer = ClipTokenizer(checkpoint.folder / "tokenizer")
        self._config = checkpoint.text_encoder
        self._path = checkpoint.text_encoder_weights
        self._prefix = checkpoint.text_prefix()
        self._cache = cache or EmbeddingCache(checkpoint)
        self.adapters = checkpoint.adapters()
        self._recent = _Recent()
        self._told: set[str] = set()  # of four at most

    def encode(self, prompt: str, lora_scale: float = 1.0) -> np.ndarray:
        """Return encoder_hidden_states of a prompt, float32 (1, 77, hidden_size), read-only.

        Thread-safe. Known texts come from memory, if used lately, or from disk. Warns of a text
        that is too long. lora_scale: of LoRAs that change the text encoder. Raises UsageError for a
        malformed blend or bank, or for a LoRA that was not given.
        """
        parsed = parse_prompt(prompt)
        self._tell_of_words(prompt)
        keys = {part: self._key(part, lora_scale) for stop in parsed.corners for part in stop}
        together = set(keys.values())
        return combine(parsed, lambda part: self._encode_text(keys[part], together))

    def _key(self, part: Part, lora_scale: float) -> _Key:
        """Return what a part's encoder_hidden_states depend on."""
        if self.adapters is None:
            for name, _ in part.loras:
                raise unknown(name, ())
            return part.text, ()
        weights = scaled(weights_of(self.adapters, part), lora_scale)
        return part.text, weights if self.adapters.read_text(weights) else ()

    def _tell_of_words(self, prompt: str) -> None:
        """Warn, once for each, of what another program would take for an instruction."""
        if found := [each for each in foreign_syntax(prompt) if each not in self._told]:
            self._told.update(found)
            warnings.warn(
                f"prompt {prompt[:40]!r}: {', '.join(found)} {'is' if len(found) == 1 else 'are'} "
                "read as words here, not as an instruction; blends are written "
                "'(oil painting:1.3) and (neon:0.7)'",
                SdxsWarning,
                stacklevel=3,
            )

    def _encode_text(self, key: _Key, together: Collection[_Key]) -> np.ndarray:
        """together: the texts of its prompt."""
        text, weights = key
        encoder_hidden_states = self._recent.get(key)
        if encoder_hidden_states is None:
            # before the cache: a text that is too long must cause a warning every time
            ids = self._tokenizer.encode(text)
            # Under a LoRA that changes the encoder nothing is kept on disk: a glide would fill it.
            encoder_hidden_states = None if weights else self._cache.read(text)
            if encoder_hidden_states is None:
                self._check()
                encoder_hidden_states = encode_tokens(
                    ids, self._config, self._path, self._prefix, self._tensors(weights)
                )
                if not weights:
                    self._cache.write(text, encoder_hidden_states)
            self._recent.put(key, encoder_hidden_states, together)
        return encoder_hidden_states

    def _tensors(self, weights: Weights) -> Tensors | None:
        if not weights or self.adapters is None:
            return None
        return self.adapters.reader(self._path, "text_encoder", weights, self._prefix)

    def _check(self) -> None:
        """Check the file once before it is read. Raises WeightsError."""
        if not self._checked:
            self._checkpoint.check_text_encoder()
            self._checked = True


def encode_tokens(
    ids: np.ndarray,
    config: CLIPTextConfig,
    path: Path,
    prefix: str,
    tensors: Tensors | None = None,
) -> np.ndarray:
    """Run the text model: int64 (B, tokens) -> float32 (B, tokens, hidden_size).

    tensors: by default those of the file. Raises WeightsError if it has no row for a token, or if
    its values make no sense.
    """
    tokens, file = ids.shape[1], tensors or TensorReader(path)
    if ids.max() >= config.vocab_size:
        raise WeightsError(
            f"{path}: the tokenizer knows token {ids.max():,}, the text encoder only "
            f"{config.vocab_size:,} tokens; copy tokenizer/ and text_encoder/ from one checkpoint"
        )

    def tensor(name: str) -> np.ndarray:
        return np.asarray(file.array(prefix + name), dtype=np.float32)

    # the table has 200 MB; only the used rows are read
    table = prefix + "embeddings.token_embedding.weight"
    embeddings = {
        int(i): np.asarray(file.row(table, int(i)), dtype=np.float32) for i in np.unique(ids)
    }
    x = np.array([[embeddings[int(i)] for i in row] for row in ids])
    x = x + tensor("embeddings.position_embedding.weight")[:tokens]
    # causal: a token attends to itself and its predecessors
    mask = np.triu(np.full((tokens, tokens), -np.inf, np.float32), k=1)
    for i in range(config.num_hidden_layers):
        layer = {name: tensor(f"encoder.layers.{i}.{name}") for name in _LAYER}
        x = x + _attention(
            _layer_norm(x, layer, "layer_norm1", config),
            layer,
            mask,
            config.num_attention_heads,
        )
        h = _linear(_layer_norm(x, layer, "layer_norm2", config), layer, "mlp.fc1")
        h = quick_gelu(h) if config.hidden_act == "quick_gelu" else gelu(h)
        x = x + _linear(h, layer, "mlp.fc2")
    final = {
        f"final_layer_norm.{part}": tensor(f"final_layer_norm.{part}")
        for part in ("weight", "bias")
    }
    encoded = _layer_norm(x, final, "final_layer_norm", config)
    if not np.isfinite(encoded).all():
        raise WeightsError(
            f"{path}: the text encoder computes values that are not finite; run `sdxs weights "
            "verify`, or copy text_encoder/ again"
        )
    return encoded


_LAYER = [
    f"{module}.{part}"
    for module in (
        "layer_norm1",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        "layer_norm2",
        "mlp.fc1",
        "mlp.fc2",
    )
    for part in ("weight", "bias")
]
Layer = dict[str, np.ndarray]


def _linear(x: np.ndarray, tensors: Layer, name: str) -> np.ndarray:
    y: np.ndarray = x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return y


def _layer_norm(x: np.ndarray, tensors: Layer, name: str, config: CLIPTextConfig) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normal: np.ndarray = centred / np.sqrt(variance + config.layer_norm_eps)
    scaled: np.ndarray = normal * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
    return scaled


def _attention(x: np.ndarray, tensors: Layer, mask: np.ndarray, heads: int) -> np.ndarray:
    batch, tokens, width = x.shape
    q, k, v = (
        _linear(x, tensors, f"self_attn.{name}")
        .reshape(batch, tokens, heads, -1)
        .transpose(0, 2, 1, 3)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    # (B, heads, tokens, tokens)
    scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(width // heads)) + mask
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return _linear(
        (scores @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, width),
        tensors,
        "self_attn.out_proj",
    )


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """Compute x * sigmoid(1.702 x), OpenAI CLIP's activation."""
    y: np.ndarray = x / (1 + np.exp(-np.float32(1.702) * x))
    return y


def gelu(x: np.ndarray) -> np.ndarray:
    """Compute GELU, x * Phi(x), OpenCLIP's activation.

    erf: Abramowitz and Stegun 7.1.26, error 1.5e-7.
    """
    z = np.abs(x, dtype=np.float64) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    y: np.ndarray = (0.5 * x * (1 + erf)).astype(np.float32)
    return y
