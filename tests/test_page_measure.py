"""The page's experiment: its targets, and its script's numbers."""

from pathlib import Path

import pytest

from sdxs.common.io.sources.synthetic import read_counter
from sdxs.common.testing.chromium import write_camera
from sdxs.experiments.measure.page import missed

GOOD = {"fps": 29.9, "camera_to_screen_ms": {"p95": 60.0}}
MANY = {"viewers": 50, "of_the_rate": 0.99}


@pytest.mark.parametrize(
    ("browser", "viewers", "says"),
    [
        ({}, {}, []),
        ({"fps": 24.9}, {}, ["24.9 fps"]),
        ({"camera_to_screen_ms": {"p95": 80.1}}, {}, ["p95 80.1 ms"]),
        ({}, {"viewers": 49, "of_the_rate": 0.96}, ["49 viewers", "0.96 of the rate"]),
    ],
)
def test_each_target_is_asked(
    browser: dict[str, object], viewers: dict[str, object], says: list[str]
) -> None:
    found = missed(GOOD | browser, MANY | viewers, 50)
    assert len(found) == len(says)
    assert all(said in each for said, each in zip(says, found, strict=True))


def test_the_fake_camera_carries_its_numbers(tmp_path: Path) -> None:
    import cv2

    write_camera(tmp_path / "camera.y4m", 160, 120, 5)
    film = cv2.VideoCapture(str(tmp_path / "camera.y4m"))
    numbers = []
    while (read := film.read())[0]:
        assert read[1].shape == (120, 160, 3)
        numbers.append(read_counter(read[1]))
    assert numbers == [0, 1, 2, 3, 4]
