"""The ten teachers: OpenCV renderings of a photograph, one per prompt of the gallery.

Every teacher is a pure function of the picture, the same wherever in the picture a thing stands: a
network of convolutions cannot learn a pattern that is tied to the screen. Thresholds are soft, so
that a little noise changes a little. Pictures are float32 (H, W, 3) RGB in [0, 1]; lengths are
pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ....common.picture.nearness import luma
from ....common.picture.opencv import cv2
from ....common.prompt.syntax import GALLERY

Picture = np.ndarray
Teacher = Callable[[Picture], Picture]


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _box(picture: np.ndarray, radius: int) -> np.ndarray:
    return cv2.blur(picture, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT_101)


def guided(picture: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Smooth by a filter guided by brightness (He et al. 2010), under variance `eps`."""
    guide = luma(picture) if picture.ndim == 3 else picture
    planes = picture if picture.ndim == 3 else picture[..., None]
    mean_guide, mean = _box(guide, radius), _box(planes, radius).reshape(planes.shape)
    variance = _box(guide * guide, radius) - mean_guide**2
    products = _box(planes * guide[..., None], radius).reshape(planes.shape)
    slope = (products - mean * mean_guide[..., None]) / (variance + eps)[..., None]
    offset = mean - slope * mean_guide[..., None]
    result = _box(slope, radius).reshape(planes.shape) * guide[..., None] + _box(
        offset, radius
    ).reshape(planes.shape)
    return result.reshape(picture.shape)


def kuwahara(picture: Picture, radius: int, sharpness: float) -> Picture:
    """Average four neighbouring squares, each weighted by its evenness: brush dabs with edges."""
    side = 2 * radius + 1
    mean = cv2.blur(picture, (side, side), borderType=cv2.BORDER_REFLECT_101)
    grey = luma(picture)
    variance = cv2.blur(grey * grey, (side, side)) - cv2.blur(grey, (side, side)) ** 2
    weight = (1e-3 / (1e-3 + np.maximum(variance, 0))) ** sharpness
    total, weights = np.zeros_like(picture), np.zeros_like(grey)
    for dy in (-radius, radius):
        for dx in (-radius, radius):
            w = _moved(weight, dx, dy)
            total += _moved(mean, dx, dy) * w[..., None]
            weights += w
    return total / (weights[..., None] + 1e-12)


def _moved(picture: np.ndarray, dx: int, dy: int) -> np.ndarray:
    pad = max(abs(dx), abs(dy))
    wide = cv2.copyMakeBorder(picture, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    height, width = picture.shape[:2]
    return wide[pad + dy : pad + dy + height, pad + dx : pad + dx + width]


def saturate(picture: Picture, factor: float) -> Picture:
    """Move every colour away from (or towards) its grey."""
    grey = luma(picture)[..., None]
    return grey + (picture - grey) * factor


def step(values: np.ndarray, at: float, width: float) -> np.ndarray:
    """0 to 1 around `at`, over about `width`: a threshold that noise cannot flip."""
    return 1 / (1 + np.exp(np.clip(-4 * (values - at) / width, -30, 30)))


def posterised(values: np.ndarray, levels: int, width: float) -> np.ndarray:
    """Flatten [0, 1] to `levels` shades with soft stairs between them."""
    edges = [(k + 1) / levels for k in range(levels - 1)]
    return sum(step(values, edge, width) for edge in edges) / (levels - 1)


def edges(grey: np.ndarray, sigma: float) -> np.ndarray:
    """Return the edge strength at scale `sigma`: the gradient of the blurred brightness."""
    smooth = blur(grey, sigma)
    return np.hypot(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(smooth, cv2.CV_32F, 0, 1) / 8
    )


def lines(grey: np.ndarray, sigma: float, gain: float) -> np.ndarray:
    """Ink where a picture is darker than around it (difference of Gaussians); 1 is full."""
    difference = blur(grey, 1.6 * sigma) - blur(grey, sigma)
    return np.tanh(np.maximum(difference - 0.008, 0) * gain)


def toned(values: np.ndarray, stops: Sequence[tuple[float, tuple[int, int, int]]]) -> Picture:
    """Brightness to colour, linear between stops of (brightness, RGB of 255)."""
    at = [position for position, _ in stops]
    return np.stack(
        [np.interp(values, at, [colour[c] / 255 for _, colour in stops]) for c in range(3)], axis=-1
    ).astype(np.float32)


def oil(picture: Picture) -> Picture:
    """Dabs of saturated, slightly varnished paint that catch light from the upper left."""
    paint = kuwahara(blur(picture, 0.7), 2, 2.0)
    grey = luma(paint)
    smooth = blur(grey, 1.0)
    relief = np.tanh(
        3.0 * (cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 8 * 4
    )
    paint = saturate(0.5 + (paint - 0.5) * 1.12, 1.5) * np.array([1.06, 0.96, 0.78], np.float32)
    return paint + 0.20 * relief[..., None]


def watercolor(picture: Picture) -> Picture:
    """Pale washes on white paper; pigment gathers at their rims."""
    wash = guided(picture, 6, 0.012)
    grey = luma(wash)
    rim = np.tanh(9 * edges(grey, 1.2))
    pale = 1 - 0.62 * (1 - saturate(wash, 1.25)) * (1 + 0.55 * rim[..., None])
    paper = step(grey, 0.72, 0.35)[..., None]
    return pale + (1 - pale) * 0.75 * paper


def pencil(picture: Picture) -> Picture:
    """Graphite: lines where brightness falls, light shading elsewhere, warm paper."""
    grey = np.maximum(guided(luma(picture), 2, 0.004), 0)
    dodge = (grey + 0.04) / (blur(grey, 6.0) + 0.08)
    drawn = np.clip(1.06 * dodge, 0, 1) ** 1.7
    shade = 0.78 + 0.22 * np.clip(blur(grey, 2.0) * 1.3, 0, 1)
    return (drawn * shade)[..., None] * np.array([0.97, 0.96, 0.93], np.float32)


def neon(picture: Picture) -> Picture:
    """Paint night: dark blue and violet, edges glowing magenta in the dark, else cyan."""
    smooth = guided(picture, 3, 0.004)
    grey = luma(smooth)
    night = toned(grey, [(0, (4, 3, 18)), (0.5, (38, 14, 84)), (1, (70, 50, 150))])
    tube = np.tanh(9 * edges(grey, 1.5))
    glow = 0.75 * tube + 0.9 * blur(tube, 5.0)
    bright = step(blur(grey, 4.0), 0.45, 0.3)[..., None]
    colour = (1 - bright) * np.array([1.0, 0.12, 0.75], np.float32) + bright * np.array(
        [0.1, 0.95, 1.0], np.float32
    )
    return night + glow[..., None] * colour


def anime(picture: Picture) -> Picture:
    """Flat, bright cel colours with thin dark outlines."""
    flat = guided(guided(picture, 4, 0.006), 4, 0.006)
    grey = luma(flat)
    cel = 0.30 + 0.70 * posterised(np.maximum(grey, 0) ** 0.85, 4, 0.12)
    colour = saturate(flat * (cel / (grey + 0.06))[..., None], 1.55)
    ink = 0.85 * lines(luma(picture), 1.2, 28)
    colour = np.clip(colour, 0, 1) * (1 - ink[..., None])
    return colour + np.array([0.02, 0.02, 0.07], np.float32)


def hdr(picture: Picture) -> Picture:
    """Tone mapping turned up: lifted shadows, held highlights, strong local contrast and colour."""
    calm = guided(picture, 2, 0.0015)
    grey = luma(calm)
    base = guided(grey, 12, 0.02)
    detail = grey - base
    mapped = 0.17 + 0.64 * np.maximum(base, 0) ** 0.7 + 2.1 * np.tanh(detail * 1.6) / 1.6
    return saturate(calm * (mapped / (grey + 0.03))[..., None], 1.5)


def impressionist(picture: Picture) -> Picture:
    """Smear colour along the forms: violet shadows, yellow light, hardly any black."""
    smeared = _along_forms(blur(picture, 1.0), 7)
    smeared = smeared + 0.9 * (smeared - blur(smeared, 3.0))
    grey = luma(smeared)
    high = 0.30 + 0.66 * saturate(smeared, 1.7)
    violet = np.array([-0.02, -0.07, 0.20], np.float32) * (1 - step(grey, 0.42, 0.4))[..., None]
    yellow = np.array([0.07, 0.04, -0.16], np.float32) * step(grey, 0.58, 0.4)[..., None]
    return high + violet + yellow


def _along_forms(picture: Picture, reach: int) -> Picture:
    """Average along the direction of least brightness change (structure tensor's eigenvector)."""
    grey = luma(picture)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    xx, yy, xy = blur(dx * dx, 3.0), blur(dy * dy, 3.0), blur(dx * dy, 3.0)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    along_x, along_y = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
    total = np.zeros_like(picture)
    for k in range(-reach, reach + 1):
        total += cv2.remap(
            picture,
            x + k * along_x,
            y + k * along_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return total / (2 * reach + 1)


def dark_fantasy(picture: Picture) -> Picture:
    """Low key and drained: green-blue gloom, embers in the light, a haze around it."""
    smooth = guided(picture, 2, 0.002)
    grey = luma(smooth)
    gloom = toned(
        np.clip(grey, 0, 1) ** 1.5,
        [
            (0, (5, 9, 14)),
            (0.3, (34, 54, 60)),
            (0.6, (98, 100, 82)),
            (1, (226, 178, 110)),
        ],
    )
    haze = blur(np.maximum(grey - 0.5, 0), 8.0)[..., None]
    return (
        0.85 * gloom
        + 0.30 * (smooth - grey[..., None])
        + haze * np.array([0.32, 0.17, 0.05], np.float32)
    )


_PRINT_COLOURS = (
    np.array(
        [
            (26, 30, 58),
            (36, 74, 128),
            (126, 168, 184),
            (240, 226, 190),
            (212, 168, 98),
            (188, 66, 46),
            (104, 122, 78),
        ],
        np.float32,
    )
    / 255
)


def ukiyo_e(picture: Picture) -> Picture:
    """Print from a woodblock: one of seven pigments everywhere, dark lines around the forms."""
    flat = guided(guided(picture, 5, 0.01), 5, 0.01)
    grey = luma(flat)
    colour = saturate(0.5 + (flat - 0.5) * 1.15, 1.7)
    near = (
        (colour**2).sum(axis=-1, keepdims=True)
        - 2 * colour @ _PRINT_COLOURS.T
        + (_PRINT_COLOURS**2).sum(axis=-1)
    )
    weight = np.exp((near.min(axis=-1, keepdims=True) - near) / 0.035)  # (H, W, 7)
    printed = weight / weight.sum(axis=-1, keepdims=True) @ _PRINT_COLOURS
    cut = np.maximum(
        0.9 * lines(luma(picture), 1.6, 26),
        0.55 * np.tanh(14 * np.maximum(edges(grey, 1.0) - 0.02, 0)),
    )
    return printed * (1 - cut[..., None]) + cut[..., None] * np.array(
        [0.07, 0.07, 0.13], np.float32
    )


_POP = (
    (0.0, (24, 16, 92)),
    (0.27, (232, 20, 128)),
    (0.50, (255, 112, 24)),
    (0.72, (255, 226, 30)),
    (1.0, (70, 222, 226)),
)


def pop_art(picture: Picture) -> Picture:
    """A silk-screen print: five flat inks by brightness alone, and a black key."""
    grey = luma(guided(guided(picture, 4, 0.008), 4, 0.008))
    levels = len(_POP)
    shade = posterised(np.clip(0.5 + (grey - 0.47) * 1.15, 0, 1), levels, 0.075)
    inks = toned(shade, [(k / (levels - 1), colour) for k, (_, colour) in enumerate(_POP)])
    key = 0.9 * lines(luma(picture), 2.0, 24)[..., None]
    return inks * (1 - key)


TEACHERS: dict[str, Teacher] = dict(
    zip(
        GALLERY,
        (
            oil,
            watercolor,
            pencil,
            neon,
            anime,
            hdr,
            impressionist,
            dark_fantasy,
            ukiyo_e,
            pop_art,
        ),
        strict=True,
    )
)


def render(prompt: str, picture: np.ndarray) -> np.ndarray:
    """Render uint8 (H, W, 3) RGB in the style of `prompt`, one of the gallery's."""
    drawn = TEACHERS[prompt](picture.astype(np.float32) / 255)
    return np.clip(np.round(drawn * 255), 0, 255).astype(np.uint8)
