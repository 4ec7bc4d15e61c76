"""sdxs from Python: open a model on a backend, give it frames and prompts, get pictures.

    import numpy as np
    from sdxs.api import open_model

    with open_model("demo", backend="mlx") as model:
        frame = np.zeros((model.size, model.size, 3), np.uint8)     # a camera picture: RGB, square
        picture = model(frame, "an oil painting")                   # uint8 RGB of the same shape
        between = model(frame, "a pencil sketch >> pop art @ 0.5", seed=7)
    print(picture.shape, picture.dtype)

`backends()` names those that are installed. See `open_model` for everything it takes.
"""

from .model import Model, backends, open_model

__all__ = ["Model", "backends", "open_model"]
