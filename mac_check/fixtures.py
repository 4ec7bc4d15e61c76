"""Inputs, sizes, limits and our outputs of a parity check, without torch.

Weights are not stored: they are drawn again, by `random_checkpoint`, and so are the inputs.
`make_fixtures` writes what diffusers and transformers make of them.
"""

import gzip
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors.numpy import load_file

from ..common.backend.protocol import FrameParams
from ..common.backend.schedule import frame_steps, seeded_noise
from ..common.checkpoint.find import PACKAGE_FOLDER, Checkpoint, open_checkpoint
from ..common.errors import SdxsWarning
from ..common.picture.size import FrameSize, Size, read_size
from ..common.picture.temporal import psnr
from ..common.prompt.text_encoder import TextEncoder, encode_tokens
from ..common.prompt.tokenizer import CONTEXT_LENGTH, ClipTokenizer
from ..common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from ..mlx_sdxs.backend import MlxBackend, load_vae
from ..mlx_sdxs.frame import Frame
from ..mlx_sdxs.networks.layers import load_weights
from ..mlx_sdxs.networks.unet import UNet2DConditionModel
from ..mlx_sdxs.options import Dtype, MlxOptions
from .stored import FIXTURES, STORED, stored_outputs  # noqa: F401 - for those who compare

Arrays = dict[str, np.ndarray]
NAMES = ("sdxs-512-0.9", "sdxs-512-dreamshaper", "sd-turbo", "tiny-sd", "small-sd")
TOKENIZER = PACKAGE_FOLDER / "weights" / "demo" / "tokenizer"

PADDINGS = ("<|endoftext|>", "!")  # CLIP's and OpenCLIP's

# of max|a - b| / max|b|; float32 reaches 1e-5, the smallest mistake worth the name causes more
NETWORK_LIMIT = 1e-4
X0_LIMIT = 1e-3  # x0 multiplies the error of eps by 14.6
PICTURE_LIMIT = 1e-3  # share of pixels that are off by more than one level of 255


def limit(what: str) -> float:
    """The largest admitted `error` of one output."""
    return (
        PICTURE_LIMIT if what == "picture" else X0_LIMIT if what.startswith("x0") else NETWORK_LIMIT
    )


def error(what: str, ours: np.ndarray, oracle: np.ndarray) -> float:
    """Return max|ours - oracle| / max|oracle|.

    For the uint8 picture, the share of pixels off by more than one level.
    """
    if ours.shape != oracle.shape:
        raise ValueError(f"{what}: shapes {ours.shape} and {oracle.shape} differ")
    difference = np.abs(ours.astype(np.float64) - oracle.astype(np.float64))
    if what == "picture":
        return float((difference.max(axis=-1) > 1).mean())
    return float(difference.max() / np.abs(oracle).max())


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the inputs.

    `latents` and `picture` are (height, width), for one network alone.
    """

    batch: int
    latents: tuple[int, int]
    picture: tuple[int, int]
    frame: Size
    timesteps: tuple[int, ...]


# Not square, and two of each, so that a mixed-up axis shows.
TINY = Sizes(batch=2, latents=(16, 24), picture=(32, 48), frame=128, timesteps=(999, 261))
# Frames that are not square, by the multiple that their sides have to be of.
SHAPES = {
    32: (FrameSize(96, 64), FrameSize(64, 128)),
    64: (FrameSize(128, 64), FrameSize(64, 192)),
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every network of one checkpoint is fed; channels last."""

    sample: np.ndarray  # (B, h, w, C), what the UNet reads
    timesteps: tuple[int, ...]
    encoder_hidden_states: np.ndarray  # (B, 77, D)
    picture: np.ndarray  # (B, H, W, 3) in [-1, 1]
    latents: np.ndarray  # (B, H/8, W/8, C), what the VAE decodes; wide enough to meet TAESD's tanh
    ids: np.ndarray  # int64 (B, 77)
    prompt: str
    frame: np.ndarray  # uint8 (H, W, 3)
    seed: int  # of the frame's noise


def draw_inputs(checkpoint: Checkpoint, sizes: Sizes, seed: int) -> Inputs:
    """Draw inputs for `checkpoint`; the same seed gives the same inputs."""
    generator = np.random.Generator(np.random.PCG64(seed))

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    (h, w), (height, width), channels = sizes.latents, sizes.picture, checkpoint.unet.in_channels
    reduction = checkpoint.vae.reduction
    return Inputs(
        sample=normal(sizes.batch, h, w, channels),
        timesteps=sizes.timesteps,
        encoder_hidden_states=normal(
            sizes.batch, CONTEXT_LENGTH, checkpoint.unet.cross_attention_dim
        ),
        picture=generator.uniform(-1, 1, (sizes.batch, height, width, 3)).astype(np.float32),
        latents=2 * normal(sizes.batch, height // reduction, width // reduction, channels),
        ids=generator.integers(
            0, checkpoint.text_encoder.vocab_size, (sizes.batch, CONTEXT_LENGTH)
        ),
        prompt="a portrait of an old sailor, oil on canvas",
        frame=generator.integers(0, 256, (*FrameSize.of(sizes.frame).shape, 3), dtype=np.uint8),
        seed=seed + 1,
    )


def inputs_of(label: str, inputs: Inputs) -> Inputs:
    """Return the inputs of one check of `open_parts`: 'frame 96x64' has a frame of that size."""
    size = label.partition(" ")[2]
    if not size:
        return inputs
    shape = read_size(size).shape
    generator = np.random.Generator(np.random.PCG64([inputs.seed, *shape]))
    return replace(inputs, frame=generator.integers(0, 256, (*shape, 3), dtype=np.uint8))


def run_unet(checkpoint: Checkpoint, inputs: Inputs) -> Arrays:
    """eps of our UNet at every timestep, float32 (B, h, w, C)."""
    unet = UNet2DConditionModel(checkpoint.unet)
    load_weights(unet, checkpoint.unet_weights, mx.float32)
    sample, encoder_hidden_states = mx.array(inputs.sample), mx.array(inputs.encoder_hidden_states)
    return {
        f"unet t={t}": np.array(unet(sample, float(t), encoder_hidden_states))
        for t in inputs.timesteps
    }


def run_vae(checkpoint: Checkpoint, inputs: Inputs) -> Arrays:
    """Latents and picture of our VAE, of whichever kind, float32."""
    vae = load_vae(checkpoint.vae, checkpoint.vae_weights, mx.float32)
    return {
        "encode": np.array(vae.encode(mx.array(inputs.picture))),
        "decode": np.array(vae.decode(mx.array(inputs.latents))),
    }


def run_text(checkpoint: Checkpoint, inputs: Inputs) -> Arrays:
    """encoder_hidden_states of our text encoder, float32 (B, 77, D)."""
    path, prefix = checkpoint.text_encoder_weights, checkpoint.text_prefix()
    return {"text": encode_tokens(inputs.ids, checkpoint.text_encoder, path, prefix)}


def run_frame(checkpoint: Checkpoint, inputs: Inputs, dtype: Dtype = "float32") -> Arrays:
    """Render prompt and picture as the camera loop does; return z, x0 and the picture.

    z and x0 are float32 (1, H/8, W/8, C).

    dtype: of the networks, 'float32' or 'float16'. z is judged by itself because in x0 it is small
    beside r (n - eps) as long as weights are random.
    """
    size, vae = FrameSize.of_picture(inputs.frame), checkpoint.vae
    encoder_hidden_states = TextEncoder(checkpoint).encode(inputs.prompt)
    backend = MlxBackend(checkpoint, MlxOptions(size, dtype=dtype))
    backend.load()
    backend.set_conditioning(encoder_hidden_states)
    backend.set_params(FrameParams(inputs.seed))
    backend.submit(inputs.frame)
    picture = np.empty_like(inputs.frame)
    backend.collect(picture)
    backend.close()

    networks = mx.float16 if dtype == "float16" else mx.float32
    unet = UNet2DConditionModel(checkpoint.unet)
    load_weights(unet, checkpoint.unet_weights, networks)
    network = load_vae(vae, checkpoint.vae_weights, networks)
    steps = frame_steps(checkpoint.scheduler, checkpoint.frame)
    frame = Frame(unet, network, steps, vae.scaling_factor, networks)
    noise = mx.array(seeded_noise(inputs.seed, *size.divided(vae.reduction), vae.latent_channels))
    z = frame.encode(mx.array(inputs.frame))
    return {
        "z": np.array(z),
        "x0": np.array(frame.denoise(z, mx.array(encoder_hidden_states), noise)),
        "picture": picture,
    }


Part = Callable[[Checkpoint, Inputs], Arrays]
PARTS: dict[str, Part] = {"text": run_text, "vae": run_vae, "unet": run_unet, "frame": run_frame}


def open_parts(folder: Path) -> dict[str, tuple[str, Checkpoint]]:
    """List the checks of a checkpoint: label -> (part, checkpoint with the VAE in question).

    Frames that are not square are labelled with their size, as 'frame 96x64'.
    """
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    parts = {part: (part, checkpoint) for part in PARTS}
    shapes = SHAPES.get(checkpoint.size_multiple, ())
    parts |= {f"frame {size}": ("frame", checkpoint) for size in shapes}
    if (folder / "vae_large").is_dir():
        large = open_checkpoint(folder, vae_folder="vae_large")
        large.verify()
        parts |= {"vae_large": ("vae", large)}
    return parts


def tiny_checkpoint(folder: Path, name: str) -> Path:
    """Write the tiny checkpoint that the fixtures of `name` belong to."""
    return write_checkpoint(folder / name, tiny(architecture(name)), seed=NAMES.index(name))


def tiny_inputs(checkpoint: Checkpoint) -> Inputs:
    """The inputs that the fixtures belong to."""
    return draw_inputs(checkpoint, TINY, seed=20)


def weights_sample(folder: Path) -> np.ndarray:
    """Return the UNet's last weights; other values mean that NumPy draws differently."""
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")[
        "conv_out.weight"
    ].ravel()[-8:]


def padded_tokenizer(folder: Path, mark: str) -> Path:
    """Copy the demo's tokenizer into `folder`, with another padding token."""
    copy = Path(shutil.copytree(TOKENIZER, folder / "tokenizer"))
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        values = json.loads((copy / file).read_text(encoding="utf-8")) | {"pad_token": mark}
        (copy / file).write_text(json.dumps(values), encoding="utf-8")
    return copy


def token_rows(texts: Iterable[str], folder: Path) -> np.ndarray:
    """Our tokenizer's ids of many texts, int64 (N, 77), without the warnings about long ones."""
    tokenizer = ClipTokenizer(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SdxsWarning)
        return np.concatenate([tokenizer.encode(text) for text in texts])


_EDGE_TEXTS = (
    "",
    " ",
    "\t\r\n  ",
    "\xa0\u2003\u3000",
    "\u200b",
    "\ufeff",
    "\x00",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\x1c\x1d\x85x",
    "<|startoftext|>",
    "<|endoftext|>",
    "a cat<|endoftext|>a dog",
    " <|endoftext|> ",
    "<|STARTOFTEXT|>",
    "<|EndOfText|>x",
    "<|startoftext",
    "|endoftext|>",
    "<|start of text|>",
    "<<|endoftext|>>",
    "</w>",
    "cat</w>",
    "!",
    "!!!",
    "...",
    "?!?!",
    "don't we'll I'm they've you're he'd it's",
    "DON'T IT'S WE'LL",
    "rock 'n' roll",
    "'tis 'sblood ''s '' !'s",
    "l'\xe9t\xe9",
    "caf\xe9",
    "cafe\u0301",
    "\u0130stanbul",
    "\u017ftra\xdfe STRASSE",
    "\ufb01n \uff21\uff22\uff23 \u212b \u2126",
    "Z\u0351\u036b\u0343\u032aa\u0310\u0342l\u0363\u0321g\u030ao",
    "\u0301",
    "a\u0301\u0327",
    "\u1100\u1161\u11a8",
    "\u03a3\u03a3\u03a3",
    "1234567890",
    "3.14159e-10",
    "\u0663\u0664\u0665",
    "\xbd \xb2 \u2167 \u3220",
    "x" * 300,
    "word " * 200,
    "\U0001f600" * 100,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd",
    "1\ufe0f\u20e3",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "\u732b\u304c\u5ea7\u3063\u3066\u3044\u308b",
    "\u9ad8\u6e05\u30b9\u30b1\u30c3\u30c1\u3001\u5168\u8eab",
    "\ud55c\uad6d\uc5b4",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U00020000",
    "\U0001d11e",
    "\ue000",
    "\ufffd",
    "\uffff",
    "&amp; &lt;b&gt; &nbsp;&#39;",
    "<b>bold</b>",
    "(masterpiece:1.2), [ugly]",
    "{a|b}",
    "C:\\new\\table",
    "a\u2028b\u2029c",
    "https://example.org/a?b=c&d=e#f",
    "name@example.org",
    "snake_case camelCase kebab-case",
    "a/b\\c",
    "100%",
    "$5 \u20ac5 \xa35",
    "\u201cquoted\u201d \u2018single\u2019 \u2014 dash\u2026",
    "\u202eright to left",
    "soft\xadhyphen",
    "tab\tand\nnewline",
)
_WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "astronaut",
    "riding",
    "horse",
    "on",
    "Mars",
    "in",
    "style",
    "painting",
    "highly",
    "detailed",
    "8k",
    "UHD",
    "Greg",
    "Rutkowski",
    "trending",
    "artstation",
    "portrait",
    "woman",
    "man",
    "cat",
    "dog",
    "city",
    "night",
    "rain",
    "neon",
    "cyberpunk",
    "Studio",
    "Ghibli",
    "watercolour",
    "masterpiece",
    "supercalifragilistic",
    "chiaroscuro",
    "don't",
    "it's",
    "we'll",
    "I've",
    "you're",
    "they'd",
    "I'm",
    "O'Brien",
    "rock'n'roll",
    "caf\xe9",
    "na\xefve",
    "\xdcber",
    "\xc5ngstr\xf6m",
    "\u732b",
    "\u98a8\u666f",
    "\u30a2\u30cb\u30e1",
    "\u5973\u306e\u5b50",
    "\uadf8\ub9bc",
    "\u043a\u043e\u0448\u043a\u0430",
    "\u041c\u041e\u0421\u041a\u0412\u0410",
    "\u03b3\u03ac\u03c4\u03b1",
    "\u05d7\u05ea\u05d5\u05dc",
    "\u0642\u0637\u0629",
    "\u092c\u093f\u0932\u094d\u0932\u0940",
    "\u0e41\u0e21\u0e27",
)
_EMOJI = (
    "\U0001f600",
    "\U0001f680",
    "\u2764\ufe0f",
    "\U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f1ef\U0001f1f5",
    "1\ufe0f\u20e3",
    "\U0001f9d1\U0001f3ff\u200d\U0001f52c",
    "\u2603",
    "\u2b50",
    "\u2122",
)
_MARKS = (
    ",",
    ".",
    "!",
    "?",
    ";",
    ":",
    "-",
    "--",
    "...",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    "/",
    "\\",
    "|",
    "@",
    "#",
    "$",
    "%",
    "^",
    "&",
    "*",
    "+",
    "=",
    "~",
    "`",
    "'",
    '"',
    "\u2014",
    "\u2026",
    "\u3002",
    "\u201c",
    "&amp;",
)
_SPACES = (" ", " ", " ", " ", "", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\u200d")


def make_texts(count: int, vocabulary: Iterable[str], seed: int = 0) -> list[str]:
    """Draw `count` different prompts, from the empty one to far too long ones, in many scripts."""
    generator = np.random.Generator(np.random.PCG64(seed))
    plain = (token for token in vocabulary if token.isascii() and not token.startswith("<|"))
    pieces = sorted({token.removesuffix("</w>") for token in plain})

    def pick(options: Sequence[str]) -> str:
        return options[int(generator.integers(len(options)))]

    def character(low: int, high: int) -> str:
        return chr(int(generator.integers(low, high)))

    def piece() -> str:
        kind = generator.random()
        if kind < 0.45:
            word = pick(_WORDS) if kind < 0.25 else pick(pieces)
            return pick((word, word, word.upper(), word.title()))
        if kind < 0.6:
            return pick(_MARKS)
        if kind < 0.7:
            return str(generator.integers(10 ** int(generator.integers(1, 9))))
        if kind < 0.8:
            return pick(_EMOJI)
        if kind < 0.84:  # letters with marks that combine, in any number
            return "".join(character(97, 123) + character(0x300, 0x370) for _ in range(3))
        if kind < 0.86:
            return pick(
                ("<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "<|endoftext", "</w>")
            )
        if kind < 0.93:  # anything of Unicode's first plane but surrogates, which no text may hold
            return "".join(character(0, 0xD800) for _ in range(int(generator.integers(1, 6))))
        return character(0xE000, 0x30000) if kind < 0.97 else character(0, 0xA0)

    texts = dict.fromkeys(_EDGE_TEXTS)
    while len(texts) < count:
        length = int(generator.choice((1, 3, 8, 20, 120), p=(0.25, 0.3, 0.3, 0.12, 0.03)))
        texts["".join(piece() + pick(_SPACES) for _ in range(length))] = None
    return list(texts)[:count]


def read_tokenizer(pad: str) -> tuple[list[str], np.ndarray]:
    """The stored texts and CLIPTokenizer's ids for them, int64 (N, 77), under one of PADDINGS."""
    content = json.loads(gzip.decompress((FIXTURES / "tokenizer.json.gz").read_bytes()))
    stored = content["ids"][pad]
    rows = [row + [stored["pad"]] * (CONTEXT_LENGTH - len(row)) for row in stored["rows"]]
    return content["texts"], np.array(rows, dtype=np.int64)


def distances(ours: Arrays, oracle: Arrays) -> tuple[float, float]:
    """Relative L2 of x0, and PSNR of the picture in dB."""
    x0, expected = ours["x0"].astype(np.float64), oracle["x0"].astype(np.float64)
    relative = float(np.linalg.norm(x0 - expected) / np.linalg.norm(expected))
    return relative, psnr(ours["picture"], oracle["picture"])
