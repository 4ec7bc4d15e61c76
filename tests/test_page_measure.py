"""The page's experiment: its targets, its turns, and its script's numbers."""

from pathlib import Path

import pytest

from sdxs.common.errors import UsageError
from sdxs.common.io.sources.synthetic import read_counter
from sdxs.common.testing.chromium import write_camera
from sdxs.experiments.measure.page import PARTS, PageOptions, missed
from sdxs.experiments.measure.page_floods import rotated
from sdxs.experiments.measure.page_session import ratio, summary

GOOD = {"fps": 29.9, "camera_to_screen_ms": {"p95": 60.0}}
KEPT = {"of_the_rate": {"median": 0.99}}
LOST = {"of_the_rate": {"median": 0.96}}
MANY = {"viewers": 50, **KEPT}


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({}, []),
        ({"browser": GOOD, "viewers": MANY, "floods": {"osc": KEPT, "socket": KEPT}}, []),
        ({"browser": GOOD | {"fps": 24.9}}, ["24.9 fps"]),
        ({"browser": GOOD | {"camera_to_screen_ms": {"p95": 80.1}}}, ["p95 80.1 ms"]),
        ({"viewers": {"viewers": 49, **LOST}}, ["49 viewers", "viewers: 0.96 of the rate"]),
        ({"floods": {"osc": LOST, "socket": KEPT}}, ["osc: 0.96 of the rate"]),
        ({"floods": {"osc": KEPT, "socket": LOST}}, ["socket: 0.96 of the rate"]),
    ],
)
def test_each_target_is_asked(figures: dict[str, object], says: list[str]) -> None:
    found = missed(figures, 50)
    assert len(found) == len(says)
    assert all(said in each for said, each in zip(says, found, strict=True))


def test_a_ratio_is_that_of_the_rounds() -> None:
    quiet, busy = summary([30.0, 20.0, 10.0]), summary([27.0, 10.0, 9.0])
    assert quiet["fps"] == 20.0 and quiet["spread"] == [10.0, 30.0]
    assert ratio(busy, quiet) == {"median": 0.9, "spread": [0.5, 0.9]}


def test_every_way_is_once_in_every_place() -> None:
    rounds = [rotated(["a", "b", "c"], number) for number in range(3)]
    assert [sorted(each) for each in zip(*rounds, strict=True)] == [["a", "b", "c"]] * 3


def test_a_part_that_is_none_is_refused() -> None:
    assert PageOptions().parts.split(",") == list(PARTS)
    with pytest.raises(UsageError, match="--parts viewer: expected some of browser,"):
        PageOptions(parts="viewer")


def test_the_fake_camera_carries_its_numbers(tmp_path: Path) -> None:
    import cv2

    write_camera(tmp_path / "camera.y4m", 160, 120, 5)
    film = cv2.VideoCapture(str(tmp_path / "camera.y4m"))
    numbers = []
    while (read := film.read())[0]:
        assert read[1].shape == (120, 160, 3)
        numbers.append(read_counter(read[1]))
    assert numbers == [0, 1, 2, 3, 4]
