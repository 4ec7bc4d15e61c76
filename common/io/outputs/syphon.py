"""Syphon, by syphon-python: a texture that other programs of a Mac share; the side of the child.

The process runs its main loop between pictures, or nobody would learn that the server is there.
Never seen on a Mac; the tests ask a fake that holds to the documented rules.
"""

import numpy as np
import objc
import syphon
from syphon.utils.numpy import copy_image_to_mtl_texture
from syphon.utils.raw import create_mtl_texture

from ...errors import SinkError
from ..sources.syphon_name import read_name
from .plan import OutputPlan

OPAQUE = 255
LOOK_S = 0.001  # of the main loop, between pictures


class SyphonOutlet:
    """Publishes one RGBA texture again and again.

    Metal has row 0 on top, OpenGL at the bottom: a receiver that shows the picture upside down is
    served by `syphon:NAME,flip`.
    """

    idle_s: float | None = 0.02

    def __init__(self, plan: OutputPlan) -> None:
        """Raise SinkError where there is no Metal, or no server can be made."""
        name, self._flipped = read_name(plan.name)
        try:
            with objc.autorelease_pool():
                self._server = syphon.SyphonMetalServer(name)
                self._texture = create_mtl_texture(self._server.device, plan.width, plan.height)
                self._directory = syphon.SyphonServerDirectory()
        except RuntimeError as error:
            raise SinkError(f"{plan.label}: {error}; it needs a Mac with Metal") from None
        self._directory.run_loop_interval = LOOK_S
        self._pixels = np.full((plan.height, plan.width, 4), OPAQUE, np.uint8)

    def send(self, picture: np.ndarray, at_s: float) -> None:
        self._pixels[..., :3] = picture
        with objc.autorelease_pool():
            copy_image_to_mtl_texture(self._pixels, self._texture)
            self._server.publish_frame_texture(self._texture, is_flipped=self._flipped)
        self.idle()

    def idle(self) -> None:
        """Answer programs that ask which servers there are."""
        with objc.autorelease_pool():
            self._directory.update_run_loop()

    def close(self) -> None:
        self._server.stop()
        self._directory.close()
