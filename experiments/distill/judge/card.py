"""Write the model cards of both demo checkpoints from the result files.

No score in them is typed by hand.
`python -m sdxs.experiments card` reads `docs/results/demo-*.json` and `sketch*.json`,
writes the `README.md` of `weights/demo` and `weights/demo-sketch`, and brings their `SHA256SUMS`
up to date.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ....common.checkpoint.find import PACKAGE_FOLDER
from ...options import Options
from ..export import write_sums

RESULTS = PACKAGE_FOLDER / "docs" / "results"
DEMO = PACKAGE_FOLDER / "weights" / "demo"
SKETCH = PACKAGE_FOLDER / "weights" / "demo-sketch"
Values = dict[str, object]

_HEAD = """\
# The demo checkpoint

A one-step diffusion model in the architecture of SDXS at small size, in the diffusers layout: UNet
[80, 112, 128], AutoencoderTiny of 24 channels with 16 latent channels, CLIP text model 2 x 64. {megabytes:.1f} MB,
float16. It renders a photograph in ten styles at 256 x 256 and stands in, offline, for the real SDXS-512. MIT,
like the code. It knows ten styles and nothing else.

## Data

{train} photographs from freely licensed packages (GCompris, OpenCV's and scikit-image's samples, desktop wallpapers,
KPhotoAlbum, libjxl and others); licences are mixed, none of the pictures is in this repository. {held_out} more
photographs were held out, by scene: pictures whose names or thumbnails say that they show one scene stay together.
Among the held-out ones are all three pictures in `docs/demo` (astronaut, cat, coffee). Squares were cut at random,
mirrored, and changed in light and colour; one in ten is a drawn picture. What is to be learned are ten OpenCV
renderings of each square (`experiments/distill/material/teachers.py`).

The vocabulary is the first 8,192 entries of CLIP's, from the MIT-licensed open_clip.

## Recipe

`python -m sdxs.experiments.distill PHOTOS OUT` in five stages: (1) VAE, its latents anchored to the principal
components of 8 x 8 patches for the first half; (2) text encoder, prompt to style; (3) UNet on latents, epsilon at
t = 500, no noise, text and VAE frozen; (4) UNet and VAE through the decoder: absolute and squared error,
gradients, structural similarity, and a penalty wherever a noisy or shifted input changes the output more
than it changed itself; (5) the UNet alone in the same way, two pictures in three on the way from one prompt to
another (slerp, as in a live session), where the cross-fade of the two teachers' pictures is wanted.

This checkpoint took two runs on one GPU and one on two CPU cores (`docs/results/demo-training.json`). In the first
the clock left the text encoder a single step; the second trained it, then went on with UNet and VAE; the third was
stage 5.
"""

_LIMITS = """\
## Limits

- It renders ten styles. Any other prompt comes out as one of them or as a mixture (table above); a prompt cannot
  add or remove things.
- The teachers are filters: this is style, not imagination. SDXS-512 itself is the real model.
- Woodblock is the style with the least of its teacher in it: areas stay more photographic than the teacher's flat inks.
- Trained at 256 x 256. Other sizes work (multiples of 32), with strokes of the same size in pixels.
- Styles that raise contrast (neon, pencil, pop art) also raise the motion of a moving scene; the figures are above.
- A few hundred photographs, many of them of animals and landmarks: rooms and faces are few.
"""

_SKETCH_HEAD = """\
# The sketch checkpoint

SDXS' way of working, at demo size: a UNet [64, 80, 112] for its one timestep, 999, where the camera enters at 6.8 % under
noise, and the ControlNet that holds it to the camera's edges (`controlnet/`, `--control sketch`). VAE, text encoder and
tokenizer are those of the demo. {megabytes:.1f} MB, float16, diffusers layout, 256 x 256. MIT, like the code.

## Data

Squares of the photographs that the demo was trained on, with the same {held_out} held out. What is to be learned are the ten
OpenCV renderings, softened, with the picture's own Canny edges inked over them: which side of an edge is the brighter
one cannot be known from edges, and a network that has to guess draws none. Two styles (neon, dark fantasy) have bright ink,
the others dark.

## Recipe

`python -m sdxs.experiments.distill.sketch PHOTOS OUT`. The UNet starts with noise passing through it
unchanged (pairs of channels with opposite signs, which SiLU leaves straight), the ControlNet as its copy, adding nothing.
Both train together on windows of 128 x 128, on Canny and soft edges; one picture in six comes without control. First the
distance to the latents is minimised, then, added to it, the distance of what the frozen decoder makes of them.
"""

_SKETCH_LIMITS = """\
## Limits

- The two styles with bright ink glow where they should draw: their F-scores stay under 0.6, as do those of soft edges in
  pictures full of texture. With `--edges canny` lines are sharpest.
- In float16 a picture is 46 dB from float32's, in bfloat16 28 dB (`docs/results/half-precision.json`): noise passes through
  the network at 14.6 times what it is in the result. Do not use bfloat16.
- Colours come from the prompt alone: the camera's are lost under the noise, as they are with SDXS itself.
- It draws lines. Where the edges say nothing there is nothing but the style's colour.
- A demonstration that structure survives, trained on a CPU: not a painter.
"""


def _read(name: str) -> Values:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def runs_table(training: Values) -> str:
    rows = ["| run | stage | steps | seconds |", "|---|---|---|---|"]
    for run in training["runs"]:
        for line in run["log"]:
            if line.get("finished") and line["step"]:
                rows.append(
                    f"| {run['run']} | {line['stage']} | {line['step']} | {line['seconds']:.0f} |"
                )
    for run in training["runs"]:
        rows += [
            "",
            f"Run {run['run']}, {run['device']}, commit {run['commit']}, sha256 of the code "
            f"`{run['code sha256']}`:",
            f"`{run['command']}`",
        ]
    return "\n".join(rows)


def sketch_runs_table(training: Values) -> str:
    """One run that was stopped and taken up again with changes."""
    rows = [
        "| until step | seconds of training | trained with | commit, sha256 of the code |",
        "|---|---|---|---|",
    ]
    for run in training["runs"]:
        last = run["log"][-1]
        code = f"{run['commit']}, `{run['code sha256'][:16]}`"
        rows.append(f"| {last['step']} | {last['seconds']:.0f} | {run['with']} | {code} |")
    return "\n".join([f"{training['device']}: `{training['command']}`", "", *rows])


def quality_table(quality: Values) -> str:
    rows = [
        "| style | PSNR / SSIM to the teacher | the photograph itself | VAE alone (ceiling) |",
        "|---|---|---|---|",
    ]
    for name, v in [*quality["styles"].items(), ("**mean**", quality["mean"])]:
        cells = [
            f"{v[f'{who} psnr']:.1f} / {v[f'{who} ssim']:.2f}"
            for who in ("ours", "identity", "vae ceiling")
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def prompts_table(prompts: Values) -> str:
    rows = [
        "| wording | renderings | nearest to the right teacher | prompts shuffled |",
        "|---|---|---|---|",
    ]
    for kind in ("canonical", "held-out templates", "held-out phrases"):
        v = prompts[kind]
        rows.append(
            f"| {kind} | {v['renderings']} | {v['accuracy']:.1%} | "
            f"{v['accuracy with shuffled prompts']:.1%} |"
        )
    rows += [
        "",
        "Prompts that no training touched, and what comes out:",
        "",
        "| prompt | nearest style (of the pictures tried) | PSNR to that teacher |",
        "|---|---|---|",
    ]
    for text, v in prompts["never trained"].items():
        styles = ", ".join(f"{name} {count}" for name, count in v["renders as"].items())
        rows.append(f"| {text or '(empty)'} | {styles} | {v['psnr to that teacher']:.1f} |")
    return "\n".join(rows)


def steadiness_table(steadiness: Values) -> str:
    rows = [
        "| clip | output over input, mean of ten styles | worst style | the teachers |",
        "|---|---|---|---|",
    ]
    for name in ("tripod", "hand", "pan"):
        v = steadiness[name]
        worst = max(v["styles"], key=lambda style: v["styles"][style]["output over input"])
        rows.append(
            f"| {name}: {v['what']} | {v['mean output over input']:.2f} | {v['worst']:.2f} "
            f"({worst}) "
            f"| {v['mean teacher over input']:.2f} |"
        )
    return "\n".join(rows)


def smoothness_line(prompts: Values) -> str:
    """How even the ways between styles are."""
    path = prompts["path"]
    shares = [way["largest_step_share"] for way in path["ways"] if way["way"] == "slerp"]
    return (
        f"Between two prompts (`docs/results/prompts.json`): of {path['steps']} even steps along a "
        "slerp the largest makes "
        f"{max(shares):.1%} of the whole change in the worst of {len(shares)} pairs of styles, "
        f"{sum(shares) / len(shares):.1%} on average; all alike they would make "
        f"{1 / path['steps']:.1%}.\n"
    )


def speed_line(report: Values) -> str:
    """Frame times beside diffusers in PyTorch, same weights, alternating rounds."""
    mlx, torch = (backend["summary"]["median"] for backend in report["backends"])
    ratio = report["ratios"][0]["ratio"]
    size = report["work"]["size"]
    return (
        f"Speed (`docs/results/bench-demo.json`), MLX float32 on {report['machine']['cores']} CPU "
        "cores, two frames in flight: "
        f"{mlx:.0f} ms a frame at {size} x {size}, PyTorch {torch:.0f} ms; {ratio['value']:.2f} "
        "times as long "
        f"(interval {ratio['low']:.2f} to {ratio['high']:.2f}).\n"
    )


def structure_table(scores: Values) -> str:
    means, worst = scores["mean F-score"], scores["worst picture, mean of prompts"]
    rows = ["| what was rendered | F-score of its edges, mean | worst picture |", "|---|---|---|"]
    rows += [f"| {what} | {means[what]:.2f} | {worst[what]:.2f} |" for what in means]
    kinds = [what for what in means if what.startswith("control") and "another" not in what]
    rows += ["", f"| prompt | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for prompt, found in scores["by prompt"].items():
        rows.append(f"| {prompt} | {' | '.join(f'{found[kind]:.2f}' for kind in kinds)} |")
    return "\n".join(rows)


def write_sketch_card(folder: Path) -> None:
    scores = _read("sketch")
    head = _SKETCH_HEAD.format(
        megabytes=_megabytes(folder), held_out=scores["held-out photographs"]
    )
    right = scores["nearest teacher right"]
    parts = [
        head,
        sketch_runs_table(_read("sketch-training")),
        "\n## Scores\n",
        f"On the {scores['held-out photographs']} held-out photographs under the ten prompts "
        "(`docs/results/sketch.json`): "
        "edges by Canny of what came out against those of what went in, two pixels of tolerance:\n",
        structure_table(scores),
        "",
        f"The prompt's own inked teacher is the nearest of ten for {right['canny']:.0%} of the "
        "renderings with Canny edges, "
        f"{right['soft']:.0%} with soft ones, {right['plain']:.0%} without control.\n",
        _SKETCH_LIMITS,
    ]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
    write_sums(folder)


def _megabytes(folder: Path) -> float:
    return (
        sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "README.md")
        / 1e6
    )


def write_card(folder: Path) -> None:
    quality = _read("demo-quality")
    head = _HEAD.format(
        megabytes=_megabytes(folder),
        train=quality["photographs trained on"],
        held_out=quality["held-out photographs"],
    )
    parts = [
        head,
        runs_table(_read("demo-training")),
        "\n## Scores\n",
        f"On the {quality['held-out photographs']} held-out photographs at {quality['size']} x "
        f"{quality['size']}, MLX float32 "
        "(`docs/results/demo-quality.json`, `demo-prompts.json`, `demo-steadiness.json`):\n",
        quality_table(quality),
        "",
        prompts_table(_read("demo-prompts")),
        "",
        "Flicker where the input stands still, as `common/picture/temporal.py` measures it; at most 1 is "
        "as steady as the camera:\n",
        steadiness_table(_read("demo-steadiness")),
        "",
        smoothness_line(_read("prompts")),
        speed_line(_read("bench-demo")),
        _LIMITS,
    ]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
    write_sums(folder)


@dataclass(frozen=True, slots=True)
class CardOptions(Options):
    """None: the cards follow from the result files."""


def run(options: CardOptions) -> None:
    """Write both cards."""
    write_card(DEMO)
    write_sketch_card(SKETCH)
    print(f"{DEMO / 'README.md'} and {SKETCH / 'README.md'} and their hashes are up to date")
