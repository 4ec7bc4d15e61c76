"""The pad: two to four prompts blended by a place; exact at corners and edges, a mean between."""

import itertools

import numpy as np
import pytest

from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import UsageError
from sdxs.common.live.parameters import LiveParameters, Set, Step, apply, with_prompt
from sdxs.common.prompt.blend import Slerp, combine
from sdxs.common.prompt.pad import shares, spherical_mean
from sdxs.common.prompt.syntax import ParsedPrompt, Part, parse_prompt, split_place, with_place
from sdxs.common.prompt.text_encoder import TextEncoder


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 77, 48), dtype=np.float32)


CORNERS = {"a": draw(1), "b": 3 * draw(2), "c": draw(3), "d": 2 * draw(4)}
A, B, C, D = CORNERS.values()
PAD, THREE, ROOF = "a >> b // c >> d", "a >> b // c", "a // c >> d"


def at(prompt: str) -> np.ndarray:
    return combine(parse_prompt(prompt), lambda part: CORNERS[part.text])


def on_circle(*degrees: float) -> list[np.ndarray]:
    """Unit vectors in one plane, one token."""
    angles = np.radians(degrees)
    return [np.array([[[np.cos(one), np.sin(one), 0]]], np.float32) for one in angles]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        (PAD, "", A),
        (PAD, "@ 1", B),
        (PAD, "@ 0 1", C),
        (PAD, "@ 1 1", D),
        (THREE, "@ 0.4 1", C),
        (ROOF, "@ 0.4", A),
        (PAD, "@ 0.3", Slerp(A, B)(0.3)),
        (PAD, "@ 0.3 1", Slerp(C, D)(0.3)),
        (PAD, "@ 0 0.7", Slerp(A, C)(0.7)),
        (PAD, "@ 1 0.7", Slerp(B, D)(0.7)),
        (THREE, "@ 1 0.7", Slerp(B, C)(0.7)),
        (ROOF, "@ 0 0.7", Slerp(A, C)(0.7)),
    ],
)
def test_a_corner_is_its_prompt_and_an_edge_the_bank_of_two(
    text: str, place: str, expected: np.ndarray
) -> None:
    np.testing.assert_array_equal(at(f"{text} {place}"), expected)


def test_the_edges_are_met_without_a_jump() -> None:
    for text in (PAD, THREE):
        for x, y in itertools.product((0.2, 0.9), (1e-6, 1 - 1e-6)):
            edge = at(f"{text} @ {x} {round(y)}")
            np.testing.assert_allclose(at(f"{text} @ {x} {y:.7f}"), edge, atol=2e-5)


def test_on_a_great_circle_the_mean_is_that_of_the_angles() -> None:
    weights = [0.2, 0.5, 0.3]
    (expected,) = on_circle(0.2 * 10 + 0.5 * 40 + 0.3 * 100)
    np.testing.assert_allclose(spherical_mean(on_circle(10, 40, 100), weights), expected, atol=1e-6)


def test_three_axes_with_one_weight_meet_in_their_middle_and_norms_go_straight() -> None:
    axes = [
        length * np.eye(3, dtype=np.float32)[i][None, None] for i, length in enumerate((1, 2, 6))
    ]
    found = spherical_mean(axes, [1 / 3] * 3)
    np.testing.assert_allclose(found, np.full((1, 1, 3), 3 / np.sqrt(3)), rtol=1e-6)


def test_no_pull_is_left_at_the_mean() -> None:
    """The weighted directions to the corners, as long as the angles, add up to nothing."""
    weights = shares((2, 2), 0.35, 0.6)
    found = spherical_mean([A, B, C, D], weights).astype(np.float64)
    unit = found / np.linalg.norm(found, axis=-1, keepdims=True)
    pull = np.zeros_like(unit)
    for corner, weight in zip((A, B, C, D), weights, strict=True):
        one = corner / np.linalg.norm(corner, axis=-1, keepdims=True)
        cosine = (unit * one).sum(-1, keepdims=True)
        away = one - cosine * unit
        pull += weight * np.arccos(cosine) * away / np.linalg.norm(away, axis=-1, keepdims=True)
    assert np.abs(pull).max() < 1e-6
    lengths = sum(
        w * np.linalg.norm(x, axis=-1) for x, w in zip((A, B, C, D), weights, strict=True)
    )
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), lengths, rtol=1e-5)


def test_the_order_of_the_corners_means_nothing() -> None:
    parts = list(zip((A, B, C, D), shares((2, 2), 0.3, 0.8), strict=True))
    expected = spherical_mean(*zip(*parts, strict=True))
    for order in ((3, 1, 0, 2), (1, 0, 3, 2)):
        turned = spherical_mean(*zip(*(parts[i] for i in order), strict=True))
        np.testing.assert_allclose(turned, expected, atol=1e-6)
    # a pad that is turned over shows the same at the turned place
    np.testing.assert_allclose(at("c >> a // d >> b @ 0.2 0.3"), at(f"{PAD} @ 0.3 0.8"), atol=1e-6)


@pytest.mark.parametrize("third", [-A, np.zeros_like(A)], ids=["opposite", "zero"])
def test_what_has_no_great_circle_goes_straight(third: np.ndarray) -> None:
    found = spherical_mean([A, B, third], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(found, 0.25 * A + 0.5 * B + 0.25 * third, atol=1e-5)


def test_the_same_corner_everywhere_stays_it() -> None:
    np.testing.assert_allclose(spherical_mean([A, A, A], [0.2, 0.3, 0.5]), A, rtol=1e-5, atol=1e-6)


def test_shares_of_the_corners() -> None:
    assert shares((2, 2), 0.25, 0.5) == [0.375, 0.125, 0.375, 0.125]
    assert shares((2, 1), 0.25, 0.5) == [0.375, 0.125, 0.5]
    assert shares((1, 2), 0.25, 1) == [0.0, 0.75, 0.25]


def test_corners_without_a_share_are_not_encoded() -> None:
    asked: list[str] = []
    combine(
        parse_prompt(f"{PAD} @ 1 0.5"), lambda part: asked.append(part.text) or CORNERS[part.text]
    )
    assert asked == ["b", "d"]


def test_the_syntax_of_a_pad() -> None:
    parsed = parse_prompt("(a:1) and (b:3) >> c // d @ .25 1")
    assert parsed == ParsedPrompt(
        ((Part("a"), Part("b", 3)), (Part("c"),)), 0.25, ((Part("d"),),), 1.0
    )
    assert parsed.texts == ("a", "b", "c", "d") and parsed.last == 1
    assert parse_prompt("a // b").stops == ((Part("a // b"),),), "without >> it is a text"
    assert parse_prompt("see http://a >> b").below == ()
    assert split_place(f"{PAD} @ 0.3 0.7") == (PAD, 0.3, 0.7)
    assert split_place(f"{PAD} @ 0.3") == (PAD, 0.3, 0.0) and split_place(PAD) == (PAD, 0.0, 0.0)
    assert (
        with_place(PAD, 0.3, 0.7) == f"{PAD} @ 0.3 0.7" and with_place(PAD, 0.3) == f"{PAD} @ 0.3"
    )
    assert with_place(PAD, 0, 0.5) == f"{PAD} @ 0 0.5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a >> b // c // d", "two rows of 2 prompts"),
        ("a >> b >> c // d", "two rows of 2 prompts"),
        ("a >> b //", "'>>' or '//'"),
        ("// a >> b", "'>>' or '//'"),
        (f"{PAD} @ 0.5 1.5", "0 to 1 down a pad"),
        (f"{PAD} @ 1.5 0.5", "0 to 1"),
        (f"{PAD} @ 0.5 0.5 0.5", "across and down"),
        (f"{PAD} @ 0.5 x", "across and down"),
        (f"{PAD} @", "across and down"),
        ("a >> b @ 0.5 0.5", "'0.5 0.5' after '@'"),
    ],
)
def test_a_malformed_pad_is_quoted(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_prompt(text)
    assert said in str(caught.value) and str(caught.value).startswith("prompt ")


def test_its_place_is_two_live_parameters() -> None:
    values = with_prompt(LiveParameters(), f"{PAD} @ 0.3 0.7")
    assert (values.prompt, values.position, values.position_y) == (PAD, 0.3, 0.7)
    assert values.written_prompt == f"{PAD} @ 0.3 0.7"
    assert apply(values, Step("position_y", 9)).position_y == 1.0
    assert apply(values, Set("position", 0)).written_prompt == f"{PAD} @ 0 0.7"
    assert apply(values, Set("prompt", "plain")).position_y == 0.0
    bank = apply(values, Set("prompt", "a >> b >> c"))
    assert apply(bank, Step("position_y", 1)) == bank
    with pytest.raises(UsageError, match=r"position_y 0\.5: .*from 0 to 0.*pads are written"):
        apply(bank, Set("position_y", 0.5))
    with pytest.raises(UsageError, match=r"position 1\.5: .*from 0 to 1"):
        apply(values, Set("position", 1.5))


def test_the_encoder_understands_a_pad(tiny_sdxs: Checkpoint) -> None:
    encoder = TextEncoder(tiny_sdxs)
    cat, dog, bird = (encoder.encode(f"a {each}") for each in ("cat", "dog", "bird"))
    np.testing.assert_array_equal(
        encoder.encode("a cat >> a dog // a bird @ 0.25 0.5"),
        spherical_mean([cat, dog, bird], [0.375, 0.125, 0.5]),
    )
