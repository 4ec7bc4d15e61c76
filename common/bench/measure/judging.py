"""Judge each timed configuration by its picture: fresh frames against a reference in float32.

The fresh frames are rendered in the timed processes, after the timing of their round. The reference
renders the same frames after all rounds, in a process of its own. Pictures wait on disk meanwhile.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from ..model.pictures import PictureCheck, failure, limits_of
from ..model.report import Round
from .crew import Failed
from .fresh import Fresh, RenderFresh
from .requests import Entrant, Load
from .run_state import RunState
from .worker import Worker

MOST_PSNR_DB = 99.0  # of equal pictures, because JSON has no infinity
APART_DB = 3.0  # how much nearer another frame must be before it is named


class Gallery:
    """The fresh pictures of a run by entrant and round, in a temporary folder."""

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self._kept: dict[str, dict[int, tuple[Path, float]]] = {}
        self.broken: dict[str, str] = {}

    def keep(self, label: str, number: int, fresh: Fresh, timed_ms: float) -> None:
        """Keep what a round rendered, and the ratio of its time to a timed frame's."""
        self._folder = self._folder or TemporaryDirectory(prefix="sdxs-bench-")
        path = Path(self._folder.name) / f"{sum(map(len, self._kept.values()))}.npy"
        np.save(path, fresh.pictures)
        self._kept.setdefault(label, {})[number] = path, median(fresh.frame_ms) / timed_ms

    def of(self, label: str) -> dict[int, tuple[np.ndarray, float]]:
        """Return pictures and ratio of each round; the pictures are read when they are needed."""
        kept = self._kept.get(label, {})
        return {n: (np.load(path, mmap_mode="r"), ratio) for n, (path, ratio) in kept.items()}

    def close(self) -> None:
        """Remove the pictures; a second call does nothing."""
        if self._folder:
            self._folder.cleanup()


def render_fresh(run: RunState, gallery: Gallery, worker: Worker, record: Round) -> None:
    """Render the fresh frames of a round in the process that was just timed."""
    entrant = worker.entrant
    if entrant.reference is None or record.error or not record.frame_ms:
        return
    during = f"the picture of round {record.number + 1}"
    said = run.crew.ask(worker, RenderFresh(record.number), during)
    if isinstance(said, Failed):
        gallery.broken[entrant.label] = said
    else:
        gallery.keep(entrant.label, record.number, said, median(record.frame_ms))


def judge(run: RunState, gallery: Gallery) -> None:
    """Compare what every entrant rendered with its reference; note the pictures that fail."""
    by_reference: dict[Entrant, list[str]] = {}
    for entrant in run.plan.entrants:
        if entrant.reference and (gallery.of(entrant.label) or entrant.label in gallery.broken):
            by_reference.setdefault(entrant.reference, []).append(entrant.label)
    for reference, labels in by_reference.items():
        run.say(f"the pictures, against {reference.label}")
        expected = _references(run, reference, gallery, labels)
        for label in labels if expected is not None else ():
            assert expected is not None
            of, broken = run.of[label], gallery.broken.get(label, "")
            check = check_of(gallery.of(label), expected, reference.label, of.describe, broken)
            of.picture = check
            if check.failed:
                run.report.failures.append(f"{label}, the picture: {check.failed}")
    run.save_now()


def _references(
    run: RunState, reference: Entrant, gallery: Gallery, labels: list[str]
) -> dict[int, np.ndarray] | None:
    """Render each round's clip with the reference, as long as the longest; None if it fails."""
    wanted: dict[int, int] = {}
    for label in labels:
        for number, (pictures, _) in gallery.of(label).items():
            wanted[number] = max(wanted.get(number, 0), len(pictures))
    worker, during = run.start(reference), "rendering the reference"
    made: dict[int, np.ndarray] = {}
    if isinstance(run.crew.ask(worker, Load(), during), Failed):
        return None
    try:
        for number, frames in wanted.items():
            said = run.crew.ask(worker, RenderFresh(number, frames), during)
            if isinstance(said, Failed):
                return None
            made[number] = said.pictures
    finally:
        worker.end()
    return made


def check_of(
    rounds: Mapping[int, tuple[np.ndarray, float]],
    expected: Mapping[int, np.ndarray],
    reference: str,
    describe: Mapping[str, str],
    broken: str = "",
) -> PictureCheck:
    """Compare the rounds of an entrant, as `Gallery.of` has them, with the reference's clips.

    describe: what the entrant says of itself. broken: why it rendered no fresh frames at last.
    """
    check, limits, remark = PictureCheck(reference, 0, [], [], [], []), limits_of(describe), ""
    for number, (pictures, ratio) in rounds.items():
        rendered = np.asarray(pictures)
        wanted = expected[number][: len(rendered)]
        found = compare(rendered, wanted)
        if not remark and min(found.psnr_db) < limits.psnr_db:
            remark = _remark(rendered, wanted)
        check.frames += len(rendered)
        check.psnr_db += found.psnr_db
        check.ssim += found.ssim
        check.flicker_levels += found.flicker_levels
        check.fresh_ratio.append(round(ratio, 4))
    check.failed = broken or failure(check, limits, remark)
    return check


def compare(rendered: np.ndarray, expected: np.ndarray) -> PictureCheck:
    """Measure every frame of a clip against the reference's, both uint8 (frames, H, W, 3)."""
    from ...picture.nearness import luma, ssim
    from ...picture.temporal import psnr

    pairs = list(zip(rendered, expected, strict=True))
    errors = [luma(a.astype(np.float32)) - luma(b.astype(np.float32)) for a, b in pairs]
    return PictureCheck(
        "",
        len(pairs),
        [round(min(psnr(a, b), MOST_PSNR_DB), 3) for a, b in pairs],
        [round(ssim(a, b), 5) for a, b in pairs],
        [round(float(np.abs(after - before).mean()), 4) for before, after in pairwise(errors)],
        [],
    )


def _remark(rendered: np.ndarray, expected: np.ndarray) -> str:
    """Say what the worst frame of a clip looks like, if it is another frame's picture."""
    from ...picture.temporal import psnr

    if len(rendered) > 1 and all(np.array_equal(rendered[0], other) for other in rendered[1:]):
        return "all its pictures are the same"
    own = [psnr(a, b) for a, b in zip(rendered, expected, strict=True)]
    for k in np.argsort(own, kind="stable"):
        others = [psnr(rendered[k], other) for other in expected]
        nearest = int(np.argmax(others))
        if nearest != k and others[nearest] > own[k] + APART_DB:
            return f"frame {k + 1} looks like frame {nearest + 1}: it returns another's picture"
    return ""
