"""Textures."""

import numpy as np
import objc

from syphon import Device, Texture


def create_mtl_texture(device: Device, width: int, height: int) -> Texture:
    assert objc.depth, "outside of an autorelease pool"
    return Texture(device, np.zeros((height, width, 4), np.uint8))
