"""A loaded model that is called like a function: frame and prompt in, picture out."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..common.backend.assembly import (
    DEFAULT_MODEL,
    ModelOptions,
    make_backend,
    open_checkpoint_for,
    options_for,
    prepare,
)
from ..common.backend.programs import Progress
from ..common.backend.protocol import Backend, FrameParams
from ..common.backend.spec import default_backend, lora_fixed, spec_of, specs
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError, in_a_line
from ..common.limits import shortages
from ..common.live.parameters import TABLE
from ..common.live.threads.prompt import prepared
from ..common.picture.edges import Edges
from ..common.picture.size import FrameSize
from ..common.prompt.text_encoder import TextEncoder


def backends() -> tuple[str, ...]:
    """Names of the installed backends; the first is the default."""
    return tuple(specs())


class Model:
    """A checkpoint on a backend, called like a function.

    Use it from the thread that opened it, and close it, or use it in `with`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        size: FrameSize,
        encoder: TextEncoder,
        edges: Edges | None,
    ) -> None:
        """What `open_model` puts together; the backend is loaded."""
        self.checkpoint = checkpoint
        self.backend = backend
        self.frame_size = size
        self._encoder = encoder
        self._edges = edges
        self._drawn = np.empty(size.shape, np.uint8)
        self._prompt: tuple[str, float] | None = None
        self._params: FrameParams | None = None
        self._closed = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame: (H, W)."""
        return self.frame_size.shape

    @property
    def size(self) -> int:
        """Side of a square frame in pixels. Raises UsageError for other frames: use `shape`."""
        if not self.frame_size.square:
            raise UsageError(
                f"model.size: frames are {self.frame_size.words}, not square; use model.shape, "
                f"which is {self.shape}"
            )
        return self.frame_size.width

    @shortages()
    def __call__(
        self,
        frame: np.ndarray | None,
        prompt: str,
        seed: int = 0,
        feedback: float = 0.0,
        control_scale: float | None = None,
        lora_scale: float = 1.0,
    ) -> np.ndarray:
        """Render one frame; return a new uint8 (H, W, 3) RGB picture.

        frame: uint8 (H, W, 3) RGB, or None for a picture from the prompt alone. prompt:
        plain text, a blend or a place in a bank, see `sdxs.common.prompt.syntax`. feedback: share
        of the last picture's latents. control_scale: by default 1 where the model was opened with
        a control. Raises SdxsError.
        """
        if self._closed:
            raise UsageError("the model is closed; open it again with `open_model`")
        lora_scale = float(TABLE["lora_scale"].check(_plain(lora_scale), "lora_scale"))  # type: ignore[arg-type]
        prompt, seed, feedback, control_scale = _parameters(prompt, seed, feedback, control_scale)
        text_only = frame is None
        if text_only and not self.checkpoint.frame.noise_scale:
            raise UsageError(
                f"{self.checkpoint.name} paints over a picture and starts from no noise, so it "
                "cannot paint from a prompt alone; give it a frame"
            )
        if control_scale is None:
            control_scale = 1.0 if self._edges and not text_only else 0.0
        if control_scale and (text_only or not self._edges):
            raise UsageError(
                f"control_scale {control_scale:g}: there are no edges to hold to; give a frame, "
                "and open the model with control"
            )
        given = self._frame(frame)
        if lora_scale != 1 and (why := self._encoder.adapters is None and "no LoRA is loaded"):
            raise UsageError(f"lora_scale {lora_scale:g}: {why}; open the model with lora=[...]")
        asked = prepared(prompt, self._encoder.encode, self._encoder.adapters, lora_scale)
        if (prompt, lora_scale) != self._prompt:
            self.backend.set_conditioning(asked.encoder_hidden_states)
            self._prompt = prompt, lora_scale
        params = FrameParams(seed, feedback, control_scale, text_only, lora_scale, asked.loras)
        if params != self._params:
            self.backend.set_params(params)
            self._params = params
        drawn = self._drawn if control_scale else None
        if self._edges and drawn is not None:
            self._edges.draw(given, drawn)
        self.backend.submit(given, drawn)
        picture = np.empty((*self.shape, 3), np.uint8)
        self.backend.collect(picture)
        return picture

    def _frame(self, frame: np.ndarray | None) -> np.ndarray:
        """Return the frame as backends take it; black without one. Raises UsageError."""
        expected = (*self.shape, 3)
        if frame is None:
            return np.zeros(expected, np.uint8)
        if not isinstance(frame, np.ndarray):
            raise UsageError(
                f"frame is a {type(frame).__name__}; expected a uint8 array of shape {expected}, "
                "RGB, or None"
            )
        if frame.dtype != np.uint8 or frame.shape != expected:
            raise UsageError(
                f"frame is {frame.dtype} {frame.shape}; expected uint8 {expected}, RGB"
            )
        return np.ascontiguousarray(frame)

    def describe(self) -> dict[str, str]:
        """Backend, device and dtype, as a result should be reported with."""
        return self.backend.describe().as_dict()

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        self._closed = True
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy as Python's, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _parameters(
    prompt: object, seed: object, feedback: object, control_scale: object
) -> tuple[str, int, float, float | None]:
    """Check what a call is given; scalars of NumPy are numbers, too. Raises UsageError."""
    checked: list[Any] = []
    given = {"prompt": prompt, "seed": seed, "feedback": feedback, "control_scale": control_scale}
    for name, value in given.items():
        plain = _plain(value)
        absent = name == "control_scale" and plain is None
        checked.append(None if absent else TABLE[name].check(plain, name))
    return checked[0], checked[1], checked[2], checked[3]


def _check_settings(settings: object, report: object, still: object) -> None:
    """Raise UsageError for arguments of `open_model` that no option declares."""
    if settings is not None and not (
        isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)
    ):
        raise UsageError(
            f"settings {in_a_line(settings)}: expected names and values, as "
            "{'runtime': 'reference'}"
        )
    if not callable(report):
        raise UsageError(f"report {in_a_line(report)}: expected a function of a text and a share")
    if not isinstance(still, bool):
        raise UsageError(f"still {in_a_line(still)}: expected True or False")


@shortages()
def open_model(
    model: str = DEFAULT_MODEL,
    backend: str = "",
    size: int | str | FrameSize | None = None,
    dtype: str = "auto",
    vae: str = "vae",
    strength: float | None = None,
    steps: int | None = None,
    control: str = "none",
    edges: str = "soft",
    settings: Mapping[str, object] | None = None,
    still: bool = False,
    report: Progress = lambda step, done: None,
    lora: Sequence[str] = (),
    lora_partial: bool = False,
) -> Model:
    """Find a checkpoint, load it on a backend and warm it up.

    model: a name from `sdxs weights list`, or the path of a folder. backend: one of `backends()`,
    by default the first. size: side of square frames in pixels, or
    width x height as '640x384'; by default the checkpoint's. dtype:
    'auto', 'float32', 'float16' or 'bfloat16'. strength, steps: for checkpoints that admit them.
    control: 'none', 'sketch' or a folder. edges: 'soft' or 'canny'. settings: fields of the
    backend's options dataclass, as {'runtime': 'reference'} for 'coreml'. still: every frame is a
    picture of its own, so edges remember nothing. report: told what is being built, and the share
    that is done. lora: LoRA files, as 'ink.safetensors:0.8', or folders of them for prompts.
    lora_partial: take those of which less than 90 % fits. Raises SdxsError, with what to do.
    """
    _check_settings(settings, report, still)
    for option, value in (("--backend", backend), ("--dtype", dtype)):
        if not isinstance(value, str):
            raise UsageError(f"{option} {in_a_line(value)}: expected a text; see api.open_model")
    spec = spec_of(backend or default_backend())
    if dtype != "auto" and not spec.obeys("dtype"):
        raise UsageError(
            f"--dtype {in_a_line(dtype)}: {spec.name} has no choice of precision; leave dtype "
            "'auto', or name another backend"
        )
    TABLE["edges"].check(edges)
    sized = None if size is None else FrameSize.from_json(_plain(size))
    if isinstance(lora, str) or not all(isinstance(each, str) for each in lora):
        raise UsageError(
            f"lora {in_a_line(lora)}: expected a list of texts, as ['ink.safetensors:0.8']"
        )
    chosen = ModelOptions(
        model, vae, sized, _plain(strength), _plain(steps), control, tuple(lora), lora_partial
    )
    checkpoint = open_checkpoint_for(chosen)
    frame = chosen.size_of(checkpoint)
    options = options_for(spec, frame, {"dtype": dtype}, settings)
    prepare(spec, checkpoint, options, report)
    renderer = make_backend(spec, checkpoint, options)
    encoder = TextEncoder(checkpoint)
    if encoder.adapters:
        encoder.adapters.fixed = lora_fixed([spec])
    try:
        renderer.load()
    except BaseException:
        renderer.close()
        raise
    drawing = Edges(edges, frame, hysteresis=not still) if checkpoint.control else None
    return Model(checkpoint, renderer, frame, encoder, drawing)
