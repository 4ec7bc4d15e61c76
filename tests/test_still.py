"""`sdxs image`: single pictures whose PNG says how they were made, and repeats them."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.api.still import KEYWORD, read_record
from sdxs.common.checkpoint.tensors import sha256
from sdxs.common.errors import SourceError, UsageError
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.png_text import SIGNATURE, read_text, with_text
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("still") / "tiny", tiny(architecture("sdxs-512-0.9"))
    )


@pytest.fixture
def made(command: Command, folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(*options: object, name: str = "a.png") -> Path:
        done = command(
            "image", "--model", folder, "--size", SIZE, "--out", tmp_path / name, *options
        )
        assert done.code == 0, done.err
        assert f"wrote {tmp_path / name}" in done.out
        return tmp_path / name

    return make


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8))
    return path


def pixels(path: Path) -> np.ndarray:
    return cv2.imread(str(path))


def test_a_picture_from_the_prompt_alone_and_over_another(
    made: Callable[..., Path], source: Path
) -> None:
    text, again = made("--prompt", "a cat", name="a.png"), made("--prompt", "a cat", name="b.png")
    other = made("--prompt", "a cat", "--seed", 3, name="c.png")
    over = made("--prompt", "a cat", "--input", source, name="d.png")
    np.testing.assert_array_equal(pixels(text), pixels(again))
    assert (pixels(text) != pixels(other)).any() and (pixels(text) != pixels(over)).any()
    assert pixels(text).shape == (SIZE, SIZE, 3)


def test_the_record_says_how_it_was_made(
    made: Callable[..., Path], folder: Path, source: Path
) -> None:
    record = read_record(
        made("--prompt", "(ink:1) and (caf\u00e9 \u732b:2)", "--seed", 7, "--input", source)
    )
    assert record["prompt"] == "(ink:1) and (caf\u00e9 \u732b:2)"
    assert (record["schema"], record["seed"], record["size"]) == (1, 7, SIZE)
    assert record["timestep"] == 999 and record["backend"]["backend"] == "mlx"  # type: ignore[index]
    hashes = record["hashes"]
    assert hashes["source"] == sha256(source)  # type: ignore[index]
    assert hashes["unet"] == sha256(folder / "unet" / "diffusion_pytorch_model.safetensors")  # type: ignore[index]


@pytest.mark.parametrize("over", [False, True])
def test_a_picture_repeats_from_its_own_record(
    over: bool, made: Callable[..., Path], source: Path, command: Command, folder: Path
) -> None:
    first = made(
        "--prompt", "a cat >> a dog @ 0.3", "--seed", 5, *(("--input", source) if over else ())
    )
    again = first.with_name("again.png")
    done = command("image", "--from-metadata", first, "--model", folder, "--out", again)
    assert done.code == 0 and "warning" not in done.err, done.err
    assert again.read_bytes() == first.read_bytes()


def test_the_input_may_have_moved_but_not_changed(
    made: Callable[..., Path], source: Path, command: Command, folder: Path
) -> None:
    first = made("--prompt", "a cat", "--input", source)
    again = ("image", "--from-metadata", first, "--model", folder, "--out")
    moved = source.rename(source.with_name("moved.png"))
    gone = command(*again, first.with_name("again.png"))
    assert gone.code == 1 and "no such file" in gone.err
    done = command(*again, first.with_name("again.png"), "--input", moved)
    assert done.code == 0, done.err
    np.testing.assert_array_equal(pixels(first.with_name("again.png")), pixels(first))
    cv2.imwrite(str(moved), 255 - pixels(moved))
    changed = command(*again, first.with_name("third.png"), "--input", moved)
    assert changed.code == 2 and "source was" in changed.err


def test_other_weights_are_refused(
    made: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    first = made("--prompt", "a cat")
    other = write_checkpoint(tmp_path / "other", tiny(architecture("sdxs-512-0.9")), seed=9)
    done = command(
        "image", "--from-metadata", first, "--model", other, "--out", first.with_name("again.png")
    )
    assert done.code == 2 and "the picture cannot be repeated with it" in done.err
    assert not first.with_name("again.png").exists()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_shape_and_its_fit_repeat_from_the_record(
    fit: str, made: Callable[..., Path], source: Path, command: Command, tiny_folder: Path
) -> None:
    shaped = ("--size", "96x64", "--fit", fit, "--input", source)
    first, again = made("--prompt", "a cat", *shaped), source.with_name("again.png")
    record = read_record(first)
    assert record["size"] == "96x64" and pixels(first).shape == (64, 96, 3)
    request = record["request"]
    assert (request["size"], request["fit"]) == ("96x64", fit)  # type: ignore[index]
    done = command("image", "--from-metadata", first, "--model", tiny_folder, "--out", again)
    assert done.code == 0 and "warning" not in done.err, done.err
    assert again.read_bytes() == first.read_bytes()


def test_each_fit_of_a_picture_is_another_picture(made: Callable[..., Path], source: Path) -> None:
    shaped = ("--size", "64x96", "--prompt", "a cat", "--input", source)
    crop, pad, stretch = (
        pixels(made(*shaped, "--fit", fit, name=f"{fit}.png")) for fit in ("crop", "pad", "stretch")
    )
    assert (crop != pad).any() and (crop != stretch).any() and (pad != stretch).any()


def test_a_record_of_before_frames_had_a_shape_repeats(
    made: Callable[..., Path], source: Path, command: Command, tiny_folder: Path
) -> None:
    """Records without a fit have a number as their size and were cropped."""
    first = made("--prompt", "a cat", "--input", source)
    old = rewrite(
        first,
        lambda r: r | {"request": {k: v for k, v in r["request"].items() if k != "fit"}},
    )
    assert read_record(old)["request"]["size"] == SIZE  # type: ignore[index]
    again = old.with_name("again.png")
    done = command("image", "--from-metadata", old, "--model", tiny_folder, "--out", again)
    assert done.code == 0 and "warning" not in done.err, done.err
    np.testing.assert_array_equal(pixels(again), pixels(first))


def rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> Path:
    """The same picture with another record."""
    record = json.loads(read_text(path, KEYWORD) or "")
    changed = change(record)
    bare = cv2.imencode(".png", pixels(path))[1].tobytes()
    copy = path.with_name("changed.png")
    copy.write_bytes(
        with_text(bare, KEYWORD, changed if isinstance(changed, str) else json.dumps(changed))
    )
    return copy


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            lambda r: r | {"schema": 2, "sdxs": "9.1"},
            2,
            "schema 2, written by sdxs 9.1; this version reads up to 1; update sdxs",
        ),
        (lambda r: r | {"schema": "1"}, 1, "its record is damaged"),
        (lambda r: r | {"schema": True}, 1, "its record is damaged"),
        (lambda r: {k: v for k, v in r.items() if k != "hashes"}, 1, "its record is damaged"),
        (lambda r: r | {"request": r["request"] | {"colour": "red"}}, 1, "its record is damaged"),
        (lambda r: "not json", 1, "its record is damaged"),
        (lambda r: "[1]", 1, "its record is damaged"),
        (lambda r: "[" * 100_000, 1, "its record is damaged"),
    ],
)
def test_records_that_cannot_be_repeated(
    change: Callable[[dict[str, object]], object],
    code: int,
    said: str,
    made: Callable[..., Path],
    command: Command,
) -> None:
    path = rewrite(made("--prompt", "a cat"), change)
    done = command("image", "--from-metadata", path, "--out", path.with_name("again.png"))
    assert done.code == code and said in done.err and done.err.count("\n") == 1
    assert not path.with_name("again.png").exists()


def test_a_difference_in_pixels_is_a_warning(
    made: Callable[..., Path], command: Command, folder: Path
) -> None:
    path = rewrite(
        made("--prompt", "a cat"),
        lambda r: r | {"hashes": r["hashes"] | {"pixels": "0" * 64}, "sdxs": "0.0.1"},
    )
    given = ("--model", folder, "--out", path.with_name("again.png"))
    done = command("image", "--from-metadata", path, *given)
    assert done.code == 0 and "not bit for bit" in done.err and "sdxs 0.0.1, now" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--from-metadata", "a.png", "--seed", 3),
            "drop --seed: only --out, --input, --model, --control and --lora go with it",
        ),
        (
            ("--from-metadata", "a.png", "--negative-prompt", "x"),
            "without classifier-free guidance",
        ),
        (("--out", "a.jpg"), "expected a .png"),
        (("--prompt", "(a:1.2) and"), "expected"),
        (("--steps", 3), "distilled to take one step"),
        (("--strength", 0.5), "trained for timestep 999 alone"),
        (("--control-scale", 0.5), "no edges to hold to"),
        (("--backend", "tpu"), "expected one of"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[object, ...],
    said: str,
    folder: Path,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    size = () if "--from-metadata" in options else ("--size", SIZE)
    done = command("image", "--model", folder, *size, *options)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


def test_foreign_files_are_named(tmp_path: Path, source: Path) -> None:
    with pytest.raises(SourceError, match="carries no record of sdxs"):
        read_record(source)
    (tmp_path / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(SourceError, match="is no PNG"):
        read_record(tmp_path / "x.png")
    with pytest.raises(SourceError, match="cannot be read"):
        read_record(tmp_path / "absent.png")


def test_text_in_a_png_is_sound_and_damage_is_seen(source: Path) -> None:
    content = with_text(source.read_bytes(), "sdxs", "caf\u00e9 \u732b")
    source.write_bytes(content)
    assert read_text(source, "sdxs") == "caf\u00e9 \u732b" and read_text(source, "other") is None
    assert pixels(source).shape == (80, 100, 3)  # still a picture to everybody else
    length, kind = struct.unpack(">I4s", content[33:41])
    (stored,) = struct.unpack(">I", content[41 + length : 45 + length])
    assert kind == b"iTXt" and stored == zlib.crc32(content[37 : 41 + length])
    damaged = bytearray(content)
    damaged[55] ^= 1
    source.write_bytes(damaged)
    with pytest.raises(SourceError, match="its text is damaged"):
        read_text(source, "sdxs")
    source.write_bytes(content[:60])
    with pytest.raises(SourceError, match="damaged or truncated|its text is damaged"):
        read_text(source, "sdxs")
    assert content.startswith(SIGNATURE)


def test_a_newer_record_is_told_from_a_damaged_one(made: Callable[..., Path]) -> None:
    newer = rewrite(
        made("--prompt", "a cat"),
        lambda r: r | {"schema": 3, "request": {"prompt": "a", "unknown": 1}},
    )
    with pytest.raises(UsageError, match="update sdxs"):
        read_record(newer)


def test_no_picture_is_replaced_unless_that_is_wanted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: `sdxs image` wrote over an earlier picture, and over its own input."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.full((64, 64, 3), 90, np.uint8))
    paint = ("image", "--backend", "identity", "--model", "demo", "--size", 64)
    for name in ("sdxs.png", "sdxs-2.png", "sdxs-3.png"):
        done = command(*paint, "--input", "photo.png")
        assert done.code == 0 and f"wrote {name}" in done.out
    before = Path("sdxs.png").read_bytes()
    done = command(*paint, "--input", "photo.png", "--out", "sdxs.png")
    assert done.code == 2 and "exists already; add --force" in done.err
    assert Path("sdxs.png").read_bytes() == before
    assert command(*paint, "--input", "photo.png", "--out", "sdxs.png", "--force").code == 0
    Path("link.png").symlink_to("photo.png")
    os.link("photo.png", "hard.png")
    for name in ("photo.png", "./photo.png", "link.png", "hard.png"):
        done = command(*paint, "--input", "photo.png", "--out", name, "--force")
        assert done.code == 2 and "is also --input" in done.err, name
    assert (cv2.imread("photo.png") == 90).all()


def test_the_colour_behind_transparent_parts_is_in_the_record(
    command: Command, tmp_path: Path
) -> None:
    cut = np.zeros((64, 64, 4), np.uint8)
    cv2.imwrite(str(tmp_path / "cut.png"), cut)
    made = []
    for colour in ("white", "#204060"):
        out = tmp_path / f"{len(made)}.png"
        done = command(
            *("image", "--backend", "identity", "--model", "demo", "--size", 64),
            *("--input", tmp_path / "cut.png", "--background", colour, "--out", out),
        )
        assert done.code == 0, done.err
        made.append(out)
    assert (pixels(made[0]) == 255).all() and (pixels(made[1])[0, 0] == (0x60, 0x40, 0x20)).all()
    again = command("image", "--from-metadata", made[1], "--out", tmp_path / "again.png")
    assert again.code == 0 and again.err == ""
