"""CLIP's byte-pair tokenizer, built from a checkpoint's vocab.json and merges.txt.

Mirrors transformers' CLIPTokenizer: NFC, collapsed white space, lower case, byte-level pieces,
`</w>` at word ends, 77 tokens with start and end marks. The `tokenizers` library does the BPE.
"""

import warnings
from pathlib import Path
from typing import cast

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from ..checkpoint.config.fields import read_json
from ..checkpoint.weights_file import refuse_pointer
from ..errors import ConfigError, SdxsWarning, UsageError, reason

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 77
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class ClipTokenizer:
    """Tokenize a prompt into token ids, int64 (1, 77)."""

    def __init__(self, folder: Path) -> None:
        """Read the `tokenizer/` folder of a checkpoint. Raises ConfigError."""
        vocab, merges_file = read_json(folder / "vocab.json").values, folder / "merges.txt"
        try:
            lines = merges_file.read_text(encoding="utf-8").strip().split("\n")
            merges = [tuple(line.split()) for line in lines if not line.startswith("#version")]
            model = models.BPE(
                cast("dict[str, int]", vocab),  # BPE raises for any other type
                cast("list[tuple[str, str]]", merges),
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                unk_token=END,
            )
        except FileNotFoundError:
            raise ConfigError(
                f"{merges_file}: file is missing; the tokenizer needs it, pull or copy it again"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{merges_file}: not readable ({reason(error)}); pull or copy the file again"
            ) from None
        except Exception as error:  # `tokenizers` raises bare Exception
            refuse_pointer(merges_file)
            raise ConfigError(
                f"{folder}: vocab.json and merges.txt do not fit together ({reason(error)}); pull "
                "or copy both again, from one checkpoint"
            ) from None
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
                # splits `<|EndOfText|>` once more
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        pad = _pad_token(folder)
        self._start, self._end, self._pad = (self._id(folder, token) for token in (START, END, pad))
        # The padding token is special inside a prompt too: OpenCLIP's '!' never merges.
        self._tokenizer.add_special_tokens([START, END, pad])

    def _id(self, folder: Path, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ConfigError(
                f"{folder / 'vocab.json'}: has no token {token!r}; this is not a CLIP tokenizer"
            )
        return int(number)

    def encode(self, prompt: str) -> np.ndarray:
        """Return the token ids of a prompt, int64 (1, 77).

        Truncates a longer prompt with an SdxsWarning that quotes the first ignored words. Raises
        UsageError if the prompt is not UTF-8 text.
        """
        try:
            encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
        # `tokenizers` raises it for a lone surrogate, Python's form of an invalid byte in argv
        except TypeError:
            raise UsageError(
                f"prompt {prompt[:40]!r} holds bytes that are not UTF-8 text; type it again"
            ) from None
        ids, room = encoding.ids, CONTEXT_LENGTH - 2
        if len(ids) > room:
            lost = prompt[encoding.offsets[room][0] :]
            warnings.warn(
                f"prompt has {len(ids)} tokens and {room} fit; ignored from {lost[:40]!r} on",
                SdxsWarning,
                stacklevel=2,
            )
        row = [self._start, *ids[:room], self._end]
        row += [self._pad] * (CONTEXT_LENGTH - len(row))
        return np.array([row], dtype=np.int64)


def _pad_token(folder: Path) -> str:
    """Return the checkpoint's padding token: '!' for OpenCLIP (SDXS-0.9), the end mark for CLIP."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).exists():
            continue
        token = read_json(folder / name).values.get("pad_token")
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            return token
    return END
