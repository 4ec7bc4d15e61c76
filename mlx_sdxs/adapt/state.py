"""The LoRAs of a loaded backend: which weights its next frame has, and which are on their way."""

from collections.abc import Sequence

import mlx.core as mx

from ...common.adapt.mix import scaled
from ...common.backend.protocol import FrameParams
from ...common.checkpoint.find import Checkpoint
from ..frame import Frame
from .following import Follower
from .lora import LiveLoras


class LoraState:
    """What the backend's thread knows of LoRAs. fused: what the next frame is rendered with."""

    def __init__(self, checkpoint: Checkpoint, frames: Sequence[Frame], dtype: mx.Dtype) -> None:
        """Begin with the checkpoint's own weights. Raises WeightsError."""
        self._loras = LiveLoras(checkpoint, frames, dtype)
        self.fused = self._loras.loaded()
        self._asked = self.fused.weights
        self._follower: Follower | None = None

    @property
    def behind(self) -> bool:
        """Whether other weights were asked for than the next frame has."""
        return self.fused.weights != self._asked

    def ask(self, params: FrameParams) -> bool:
        """Take the weights of parameters: at once, or later on; return whether they are here now.

        Raises WeightsError, UsageError.
        """
        own = self._loras.weights if params.loras is None else params.loras
        weights = scaled(own, params.lora_scale)
        if weights == self._asked and (params.later or not self.behind):
            return False
        self._asked = weights
        if params.later:
            self._follower = self._follower or Follower(self._loras.fuse)
            self._follower.ask(weights)
            return False
        if self._follower:
            self._follower.take()  # what was on its way is of no use any more
        self.fused = self._loras.fuse(weights)
        return True

    def take(self) -> bool:
        """Take weights that have become ready; return whether there were some.

        Those on the way to the ones asked for are taken, too: a glide is seen as it goes.
        """
        ready = self._follower.take() if self._follower and self.behind else None
        if ready is None:
            return False
        self.fused = ready
        return True

    def close(self) -> None:
        """End the thread."""
        if self._follower:
            self._follower.close()
            self._follower = None
