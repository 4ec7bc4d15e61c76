"""Syphon, by syphon-python: what another program of this Mac shows; the side of the child.

Never seen on a Mac; the tests ask a fake that holds to the documented rules.
"""

import time

import numpy as np
import objc
import syphon
from syphon.utils.numpy import copy_mtl_texture_to_image

from ...errors import SourceError, SourceLost
from ...patience import Patience
from .match import named
from .syphon_name import read_name

FIND_S, LOOK_S = 10.0, 0.005


class SyphonInlet:
    """Receives Metal textures, which Syphon hands out as BGRA, row 0 on top."""

    def __init__(self, spec: str, text: str) -> None:
        """Find the server within ten seconds. Raises SourceError."""
        name, self._flipped = read_name(text)
        self._directory = syphon.SyphonServerDirectory()
        self._directory.run_loop_interval = LOOK_S
        description = self._found(spec, name)
        self.name = f"syphon:{_called(description)}"
        try:
            self._client = syphon.SyphonMetalClient(description)
        except RuntimeError as error:
            raise SourceError(f"--source {spec}: {error}; it needs a Mac with Metal") from None

    def receive(self, wait_s: float) -> np.ndarray | None:
        patience = Patience(wait_s)
        while True:
            with objc.autorelease_pool():
                self._directory.update_run_loop()  # a server's end is heard of here
                if not self._client.is_valid:
                    raise SourceLost(f"{self.name}: its program has ended; start the session again")
                texture = self._client.new_frame_image if self._client.has_new_frame else None
                if texture is not None:
                    picture: np.ndarray = copy_mtl_texture_to_image(texture)[..., :3]
                    return picture[::-1] if self._flipped else picture
            if not patience.left_s():
                return None
            time.sleep(LOOK_S)

    def close(self) -> None:
        self._client.stop()
        self._directory.close()

    def _found(self, spec: str, name: str) -> "syphon.SyphonServerDescription":
        patience, names = Patience(FIND_S), list[str]()
        while patience.left_s():
            with objc.autorelease_pool():
                servers = self._directory.servers
            names = [_called(each) for each in servers]
            if match := named(names, name):
                return servers[names.index(match)]
            time.sleep(LOOK_S)
        heard = f"there are {', '.join(names)}" if names else "none was found in 10 s"
        raise SourceError(
            f"--source {spec}: no Syphon server of that name, or more than one ({heard}); start "
            "it, or name it in full"
        )


def _called(description: "syphon.SyphonServerDescription") -> str:
    """Name a server as programs do: 'Arena (left)'."""
    if description.app_name and description.name:
        return f"{description.app_name} ({description.name})"
    return str(description.app_name or description.name)
