"""Photographs for training: upright, split by scene, cut the same way every time."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.errors import UsageError
from sdxs.common.picture.opencv import cv2
from sdxs.experiments.distill.material import pairs, photographs


def scene(seed: int) -> np.ndarray:
    """A picture like no other: drawn, uint8 (96, 96, 3)."""
    return photographs.drawn_picture(96, np.random.Generator(np.random.PCG64(seed)))


def save(path: Path, picture: np.ndarray) -> Path:
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty scenes, numbered as a collection numbers them; scene 3 twice, and two views with
    telling names.
    """
    for k in range(30):
        save(tmp_path / f"pack_{k:04}.png", scene(k))
    save(tmp_path / "again.png", np.clip(scene(3).astype(int) + 6, 0, 255).astype(np.uint8))
    save(tmp_path / "aloeL.png", scene(100))
    save(tmp_path / "aloeR.png", scene(101))
    return tmp_path


def side(split: photographs.Split, name: str) -> bool:
    return name in {p.name for p in split.held_out}


def test_every_picture_stands_on_one_side(folder: Path) -> None:
    split = photographs.split(folder, share=0.3)
    names = [p.name for p in (*split.train, *split.held_out)]
    assert len(names) == 33 and len(set(names)) == 33
    assert 0.2 <= len(split.held_out) / 33 <= 0.45
    assert split == photographs.split(folder, share=0.3)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_views_of_one_scene_are_never_parted(folder: Path, share: float) -> None:
    split = photographs.split(folder, share=share)
    assert side(split, "aloeL.png") == side(split, "aloeR.png")  # by name
    assert side(split, "pack_0003.png") == side(split, "again.png")  # by likeness


def test_original_names_in_a_manifest_count(folder: Path) -> None:
    rows = [
        {"file": f"pack_{k:04}.png", "original": f"harbour_{k}.jpg" if k < 6 else f"{k:04}.jpg"}
        for k in range(30)
    ]
    (folder / "manifest.json").write_text(json.dumps(rows))
    split = photographs.split(folder, share=0.5)
    assert len({side(split, f"pack_{k:04}.png") for k in range(6)}) == 1


def test_reserved_scenes_are_not_trained_on(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = save(tmp_path_factory.mktemp("reserved") / "x.jpg", scene(3))
    split = photographs.split(folder, [elsewhere], share=0.0)
    assert {p.name for p in split.held_out} == {"pack_0003.png", "again.png"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aloeL.jpg", "aloe"),
        ("aloeR.jpg", "aloe"),
        ("view1.png", "view"),
        ("view_12.png", "view"),
        ("left05.jpg", ""),
        ("scene right.jpg", "scene"),
        ("categorization_012.webp", "categorization_012"),
        ("0001.jpg", ""),
        ("1280x1024.jpg", ""),
    ],
)
def test_stems(name: str, expected: str) -> None:
    assert photographs.stem(name) == expected


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = 255  # bright on the left
    path = save(tmp_path / "a.jpg", picture)
    plain = path.read_bytes()
    # one EXIF entry: orientation 6, the camera was turned, the picture wants a quarter turn
    # clockwise
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff
    path.write_bytes(
        plain[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + plain[2:]
    )
    turned = photographs.read(path)
    assert turned.shape == (80, 40, 3)
    assert turned[:30].mean() > 240 and turned[50:].mean() < 15


def test_an_empty_folder_and_a_damaged_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photographs there"):
        photographs.list_photographs(tmp_path)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="broken.jpg: not a readable picture"):
        photographs.read(broken)


def test_a_square_depends_on_seed_and_number_alone(folder: Path) -> None:
    files = tuple(str(p) for p in photographs.list_photographs(folder))
    request = pairs.Request(files, 8, 64, seed=1)
    assert np.array_equal(pairs.square(request, 5), pairs.square(request, 5))
    other = pairs.Request(files, 8, 64, seed=2)
    assert not np.array_equal(pairs.square(request, 5), pairs.square(other, 5))


def test_at_most_fifteen_percent_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(str(p) for p in photographs.list_photographs(folder))
    drawn: list[int] = []
    real = photographs.drawn_picture
    monkeypatch.setattr(
        photographs, "drawn_picture", lambda size, g: drawn.append(1) or real(size, g)
    )
    for index in range(300):
        pairs.square(pairs.Request(files, 300, 32, seed=0), index)
    assert 10 <= len(drawn) <= 45
