"""CLIPTextModel's config.json, field names as in transformers."""

from dataclasses import dataclass
from pathlib import Path

from .fields import MOST_LAYERS, Fields, read_json

PROMPT_TOKENS = 77  # the training length of Stable Diffusion's prompts


@dataclass(frozen=True, slots=True)
class CLIPTextConfig:
    """Hold `text_encoder/config.json` of transformers' CLIPTextModel."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float

    @classmethod
    def read(cls, path: Path) -> "CLIPTextConfig":
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "CLIPTextConfig":
        fields.require("model_type", ("clip_text_model",))
        fields.require("hidden_act", ("quick_gelu", "gelu"), "quick_gelu")
        config = cls(
            vocab_size=fields.integer("vocab_size", 49408),
            hidden_size=fields.integer("hidden_size", 512),
            intermediate_size=fields.integer("intermediate_size", 2048),
            num_hidden_layers=fields.integer("num_hidden_layers", 12, most=MOST_LAYERS),
            num_attention_heads=fields.integer("num_attention_heads", 8),
            max_position_embeddings=fields.integer("max_position_embeddings", 77),
            hidden_act=fields.text("hidden_act", "quick_gelu"),
            layer_norm_eps=fields.positive("layer_norm_eps", 1e-5),
        )
        if config.hidden_size % config.num_attention_heads:
            raise fields.fail(
                "num_attention_heads", f"a divisor of hidden_size {config.hidden_size}"
            )
        if config.max_position_embeddings < PROMPT_TOKENS:
            raise fields.fail(
                "max_position_embeddings", f"at least {PROMPT_TOKENS}, the length of a prompt"
            )
        return config
