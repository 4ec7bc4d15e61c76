"""A syphon-python that holds to the documented rules of 0.2, without a Mac.

Servers are heard of only in a run loop that runs; a texture belongs to its device; a server stops
once and publishes nothing afterwards; a frame is fetched once; receivers get BGRA, flipped frames
upside down; Metal objects are made within a pool.
"""

from dataclasses import dataclass, field

import numpy as np
import objc

RGBA, BGRA = 70, 80  # MTLPixelFormat


@dataclass
class Device:
    name: str = "fake GPU"


@dataclass
class Texture:
    device: Device
    pixels: np.ndarray
    format: int = RGBA

    def width(self) -> int:
        return self.pixels.shape[1]

    def height(self) -> int:
        return self.pixels.shape[0]

    def pixelFormat(self) -> int:
        return self.format


@dataclass
class Native:
    """What the system knows. device: None where there is no Metal."""

    device: Device | None = field(default_factory=Device)
    running: "list[SyphonMetalServer]" = field(default_factory=list)
    announced: "list[SyphonMetalServer]" = field(default_factory=list)
    app_name: str = "sdxs"


native = Native()


@dataclass
class SyphonServerDescription:
    uuid: str
    name: str
    app_name: str
    raw: "SyphonMetalServer"


class SyphonMetalServer:
    def __init__(self, name: str) -> None:
        assert objc.depth, "outside of an autorelease pool"
        if native.device is None:
            raise RuntimeError("No Metal device is available")
        self.device, self.name, self._stopped = native.device, name, False
        self.published: list[np.ndarray] = []
        native.running.append(self)

    def publish_frame_texture(self, texture: Texture, *, is_flipped: bool = False) -> None:
        assert objc.depth, "outside of an autorelease pool"
        assert not self._stopped, "the server is stopped"
        assert texture.device is self.device, "a texture of another device"
        rows = texture.pixels[::-1] if is_flipped else texture.pixels
        self.published.append(rows[..., [2, 1, 0, 3]].copy())  # as receivers get it

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            native.running.remove(self)


class SyphonServerDirectory:
    def __init__(self) -> None:
        self.run_loop_interval = 1.0
        self._closed = False

    def update_run_loop(self) -> None:
        assert not self._closed and objc.depth
        assert self.run_loop_interval < 0.1, "pictures would wait for the run loop"
        native.announced = list(native.running)

    @property
    def servers(self) -> list[SyphonServerDescription]:
        self.update_run_loop()
        return [
            SyphonServerDescription(str(id(each)), each.name, native.app_name, each)
            for each in native.announced
        ]

    def close(self) -> None:
        self._closed = True


class SyphonMetalClient:
    def __init__(self, description: SyphonServerDescription) -> None:
        if native.device is None:
            raise RuntimeError("No Metal device is available")
        self._server, self._seen, self._stopped = description.raw, 0, False

    @property
    def is_valid(self) -> bool:
        return not self._stopped and self._server in native.announced

    @property
    def has_new_frame(self) -> bool:
        return self._seen < len(self._server.published)

    @property
    def new_frame_image(self) -> Texture | None:
        assert objc.depth, "outside of an autorelease pool"
        if not self._server.published:
            return None
        self._seen = len(self._server.published)
        return Texture(self._server.device, self._server.published[-1], BGRA)

    def stop(self) -> None:
        self._stopped = True
