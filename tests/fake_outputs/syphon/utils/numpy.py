"""Copies between arrays and textures; a texture takes as many bytes as it has."""

import numpy as np

from syphon import BGRA, RGBA, Texture


def copy_image_to_mtl_texture(image: np.ndarray, texture: Texture) -> None:
    assert len(image.shape) == 3 and image.shape[2] == 4, "Image has to be of shape (m, n, 4)"
    assert image.dtype == np.uint8 and len(image.tobytes()) == texture.pixels.nbytes
    texture.pixels = image.copy()


def copy_mtl_texture_to_image(texture: Texture) -> np.ndarray:
    assert texture.pixelFormat() in (RGBA, BGRA)
    image = np.frombuffer(texture.pixels.tobytes(), np.uint8)  # read-only, as there
    return image.reshape(texture.height(), texture.width(), 4)
