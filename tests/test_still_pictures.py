"""Pictures as people have them: known by content, turned, flattened, whole, of a size in reason."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Command
from sdxs.api.still import read_picture
from sdxs.common.errors import SdxsWarning, SourceError, UsageError
from sdxs.common.io.sources.animation import Animation
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.image import ImageFile
from sdxs.common.io.sources.registry import open_source
from sdxs.common.picture.image import to_frame_rgb
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.still import MOST_PIXELS, read_image

CLIP = Path(__file__).parent.parent / "docs" / "demo" / "clip.mp4"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def corners(width: int = 96, height: int = 64) -> Image.Image:
    """A colour in each corner: red, green; blue, white."""
    picture = np.full((height, width, 3), 128, np.uint8)
    high, wide = height // 3, width // 3
    picture[:high, :wide], picture[:high, -wide:] = RED, GREEN
    picture[-high:, :wide], picture[-high:, -wide:] = BLUE, WHITE
    return Image.fromarray(picture)


def colours(bgr: np.ndarray) -> list[tuple[int, ...]]:
    """The colour in each corner, RGB, rounded: photographs' formats are not exact."""
    seen = bgr[..., ::-1].astype(int)
    return [tuple(seen[y, x] // 32) for y in (5, -5) for x in (5, -5)]


def rough(*wanted: tuple[int, int, int]) -> list[tuple[int, ...]]:
    return [tuple(channel // 32 for channel in colour) for colour in wanted]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "avif", "heic", "gif"])
def test_every_format_is_read_alike_in_every_command(tmp_path: Path, suffix: str) -> None:
    """Bug: a HEIC became one of its tiles in `live`, and AVIF was read by `image` only."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    path = tmp_path / f"in.{suffix}"
    corners().save(path, **({"quality": 95} if suffix in ("jpg", "webp", "avif", "heic") else {}))
    source = open_source(str(path), 64)
    assert isinstance(source, ImageFile)
    live = source.read()
    assert live is not None and live.shape == (64, 96, 3)
    assert colours(live) == rough(RED, GREEN, BLUE, WHITE)
    square = np.empty((64, 64, 3), np.uint8)
    to_frame_rgb(live, square)
    assert np.array_equal(read_picture(path, 64)[0], square)


def test_a_large_heic_of_tiles_is_whole(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    corners(1024, 768).save(tmp_path / "grid.heic", tile_size=512, quality=90)
    assert colours(read_image(tmp_path / "grid.heic")) == rough(RED, GREEN, BLUE, WHITE)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    """Bug: an mp4 called .jpg was refused, a picture called .mp4 as well."""
    (tmp_path / "film.jpg").write_bytes(CLIP.read_bytes())
    assert isinstance(open_source(str(tmp_path / "film.jpg"), 64), VideoFile)
    corners().save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    assert isinstance(open_source(str(tmp_path / "picture.mp4"), 64), ImageFile)


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_an_animation_is_played_in_its_time(tmp_path: Path, suffix: str) -> None:
    """Bug: one frame, in silence."""
    frames = [Image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(3)]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 300, 200])
    source = open_source(str(path), 64)
    assert isinstance(source, Animation) and source.fps == 10 and source.length == 6
    reds = []
    while (picture := source.read()) is not None:
        reds.append(int(picture[8, 8, 2]) // 36)
    assert reds == [0, 1, 1, 1, 2, 2]
    again = open_source(str(path), 64, repeat=True)
    assert all(again.read() is not None for _ in range(13))
    with pytest.warns(SdxsWarning, match="animation of 3 frames, and only the first"):
        read_picture(path, 16)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_what_is_transparent_shows_the_named_colour(tmp_path: Path, suffix: str) -> None:
    """Bug: the colours that an editor keeps under transparent parts came back."""
    hidden = np.zeros((16, 16, 4), np.uint8)
    hidden[..., 1] = 200  # under the transparent half
    hidden[:, 8:] = (10, 20, 30, 255)
    path = tmp_path / f"cutout.{suffix}"
    Image.fromarray(hidden).save(
        path, **({"lossless": True, "exact": True} if suffix == "webp" else {})
    )
    white, blue = read_image(path), read_image(path, "#0000ff")
    assert (white[:, :8] == 255).all() and (blue[:, :8] == (255, 0, 0)).all()
    assert (white[:, 8:] == (30, 20, 10)).all() and (blue[:, 8:] == white[:, 8:]).all()
    with pytest.raises(UsageError, match="--background chartreux: unknown colour"):
        open_source(str(path), 64, background="chartreux")


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_a_camera_held_upright_is_turned(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    corners().save(tmp_path / f"in.{suffix}", exif=exif)
    turned = read_image(tmp_path / f"in.{suffix}")
    assert turned.shape == (96, 64, 3)
    assert colours(turned) == rough(BLUE, RED, WHITE, GREEN)


def test_sixteen_bits_and_few_colours_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png") == 0x80).all()
    corners().convert("P").save(tmp_path / "few.png")
    assert colours(read_image(tmp_path / "few.png"))[0][0] == 7
    corners().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert colours(read_image(tmp_path / "print.jpg"))[3] == (7, 7, 7)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(SourceError, match="floating-point numbers"):
        read_image(tmp_path / "float.tif")


# What cannot be read


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path, suffix: str) -> None:
    """Bug: half a JPEG was painted with a grey half, and exit code 0."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    for tenth in range(10):
        path = tmp_path / f"cut{tenth}.{suffix}"
        path.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(SourceError, match=r"damaged or cut off|not an image|0 bytes"):
            read_image(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [20_000, 40_000, 100_000])
def test_a_size_out_of_reason_is_refused_from_the_header(
    command: Command, tmp_path: Path, side: int
) -> None:
    """Bug: a traceback of OpenCV's; decoding would have taken gigabytes."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    assert side * side > MOST_PIXELS
    with pytest.raises(SourceError, match="more pixels than sdxs reads"):
        read_image(path)
    for arguments in (
        ("live", "--source", path, "--headless", "--stats", tmp_path / "s.json"),
        ("image", "--input", path, "--out", tmp_path / "out.png"),
    ):
        done = command(*arguments, "--backend", "identity", "--model", "demo")
        assert done.code == 1 and "more pixels" in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 254 + ".png", "cannot be read"),
        ("no\0name.png", "no such file|no name of a file"),
        ("", "is a folder"),
        ("missing.png", "no such file"),
        ("empty.png", "0 bytes"),
    ],
)
def test_what_is_no_file_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty.png").touch()
    for read in (read_image, lambda path: open_source(str(path), 64), VideoFile):
        with pytest.raises(SourceError, match=says):
            read(tmp_path / name)


def test_a_still_picture_warns_of_nothing(tmp_path: Path) -> None:
    corners().save(tmp_path / "in.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageFile(tmp_path / "in.png").read() is not None


# Reduction


def fence(offset: int) -> np.ndarray:
    """Bars of 2 pixels every 7 at 1080p, panned."""
    x = (np.arange(1920) + offset) % 7 < 2
    return np.repeat(np.where(x, 255, 0).astype(np.uint8)[None, :, None], 1080, 0).repeat(3, 2)


def test_a_panned_fence_does_not_flicker(tmp_path: Path) -> None:
    """Bug: linear interpolation by 4 reads two pixels and skips two: 67 levels a frame."""
    frames = []
    for offset in range(8):
        frames.append(np.empty((256, 256, 3), np.uint8))
        to_frame_rgb(fence(offset), frames[-1])
    linear = [
        cv2.resize(fence(offset)[:, 420:1500], (256, 256), interpolation=cv2.INTER_LINEAR)
        for offset in range(8)
    ]
    ours, theirs = (
        float(np.abs(np.diff(np.array(series, int), axis=0)).mean()) for series in (frames, linear)
    )
    assert ours < 0.5 * theirs, (ours, theirs)


@pytest.mark.parametrize("side", [64, 100, 200, 256, 512, 1080])
def test_the_middle_square_stays_where_it_was(side: int) -> None:
    ramp = np.zeros((1080, 1920, 3), np.uint8)
    ramp[:, 420:1500, 0] = np.linspace(0, 255, 1080)[None, :]
    ramp[..., 1] = np.linspace(0, 255, 1080)[:, None]
    out = np.empty((side, side, 3), np.uint8)
    to_frame_rgb(ramp, out)
    expected = (np.arange(side) + 0.5) / side * 255
    assert np.abs(out[side // 2, :, 2] - expected).max() < 3
    assert np.abs(out[:, side // 2, 1] - expected).max() < 3
