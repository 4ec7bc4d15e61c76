"""CLIP's text model in MLX, for training; `common/prompt/text_encoder.py` runs it afterwards.

Mirrors transformers' CLIPTextModel up to `last_hidden_state`; attribute names equal the
checkpoint's keys.
"""

import mlx.core as mx
import mlx.nn as nn

from ...common.checkpoint.config.text_encoder import CLIPTextConfig


class Embeddings(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)


class SelfAttention(nn.Module):
    """Causal: a token sees itself and what precedes it."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width, self._heads = config.hidden_size, config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        batch, tokens, width = x.shape
        q, k, v = (
            layer(x).reshape(batch, tokens, self._heads, -1).transpose(0, 2, 1, 3)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = nn.MultiHeadAttention.create_additive_causal_mask(tokens)
        weights = mx.softmax(
            q @ k.transpose(0, 1, 3, 2) * (width // self._heads) ** -0.5 + mask, axis=-1
        )
        return self.out_proj((weights @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, width))


class MLP(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self._quick = config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.fc1(x)
        return self.fc2(h * mx.sigmoid(1.702 * h) if self._quick else nn.gelu(h))


class Layer(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]


class CLIPTextModel(nn.Module):
    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, ids: mx.array) -> mx.array:
        """Token ids (B, tokens) -> last hidden state (B, tokens, hidden_size)."""
        x = (
            self.embeddings.token_embedding(ids)
            + self.embeddings.position_embedding.weight[: ids.shape[1]]
        )
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)
