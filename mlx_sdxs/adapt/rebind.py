"""Put other arrays into a frame without touching the frame: a copy that shares all the rest.

Frames under way keep the arrays that they began with, so nothing waits for a change.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..fast.conv import FoldedConv, transform_weight
from ..frame import Frame

Path = tuple[str | int, ...]  # of attributes and places in lists, as ('mid_block', 'resnets', 0)
Slots = tuple[Path, ...]


def rebound(frame: Frame, slots: Slots, values: list[mx.array]) -> Frame:
    """Return a frame whose UNet has these arrays in these places. Arrays may be tracers.

    A convolution in a form that its map decided gets its weight in this form.
    """
    tree: dict[Any, Any] = {}
    for path, value in zip(slots, values, strict=True):
        level = tree
        for step in path[:-1]:
            level = level.setdefault(step, {})
        level[path[-1]] = value
    changed = replace(frame, unet=_copied(frame.unet, tree))
    if frame.last_weight is not None and ("conv_out", "weight") in slots:
        changed = replace(changed, last_weight=changed._last_weight())
    return changed


def _copied(old: Any, tree: Mapping[Any, Any]) -> Any:
    """Copy modules and lists along the paths of a tree, and nothing beside them."""
    if isinstance(old, list):
        return [_copied(each, tree[n]) if n in tree else each for n, each in enumerate(old)]
    new = copy.copy(old)
    for name, below in tree.items():
        if not isinstance(below, mx.array):
            new[name] = _copied(old[name], below)
        elif isinstance(new, FoldedConv) and name == "weight" and new._form is not None:
            new[name] = transform_weight(below, new._form)
        else:
            new[name] = below
    return new


def at(module: nn.Module, path: Path) -> Any:
    """Return what is at a path, or None."""
    found: Any = module
    for step in path:
        if isinstance(step, int):
            found = found[step] if isinstance(found, list) and step < len(found) else None
        else:
            found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            return None
    return found


def path_of(layer: str) -> Path:
    """Return the path of a layer, by its name in the checkpoint."""
    return tuple(int(step) if step.isdecimal() else step for step in layer.split("."))
