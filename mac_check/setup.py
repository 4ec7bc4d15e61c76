"""One question's model and settings, as its child process receives them; imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.picture.size import FrameSize

if TYPE_CHECKING:
    import numpy as np

    from ..common.checkpoint.find import Checkpoint
    from ..coreml_backend.options import CoreMLOptions

Answer = dict[str, object]
# Ways to call Core ML: options of the backend. A question names one in `values`.
WAYS: Mapping[str, Mapping[str, str]] = {
    "predict here": {"runtime": "coreml"},
    "predict hosted": {"runtime": "coreml"},
    "pyobjc here": {"runtime": "pyobjc", "process": "here"},
}


@dataclass(frozen=True, slots=True)
class Setup:
    """The model of a question, and how to ask.

    folder: of the checkpoint, '' without one. name: of the model in the JSON. scratch: temporary
    folder of the whole check. runtime: 'coreml', or 'reference' in a rehearsal. frames: of a
    timing, at most. size: as `FrameSize.json` has it. chosen: options of the backend as texts.
    values: numbers and texts that only this question reads.
    """

    folder: str
    name: str
    scratch: str
    size: int | str = 512
    runtime: str = "coreml"
    frames: int = 60
    control: str = "none"
    vae: str = "vae"
    chosen: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def frame(self) -> FrameSize:
        """The size of the pictures."""
        return FrameSize.from_json(self.size)

    def checkpoint(self) -> "Checkpoint":
        """Open the checkpoint. Raises SdxsError."""
        from ..common.checkpoint.find import open_checkpoint, with_control

        folder = Path(self.folder)
        return with_control(open_checkpoint(folder, vae_folder=self.vae), self.control)

    def options(self, more: Mapping[str, str] | None = None) -> "CoreMLOptions":
        """Parse the options of the Core ML backend. more: further ones, as texts."""
        from ..common.settings import parse_settings
        from ..coreml_backend.options import CoreMLOptions

        way = WAYS.get(self.text("way"), {}) if self.runtime != "reference" else {}
        texts = {"runtime": self.runtime, **self.chosen, **way, **(more or {})}
        return parse_settings(CoreMLOptions, texts, "coreml", size=self.frame)

    def number(self, name: str, default: float) -> float:
        """Return one of `values` as a number."""
        return float(self.values.get(name, default))

    def text(self, name: str) -> str:
        """Return one of `values` as a text; '' if it is absent."""
        return str(self.values.get(name, ""))

    @property
    def exact_path(self) -> Path:
        """The file of the exact picture that an earlier question saved."""
        return Path(self.scratch) / f"exact-{self.name.replace(' ', '-')}.npy"

    def exact(self) -> "np.ndarray | None":
        """Load the exact picture, uint8 (H, W, 3); None if the question for it failed."""
        import numpy as np

        return np.load(self.exact_path) if self.exact_path.exists() else None
