"""Crop, resize, colour order and labels."""

import numpy as np
import pytest

from sdxs.common.picture.draw import contact_sheet, label
from sdxs.common.picture.image import to_frame_rgb


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (33, 47), (16, 16), (1, 5)])
def test_centre_square_and_colour_order(shape: tuple[int, int]) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    picture[..., 0] = 250  # blue in OpenCV's order
    out = np.empty((16, 16, 3), np.uint8)
    to_frame_rgb(picture, out)
    assert (out[..., 2] == 250).all() and not out[..., :2].any()


def test_the_square_is_the_middle_one() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 255
    out = np.empty((10, 10, 3), np.uint8)
    to_frame_rgb(picture, out)
    assert (out == 255).all()


@pytest.mark.parametrize(
    "text", ["", "an oil painting", "a prompt far too long to fit under a small picture " * 4]
)
def test_label_touches_only_the_foot(text: str) -> None:
    picture = np.full((128, 128, 3), 200, np.uint8)
    label(picture, text)
    assert (picture[:96] == 200).all()
    assert (picture[-3:] < 200).any()


def test_contact_sheet_pads_short_rows() -> None:
    row = [np.full((32, 32, 3), 9, np.uint8)] * 3
    assert contact_sheet([("a", row), ("b", row[:1])]).shape == (64, 96, 3)
