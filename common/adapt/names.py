"""Read the names of tensors in a LoRA file: network, layer and part.

unet.down_blocks.0...attn1.to_q.lora_A.weight          diffusers and peft
text_encoder.text_model.encoder...q_proj.lora_B.weight
unet.down_blocks.0...attn1.processor.to_q_lora.down.weight   diffusers before 0.22
lora_unet_down_blocks_0_..._attn1_to_q.lora_down.weight      kohya, with dots as underscores
lora_te_text_model_encoder_..._q_proj.alpha
"""

import re
from dataclasses import dataclass
from typing import Literal

Network = Literal["unet", "text_encoder"]
Part = Literal["down", "up", "alpha", "magnitude", "mid", "bias"]

_ENDINGS: tuple[tuple[str, Part], ...] = (
    (r"lora_A(?:\.default)?\.weight", "down"),
    (r"lora_B(?:\.default)?\.weight", "up"),
    (r"lora(?:_linear_layer)?\.down\.weight", "down"),
    (r"lora(?:_linear_layer)?\.up\.weight", "up"),
    (r"lora_magnitude_vector(?:\.default)?(?:\.weight)?", "magnitude"),
    (r"lora_B(?:\.default)?\.bias", "bias"),
    (r"lora_down\.weight", "down"),
    (r"lora_up\.weight", "up"),
    (r"lora_mid\.weight", "mid"),
    (r"dora_scale", "magnitude"),
    (r"alpha", "alpha"),
)
_DOTTED = tuple((re.compile(rf"(.+)\.{ending}"), part) for ending, part in _ENDINGS)
_PROCESSOR = re.compile(r"(.+)\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")
_KOHYA: dict[str, Network] = {"lora_unet_": "unet", "lora_te_": "text_encoder"}
_NETWORKS: dict[str, Network] = {"unet.": "unet", "text_encoder.": "text_encoder"}
# Other ways to change a network, by what their tensors are called.
_METHODS = {
    "LoHa": re.compile(r"\.hada_"),
    "LoKr": re.compile(r"\.lokr_"),
    "OFT": re.compile(r"\.(oft|boft)_"),
    "GLoRA": re.compile(r"\.[ab][12]\.weight$"),
    "(IA)3": re.compile(r"\.(on_input|ia3_l)"),
    "VeRA": re.compile(r"vera_lambda"),
    "full differences": re.compile(r"\.(diff|diff_b|w_norm|b_norm)$"),
}
# Networks of other families, by the beginning of a name.
_FAMILIES = {
    "Stable Diffusion XL": ("lora_te1_", "lora_te2_", "text_encoder_2."),
    "a diffusion transformer (Flux, SD 3 or a like model)": (
        "lora_transformer_",
        "transformer.",
        "lora_te3_",
        "text_encoder_3.",
        "diffusion_model.double_blocks",
        "diffusion_model.joint_blocks",
    ),
    "a UNet in the original layout": ("diffusion_model.",),
}


@dataclass(frozen=True, slots=True)
class Key:
    """Hold what the name of a tensor says.

    layer: name of the layer in its network. flat: its dots are written as underscores.
    """

    network: Network
    layer: str
    part: Part
    flat: bool = False


def read_key(name: str) -> Key | None:
    """Read the name of one tensor; None for a name of no LoRA."""
    name = name.removeprefix("base_model.model.")
    if match := _PROCESSOR.fullmatch(name):
        network, layer = _network(f"{match[1]}.to_{match[2]}{'.0' if match[2] == 'out' else ''}")
        return Key(network, layer, "down" if match[3] == "down" else "up")
    for pattern, part in _DOTTED:
        if match := pattern.fullmatch(name):
            for prefix, kohya in _KOHYA.items():
                if match[1].startswith(prefix):
                    return Key(kohya, _plain(match[1].removeprefix(prefix), "_"), part, flat=True)
            return Key(*_network(match[1]), part)
    return None


def method_of(names: list[str]) -> str:
    """Name the method of a file that is not LoRA, as 'LoHa'; '' for none that is known."""
    return next((m for m, sign in _METHODS.items() if any(map(sign.search, names))), "")


def family_of(names: list[str]) -> str:
    """Return the family of models that a file was made for, or '' if it is not in the list."""
    return next(
        (family for family, signs in _FAMILIES.items() if any(n.startswith(signs) for n in names)),
        "",
    )


def _network(layer: str) -> tuple[Network, str]:
    """Split a name into network and layer; without a prefix it is the UNet's."""
    for prefix, network in _NETWORKS.items():
        if layer.startswith(prefix):
            return network, _plain(layer.removeprefix(prefix), ".")
    return "unet", layer


def _plain(layer: str, dot: str) -> str:
    """Drop the text encoder's `text_model.`, which transformers 5 writes no longer."""
    return layer.removeprefix(f"text_model{dot}")
