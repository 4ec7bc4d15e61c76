"""Write the demo's model card from the result files, so that no figure in it was typed by hand.

`python -m sdxs.experiments.distill.card` reads `docs/results/demo-*.json`, writes `weights/demo/README.md` and
brings `SHA256SUMS` up to date.
"""

import json
from pathlib import Path

from ...common.checkpoint import PACKAGE_FOLDER
from .export import write_sums

RESULTS = PACKAGE_FOLDER / "docs" / "results"
DEMO = PACKAGE_FOLDER / "weights" / "demo"
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
renderings of each square (`experiments/distill/teachers.py`).

The vocabulary is the first 8,192 entries of CLIP's, from the MIT-licensed open_clip.

## Recipe

`python -m sdxs.experiments.distill PHOTOS OUT` in four stages: (1) VAE, its latents anchored to the principal
components of 8 x 8 patches for the first half; (2) text encoder, prompt to style; (3) UNet on latents, epsilon at
t = 500, no noise, text and VAE frozen; (4) UNet and VAE through the decoder: absolute and squared error,
gradients, structural similarity, and a penalty wherever a noisy or shifted input changes the output more
than it changed itself.

This checkpoint took two runs on one GPU (`docs/results/demo-training.json`). In the first the clock left the
text encoder a single step; the second trained it, then went on with UNet and VAE.
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


def _read(name: str) -> Values:
    return json.loads((RESULTS / f"demo-{name}.json").read_text(encoding="utf-8"))


def runs_table(training: Values) -> str:
    rows = ["| run | stage | steps | seconds |", "|---|---|---|---|"]
    for run in training["runs"]:
        for line in run["log"]:
            if line.get("finished") and line["step"]:
                rows.append(f"| {run['run']} | {line['stage']} | {line['step']} | {line['seconds']:.0f} |")
    for run in training["runs"]:
        rows += ["", f"Run {run['run']}, {run['device']}, commit {run['commit']}, sha256 of the code `{run['code sha256']}`:",
                 f"`{run['command']}`"]
    return "\n".join(rows)


def quality_table(quality: Values) -> str:
    rows = ["| style | PSNR / SSIM to the teacher | the photograph itself | VAE alone (ceiling) |", "|---|---|---|---|"]
    for name, v in [*quality["styles"].items(), ("**mean**", quality["mean"])]:
        cells = [f"{v[f'{who} psnr']:.1f} / {v[f'{who} ssim']:.2f}" for who in ("ours", "identity", "vae ceiling")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def prompts_table(prompts: Values) -> str:
    rows = ["| wording | renderings | nearest to the right teacher | prompts shuffled |", "|---|---|---|---|"]
    for kind in ("canonical", "held-out templates", "held-out phrases"):
        v = prompts[kind]
        rows.append(f"| {kind} | {v['renderings']} | {v['accuracy']:.1%} | {v['accuracy with shuffled prompts']:.1%} |")
    rows += ["", "Prompts that no training touched, and what comes out:", "",
             "| prompt | nearest style (of the pictures tried) | PSNR to that teacher |", "|---|---|---|"]
    for text, v in prompts["never trained"].items():
        styles = ", ".join(f"{name} {count}" for name, count in v["renders as"].items())
        rows.append(f"| {text or '(empty)'} | {styles} | {v['psnr to that teacher']:.1f} |")
    return "\n".join(rows)


def steadiness_table(steadiness: Values) -> str:
    rows = ["| clip | output over input, mean of ten styles | worst style | the teachers |", "|---|---|---|---|"]
    for name in ("tripod", "hand", "pan"):
        v = steadiness[name]
        worst = max(v["styles"], key=lambda style: v["styles"][style]["output over input"])
        rows.append(f"| {name}: {v['what']} | {v['mean output over input']:.2f} | {v['worst']:.2f} ({worst}) "
                    f"| {v['mean teacher over input']:.2f} |")
    return "\n".join(rows)


def write_card(folder: Path) -> None:
    quality = _read("quality")
    bytes_all = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "README.md")
    head = _HEAD.format(megabytes=bytes_all / 1e6, train=quality["photographs trained on"],
                        held_out=quality["held-out photographs"])
    parts = [
        head, runs_table(_read("training")), "\n## Scores\n",
        f"On the {quality['held-out photographs']} held-out photographs at {quality['size']} x {quality['size']}, MLX float32 "
        "(`docs/results/demo-quality.json`, `demo-prompts.json`, `demo-steadiness.json`):\n",
        quality_table(quality), "", prompts_table(_read("prompts")), "",
        "Flicker where the input stands still, as `common/temporal.py` measures it; at most 1 is as steady as the camera:\n",
        steadiness_table(_read("steadiness")), "", _LIMITS,
    ]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
    write_sums(folder)


def main() -> None:
    write_card(DEMO)
    print(f"{DEMO / 'README.md'} and its hashes are up to date")


if __name__ == "__main__":
    main()
