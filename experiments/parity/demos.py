"""What diffusers makes of the two demo checkpoints: inputs, and the stored outputs of the tests.

Above the line nothing needs torch. `python -m sdxs.experiments make-fixtures` runs what is below.
"""

from dataclasses import replace

import numpy as np
from safetensors.numpy import save_file

from ...common.backend.gate import probe, probe_edges
from ...common.checkpoint.find import Checkpoint, find, with_control
from ...common.prompt.text_encoder import TextEncoder
from ...mac_check.fixtures import FIXTURES, Arrays, Inputs, tiny_inputs
from .control import ControlInputs, draw_control_inputs, oracle_control

DEMO_FIXTURES = FIXTURES / "demos.safetensors"
SEED = 7
_SIDE, _SKETCH_SIDE = 64, 96


def demo_inputs() -> tuple[Checkpoint, Inputs]:
    """One frame of the demo: the gate's probe picture of 64 x 64 pixels."""
    demo = find("demo", download=False)
    return demo, replace(tiny_inputs(demo), frame=probe(demo, _SIDE)[0])


def sketch_inputs() -> tuple[Checkpoint, ControlInputs]:
    """One frame of demo-sketch under control: the probe picture of 96 x 96 pixels and its edges."""
    sketch = with_control(find("demo-sketch", download=False), "sketch")
    picture, _ = probe(sketch, _SKETCH_SIDE)
    inputs = replace(
        draw_control_inputs(sketch, _SKETCH_SIDE, SEED),
        picture=picture,
        edges=probe_edges(picture),
        encoder_hidden_states=TextEncoder(sketch).encode("a pencil sketch"),
    )
    return sketch, inputs


# ---- with torch and diffusers


def oracle_demos(exact: bool = True) -> Arrays:
    """Outputs of diffusers for both: x0, float64 NHWC, and pictures, uint8 (H, W, 3)."""
    from .diffusers import ORACLE

    demo, inputs = demo_inputs()
    found = {f"demo/{k}": v for k, v in ORACLE["frame"](demo, inputs, exact=exact).items()}
    sketch, controlled = sketch_inputs()
    made = oracle_control(sketch, controlled, exact)
    for name in ("controlled", "free"):
        found[f"demo-sketch/x0 {name}"] = made[f"x0 {name}"]
    found["demo-sketch/picture"] = _decoded(sketch, made["x0 controlled"], exact)
    return found


def _decoded(checkpoint: Checkpoint, x0: np.ndarray, exact: bool) -> np.ndarray:
    import torch

    from .torch_networks import dtype_of, open_vae, to_numpy, to_torch

    with torch.no_grad():
        latents = to_torch(x0, dtype_of(exact)) / checkpoint.vae.scaling_factor
        decoded = open_vae(checkpoint, exact).decode(latents).sample.double()
        levels = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return to_numpy(levels)[0]


def write_demo_fixtures() -> None:
    """Write what the tests compare with, computed in float64."""
    kept = {
        name: np.ascontiguousarray(a if a.dtype == np.uint8 else a.astype(np.float32))
        for name, a in oracle_demos().items()
        if " by " not in name
    }
    save_file(kept, DEMO_FIXTURES)
