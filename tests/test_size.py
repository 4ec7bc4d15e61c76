"""The size of a frame: read, written, compared, and refused in one place."""

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from sdxs.common.backend.options import BackendOptions
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import UsageError
from sdxs.common.live.options import LoopOptions, SessionOptions
from sdxs.common.picture.size import FrameSize, read_size

WIDE = FrameSize(640, 384)


@pytest.mark.parametrize(
    ("text", "width", "height"),
    [
        ("512", 512, 512),
        ("640x384", 640, 384),
        ("640X384", 640, 384),
        ("640\u00d7384", 640, 384),
        (" 640 x 384 ", 640, 384),
        ("64x64", 64, 64),
    ],
)
def test_what_is_written_is_read(text: str, width: int, height: int) -> None:
    assert read_size(text) == FrameSize(width, height)


@pytest.mark.parametrize("text", ["", "x", "512x", "x384", "640x384x3", "12.5", "640*384", "wide"])
def test_another_text_is_refused_with_both_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"--show-size .*: expected .* as 512, .* as 640x384$"):
        read_size(text, "--show-size")


@pytest.mark.parametrize("size", [FrameSize(512, 512), WIDE, FrameSize(64, 128)])
def test_text_and_json_come_back(size: FrameSize) -> None:
    assert read_size(str(size)) == size == FrameSize.from_json(size.json)
    assert pickle.loads(pickle.dumps(size)) == size


def test_a_square_is_a_number_and_others_are_texts() -> None:
    assert (str(FrameSize.of(512)), FrameSize.of(512).json) == ("512", 512)
    assert (str(WIDE), WIDE.json, WIDE.words) == ("640x384", "640x384", "640 x 384")
    assert FrameSize.of(512).square and not WIDE.square


def test_arrays_have_rows_first() -> None:
    assert WIDE.shape == (384, 640) and WIDE.divided(8) == (48, 80)
    assert FrameSize.of_picture(np.zeros((384, 640, 3))) == WIDE
    assert FrameSize.of_picture(np.zeros((384, 640))) == WIDE


def test_it_is_a_value() -> None:
    assert {FrameSize(64, 32): 1}[FrameSize(64, 32)] == 1
    assert FrameSize(64, 32) != FrameSize(32, 64)
    with pytest.raises(FrozenInstanceError):
        WIDE.width = 1  # type: ignore[misc]
    assert not hasattr(WIDE, "__dict__")


def test_order_is_by_pixels() -> None:
    shuffled = [FrameSize.of(512), FrameSize(640, 384), FrameSize.of(256), FrameSize(384, 640)]
    assert [str(size) for size in sorted(shuffled)] == ["256", "384x640", "640x384", "512"]


@pytest.mark.parametrize("value", [1.5, True, "512", None])
def test_only_whole_numbers(value: object) -> None:
    with pytest.raises(UsageError, match="expected a whole number of pixels"):
        FrameSize.of(value)  # type: ignore[arg-type]


def test_options_take_a_number_for_a_square() -> None:
    assert BackendOptions(64).size == FrameSize(64, 64)  # type: ignore[arg-type]
    assert LoopOptions(64).size == FrameSize(64, 64)  # type: ignore[arg-type]
    assert BackendOptions(WIDE).size is WIDE
    assert SessionOptions().show_size is None and SessionOptions().fit == "crop"


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((100, 64), "not width 100 (the nearest is 96); use --size 96x64"),
        ((96, 70), "not height 70 (the nearest is 64); use --size 96x64"),
        (
            (640, 360),
            "not height 360 (the nearest is 352); use --size 640x352",
        ),
        (
            (100, 10),
            "not width 100 (the nearest is 96) and height 10 (the nearest is 32); use --size 96x32",
        ),
    ],
)
def test_a_refusal_names_each_side_and_the_nearest_size(
    tiny_sdxs: Checkpoint, size: tuple[int, int], says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        tiny_sdxs.check_size(FrameSize(*size))
    given = f"--size {size[0]}x{size[1]}: {tiny_sdxs.name} needs a multiple of 32 on both sides, "
    assert str(refused.value) == f"{given}and {says}"
    tiny_sdxs.check_size(read_size(says.rpartition(" ")[2]))


def test_a_square_is_refused_as_before(tiny_sdxs: Checkpoint) -> None:
    with pytest.raises(UsageError) as refused:
        tiny_sdxs.check_size(100)
    assert str(refused.value) == (
        f"--size 100: {tiny_sdxs.name} needs a multiple of 32; the nearest is 96"
    )
