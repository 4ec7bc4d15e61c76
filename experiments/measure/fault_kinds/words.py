"""Faults of words: prompts and lists of them, options, arguments of the API, names of files."""

from collections.abc import Iterator
from functools import partial
from random import Random

import numpy as np

from ....api import open_model
from .checkpoints import EITHER, FRAME, REFUSED
from .damage import shown, write
from .fault import FINE, USAGE, Case, Right, kind
from .place import Place
from .samples import SIZE

NAN = float("nan")


@kind("prompts")
def prompts(draw: Random) -> Iterator[Case]:
    """Blends and banks that are malformed, endless, empty, or of other programs."""
    texts = [
        "", " ", "(", "(a:", "(a:1) and", "(a:nan) and (b:1)", "(a:1e999) and (b:1)",
        "(a:-1) and (b:1)", "(a:0) and (b:0)", "a >> b @ 2", "a >> b @ nan", "a >> ", ">> @",
        "(a:1) and (" + " " * 20_000, "((((" * 5000, "\ud800", "a\0b", "a\nb", "x " * 50_000,
        "<lora:a:1> cat", "[a:b:.5]", "{a|b}", "a BREAK b", "\u202ecat", "\u0661\u0662",
        "(" + "a:1) and (" * 2000,
    ]  # fmt: skip
    for text in draw.sample(texts, 20):
        yield f"API: {text[:24]!r}, {len(text):,} characters", partial(_prompt_api, text=text)
    for text in ("", "(a:1) and (", "(a:nan) and (b:1)", "a >> b @ 2", "<lora:a:1>"):
        right = Right(EITHER if text == "" else (USAGE,), whole=("a.png",))
        yield f"image --prompt {text!r}", partial(_prompt, text=text, right=right)


def _prompt_api(place: Place, text: str) -> None:
    def opened() -> None:
        with open_model(str(place.samples.tiny), "mlx", SIZE) as model:
            model(FRAME, text)

    place.call(opened, Right(EITHER, seconds=10))


def _prompt(place: Place, text: str, right: Right) -> None:
    ran = place.sdxs(
        *("image", "--model", str(place.samples.tiny), "--backend", "mlx", "--prompt", text),
        *("--input", str(place.samples.cat), "--out", "a.png"),
        right=right,
    )
    warned = ran.err.count("warning:")
    place.demand(not warned, f"{warned} warnings of words that are understood here")


@kind("lists of prompts")
def lists(draw: Random) -> Iterator[Case]:
    """`--prompts FILE` in encodings and kinds that it is not."""
    listed: dict[str, tuple[bytes, tuple[int, ...]]] = {
        "UTF-16": ("an oil painting\n".encode("utf-16"), (USAGE,)),
        "Latin-1": ("café\n".encode("latin-1"), (USAGE,)),
        "UTF-8 with a mark": ("\ufeffcafé 🎨\u00a0\u067e\n# off\n".encode(), (FINE,)),
        "nothing": (b"", (USAGE,)),
        "comments alone": (b"# a\n#b\n", (USAGE,)),
        "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), (USAGE,)),
        "3 MB": (b"a cat\n" * 500_000, EITHER),
        "a malformed blend": (b"(a:1) and (\n", EITHER),
        "a line of 100 KB": (b"a" * 100_000, EITHER),
        "zero bytes": (b"a\0b\n", (USAGE,)),
    }
    for what, (content, codes) in listed.items():
        yield what, partial(_listed, content=content, codes=codes)
    for name in ("absent.txt", ".", "/dev/zero", "~nobody-here/a.txt", "a\nb"):
        yield f"--prompts {name!r}", partial(_list_named, name=name)


def _live(place: Place, *more: str, right: Right) -> None:
    place.sdxs(
        *("live", "--model", str(place.samples.tiny), "--backend", "mlx", "--size", "64"),
        *("--source", "synthetic", "--headless", "--frames", "2", "--out", "a.mp4", *more),
        right=right,
    )


def _listed(place: Place, content: bytes, codes: tuple[int, ...]) -> None:
    write(place.folder / "list.txt", content)
    _live(place, "--prompts", "list.txt", right=Right(codes, whole=("a.mp4",)))


def _list_named(place: Place, name: str) -> None:
    _live(place, "--prompts", name, right=Right((USAGE,), says="--prompts"))


OF_LIVE: dict[str, tuple[str, ...]] = {
    "--size": ("0", "-64", "65", "nan", "64x", "x64", "1e9", "99999999999999999999", "64x64x64"),
    "--seed": ("-1", "1.5", "nan", "x", "0x10"),
    "--feedback": ("-0.1", "1.1", "nan", "inf", "half"),
    "--ema": ("2", "nan", ""),
    "--blend": ("-1", "nan"),
    "--skip": ("nan", "-2"),
    "--strength": ("0", "1.5", "nan", "-inf"),
    "--steps": ("0", "-1", "10000", "1.5"),
    "--frames": ("0", "-5", "1e3", "many"),
    "--hold": ("0", "nan"),
    "--transition": ("-1s", "nan", "1e99s", "2 hours"),
    "--lanes": ("0", "-1", "99999999", "two"),
    "--depth": ("0", "-3", "9", "nan"),
    "--batch": ("0", "nan"),
    "--dtype": ("float8", "FLOAT32", ""),
    "--backend": ("banana", "", "mlx:lanes=2"),
    "--vae": ("../..", "banana", "\x01"),
    "--control": ("banana", "sketch"),
    "--edges": ("canny",),
    "--fit": ("bend",),
    "--background": ("#12", "blau"),
    "--video-codec": ("av2",),
    "--show-size": ("0x0", "9999999x9999999"),
    "--camera": ("", "x"),
    "--camera-fps": ("nan", "0"),
    "--source": ("", "absent.mp4", "film:", "banana:", "7777", "ftp://x/y", "synthetic:x"),
    "--out": ("", ".mp4", "a.txt", "window:x", "a.mp4.", "film:a.png"),
    "--compare": ("banana",),
    "--negative-prompt": ("ugly",),
}  # fmt: skip


@kind("option values")
def values(draw: Random) -> Iterator[Case]:
    """Values out of range, NaN and of other types on the command line: refused with exit code 2."""
    every = [(name, value) for name, given in OF_LIVE.items() for value in given]
    for name, value in sorted(draw.sample(every, 34)):
        yield f"live {name} {value!r}", partial(_valued, name=name, value=value)
    for given, says in (
        (("bench", "--rounds", "0"), "--rounds"),
        (("bench", "--dtype", "banana"), "banana"),
        (("bench", "--backend", "identity", "--dtype", "float16"), "dtype"),
        (("bench", "--backend", "mlx:lanes=2:lanes=4"), "lanes"),
        (("bench", "--backend", "mlx:lanes"), "lanes"),
        (("bench", "--backend", "mlx:banana=1"), "banana"),
        (("bench", "--seed", "nan"), "--seed"),
        (("convert", "--fixed-noise", "-1"), "--fixed-noise"),
        (("convert", "--backend", "mlx"), "mlx"),
        (("weights", "verify", "banana"), "banana"),
        (("weights", "path", "~nobody-here/x"), "~nobody-here/x"),
        (("weights", "pull", "demo-"), "demo-"),
        (("image", "--from-metadata", "a.png", "--seed", "1"), "--seed"),
        (("banana",), "banana"),
        (("live", "--banana"), "--banana"),
        (("image", "--prompt"), "--prompt"),
        (("image", "a.png"), "a.png"),
    ):
        yield " ".join(given), partial(_command, given=given, says=says)


def _valued(place: Place, name: str, value: str) -> None:
    given = {"--source": "synthetic", "--backend": "mlx", "--size": "64", "--out": "a.mp4"}
    given |= {"--model": str(place.samples.tiny), "--frames": "2", name: value}
    if name == "--camera":
        del given["--source"]
    words = [each for pair in given.items() for each in pair]
    codes = REFUSED if name in ("--source", "--vae", "--camera", "--control", "--out") else (USAGE,)
    says = value[:2] if name == "--vae" else name.removeprefix("--")
    right = Right(codes, says=says, seconds=15)
    place.sdxs("live", "--headless", *words, right=right)


def _command(place: Place, given: tuple[str, ...], says: str) -> None:
    model = ("--model", str(place.samples.tiny)) if given[0] == "bench" else ()
    quick = ("--quick", "--rounds", "1") if given[0] == "bench" and "--rounds" not in given else ()
    place.sdxs(*given, *model, *quick, right=Right((USAGE,), says=says, seconds=15))


@kind("arguments of the API")
def arguments(draw: Random) -> Iterator[Case]:
    """Wrong types, NaN and values out of range: an SdxsError that names the argument."""
    opening: tuple[tuple[str, object], ...] = (
        ("model", None), ("model", 5), ("model", ""), ("model", "a\0b"), ("model", "\ud800"),
        ("backend", "banana"), ("backend", 5), ("backend", b"mlx"),
        ("size", -64), ("size", NAN), ("size", "64 px"), ("size", (64,)), ("size", 2**80),
        ("size", True), ("size", (64, 0)), ("size", np.int64(65)),
        ("dtype", "float8"), ("dtype", None), ("dtype", 16),
        ("strength", NAN), ("strength", "1"), ("strength", 2.0), ("strength", [0.5]),
        ("steps", 0), ("steps", 1.5), ("steps", True), ("steps", 10**30),
        ("control", 5), ("control", "\0"), ("edges", "banana"), ("edges", 1), ("vae", None),
        ("vae", "../.."), ("settings", 5), ("settings", {"banana": 1}),
        ("settings", {"lanes": NAN}),
        ("settings", {"lanes": "2"}), ("settings", {5: 1}),
        ("report", 5), ("still", "no"),
    )  # fmt: skip
    for name, value in draw.sample(opening, 26):
        yield f"open_model({name}={shown_value(value)})", partial(_opened, name=name, value=value)
    calling: tuple[tuple[str, object], ...] = (
        ("frame", FRAME.astype(np.float32)), ("frame", FRAME[:8]), ("frame", FRAME[..., 0]),
        ("frame", "a.png"), ("frame", FRAME.tolist()), ("frame", np.empty((0, 0, 3), np.uint8)),
        ("prompt", None), ("prompt", b"a"), ("prompt", 5), ("prompt", ["a"]),
        ("seed", -1), ("seed", 1.5), ("seed", NAN), ("seed", "0"), ("seed", None),
        ("feedback", NAN), ("feedback", 2), ("feedback", "0"), ("control_scale", NAN),
        ("control_scale", 1.0), ("control_scale", "1"),
    )  # fmt: skip
    for name, value in draw.sample(calling, 16):
        yield f"model({name}={shown_value(value)})", partial(_called, name=name, value=value)
    yield "open_model(dtype='float16', backend='identity')", _dtype_of_identity
    yield "a model that is closed", _closed


def shown_value(value: object) -> str:
    """A value in a few characters."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return shown(value) if isinstance(value, (dict, list)) and 5 not in value else repr(value)[:40]


def _opened(place: Place, name: str, value: object) -> None:
    given = {"model": str(place.samples.tiny), "backend": "mlx", "size": SIZE} | {name: value}
    # of settings the one that is wrong is named
    says = str(next(iter(value))) if isinstance(value, dict) else name
    place.call(lambda: open_model(**given).close(), Right(REFUSED, says=says, mb=400))  # type: ignore[arg-type]


def _called(place: Place, name: str, value: object) -> None:
    given = {"frame": FRAME, "prompt": "a cat"} | {name: value}

    def called() -> None:
        with open_model(str(place.samples.tiny), "mlx", SIZE) as model:
            model(**given)  # type: ignore[arg-type]

    place.call(called, Right(REFUSED, says=name))


def _dtype_of_identity(place: Place) -> None:
    place.call(
        lambda: open_model(str(place.samples.tiny), "identity", SIZE, dtype="float16").close(),
        Right((USAGE,), says="dtype"),
    )


def _closed(place: Place) -> None:
    def called() -> None:
        model = open_model(str(place.samples.tiny), "mlx", SIZE)
        model.close()
        model.close()
        model(FRAME, "a cat")

    place.call(called, Right(REFUSED, says="close"))


@kind("names of files")
def names(draw: Random) -> Iterator[Case]:
    """Names of 255 bytes, of no UTF-8, with newlines, brackets and signs: they work, or say why."""
    longest = "n" * 251
    for name in (
        f"{longest}.png", f"{longest}.mp4", f"{'é' * 125}x.png", "a\nb.png", "a\udcffb.png",
        "[bold]a.png", "-a.png", "a b'c\"d.png", "\u202eb.png", "%s%d.png", "{a}.png",
        "~a.png", "CON.png", "a:b.png",
    ):  # fmt: skip
        what = f"--out {name[:20]!r}, {len(name.encode('utf-8', 'surrogateescape'))} bytes"
        yield what, partial(_named, name=name, codes=EITHER if ":" in name else (FINE,))
    for name in (f"{'n' * 256}.png", f"{'d/' * 3000}a.png", "a/", "/", "."):
        yield f"--out {name[:20]!r}, {len(name)} bytes", partial(_named, name=name, codes=REFUSED)
    for name in ("a\nb", "a\udcffb", "[red]", "d" * 255):
        yield f"--model {name[:20]!r}", partial(_model_named, name=name)


def _named(place: Place, name: str, codes: tuple[int, ...]) -> None:
    film = name.endswith(".mp4")
    model = ("--model", str(place.samples.tiny), "--backend", "identity" if film else "mlx")
    given = ("--source", "synthetic", "--headless", "--frames", "2") if film else ()
    picture = () if film else ("--input", str(place.samples.cat))
    command = "live" if film else "image"
    whole = (name,) if codes == (FINE,) and "\udcff" not in name else ()
    place.sdxs(
        command, *model, "--prompt", "x", *given, *picture, f"--out={name}",
        right=Right(codes, whole=whole),
    )  # fmt: skip


def _model_named(place: Place, name: str) -> None:
    place.checkpoint(name)
    # MLX opens no name that is not UTF-8.
    right = Right(EITHER, "UTF-8") if "\udcff" in name else Right((FINE,), whole=("a.png",))
    place.sdxs(
        *("image", "--model", f"./{name}", "--backend", "mlx", "--prompt", "x"),
        *("--input", str(place.samples.cat), "--out", "a.png"),
        right=right,
    )
