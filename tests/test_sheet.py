"""The contact sheet: which frames it picks, and what it looks like."""

from pathlib import Path

import numpy as np
import pytest

from sdxs.common.errors import SdxsWarning, UsageError
from sdxs.common.io import sheet as module
from sdxs.common.io.sheet import Sheet
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.picture.opencv import cv2


def frame(number: int, prompt: str) -> LiveFrame:
    made = LiveFrame(np.full((32, 32, 3), 10, np.uint8), [np.full((32, 32, 3), number, np.uint8)])
    made.id, made.prompt = number, prompt
    return made


def test_five_frames_of_each_prompt_evenly_spaced(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "sheet.png", hold=50)
    for number in range(100):
        sheet.add(frame(number, "a" if number < 50 else "b"))
    sheet.close()
    rows = np.split(cv2.imread(str(tmp_path / "sheet.png")), 3)
    assert rows[0].shape == (32, 160, 3)
    assert [[int(row[0, 32 * i, 0]) for i in range(5)] for row in rows] == [
        [10] * 5,
        [5, 15, 25, 35, 45],
        [55, 65, 75, 85, 95],
    ]


def test_a_session_of_many_prompts_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every prompt kept five pictures until the end: 14 GB after an hour of one a second."""
    monkeypatch.setattr(module, "MOST_BYTES", 3 * 5 * 32 * 32 * 3)
    sheet = Sheet(tmp_path / "sheet.png", hold=5)
    with pytest.warns(SdxsWarning, match="holds its first 2 prompts; later ones are left out"):
        for number in range(50):
            sheet.add(frame(number, f"prompt {number // 5}"))
    assert len(sheet._rows) == 2
    sheet.close()
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (96, 160, 3)


def test_nothing_collected_nothing_written(tmp_path: Path) -> None:
    Sheet(tmp_path / "sheet.png", hold=50).close()
    assert not list(tmp_path.iterdir())


def test_a_video_is_no_contact_sheet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an image"):
        Sheet(tmp_path / "sheet.mp4", hold=5)
