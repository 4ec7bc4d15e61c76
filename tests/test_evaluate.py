"""The judge: full marks for a perfect painter, none for one that ignores its prompt."""

import numpy as np
import pytest

from sdxs.common.picture.nearness import ssim
from sdxs.common.prompt.syntax import GALLERY
from sdxs.experiments.distill.judge import evaluate
from sdxs.experiments.distill.material import clips, phrases, teachers

SIZE = 64


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return evaluate.squares(evaluate.DEMO_PICTURES, SIZE)


def test_similarity_is_one_for_equals_and_less_otherwise(pictures: list[np.ndarray]) -> None:
    cat, coffee = pictures[1], pictures[2]
    assert ssim(cat, cat) == pytest.approx(1)
    assert ssim(cat, coffee) < 0.5
    assert 0.5 < ssim(cat, (cat * 0.8).astype(np.uint8)) < 0.999


def test_full_marks_for_the_teachers_themselves_and_none_for_shuffled_prompts(
    pictures: list[np.ndarray],
) -> None:
    style = {
        text: prompt
        for prompt in GALLERY
        for texts in phrases.held_out_prompts(prompt).values()
        for text in texts
    }

    def painter(text: str, picture: np.ndarray) -> np.ndarray:
        return teachers.render(style.get(text, GALLERY[0]), picture)

    found = evaluate.judge_prompts(painter, pictures, each=1)
    for kind, count in (("canonical", 30), ("held-out templates", 200), ("held-out phrases", 120)):
        assert found[kind]["accuracy"] == 1 and found[kind]["renderings"] == count
        assert found[kind]["accuracy with shuffled prompts"] == 0
        assert np.array_equal(
            np.array(found[kind]["confusion"]), np.eye(10, dtype=int) * (count // 10)
        )
    assert set(found["never trained"]) == set(phrases.NEVER_TRAINED)


def test_a_painter_deaf_to_its_prompt_is_right_once_in_ten(pictures: list[np.ndarray]) -> None:
    found = evaluate.judge_prompts(
        lambda text, picture: teachers.render("pop art", picture), pictures[:1], each=1
    )
    assert found["canonical"]["accuracy"] == pytest.approx(0.1)
    assert found["canonical"]["misread"]["dark fantasy"] == ["pop art"]


@pytest.mark.parametrize("name", list(clips.CLIPS))
def test_doing_nothing_flickers_as_much_as_the_camera(name: str) -> None:
    clip = clips.CLIPS[name]
    same = evaluate.flicker(clip(SIZE), lambda frame: frame)
    assert same.ratio == pytest.approx(1) and same.input_levels > 0.2 and same.pairs >= 15
    assert evaluate.flicker(clip(SIZE), lambda frame: frame // 2).ratio < 0.7
    assert evaluate.flicker(clip(SIZE), lambda frame: frame * 0 + 9).ratio == 0
