"""The `sdxs` command: parses, shows, exits. Everything that works is imported inside the commands."""

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .common.errors import SdxsError, SdxsWarning, UsageError, WeightsError

if TYPE_CHECKING:
    import numpy as np

    from .common.backend import Backend, BackendOptions
    from .common.checkpoint import Checkpoint
    from .common.loop import Prompt, Session

BACKENDS = {
    "mlx": "sdxs.mlx_sdxs.backend:MlxBackend",
    "identity": "sdxs.common.backend:IdentityBackend",
}
DEFAULT_PROMPT = "an oil painting"
DEFAULT_HOLD = 48
PLAIN_PROGRESS_S = 2.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Turn a live camera into a diffusion-rendered picture.")
weights_app = typer.Typer(no_args_is_help=True, help="List, pull and verify checkpoints.")
app.add_typer(weights_app, name="weights")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: every sdxs error becomes one line on stderr and its exit code."""
    warnings.simplefilter("always", SdxsWarning)
    warnings.showwarning = _show_warning
    try:
        app()
    except SdxsError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    err.print(f"[yellow]warning:[/] {escape(str(message))}")


def _version(wanted: bool) -> None:
    if wanted:
        out.print(metadata.version("sdxs"))
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def live(
    backend: Annotated[str, typer.Option(help=f"Who renders: {', '.join(BACKENDS)}.")] = "mlx",
    source: Annotated[str, typer.Option(help="Camera number, video, image, or 'synthetic'.")] = "0",
    outs: Annotated[list[Path] | None, typer.Option("--out", help="Video, image or folder to write; repeatable.")] = None,
    model: Annotated[str, typer.Option(help="Checkpoint by name or path; see `sdxs weights list`.")] = "sdxs-512-0.9",
    prompt: Annotated[list[str] | None, typer.Option(help=f"What to paint; repeat to alternate. [default: {DEFAULT_PROMPT}]",
                                                     show_default=False)] = None,
    hold: Annotated[int | None, typer.Option(min=1, help="Frames per prompt when there are several. "
                                             f"[default: one pass of a video, else {DEFAULT_HOLD}]", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise; the same seed gives the same picture.")] = 0,
    size: Annotated[int | None, typer.Option(help="Side of the square picture. [default: the checkpoint's]",
                                             show_default=False)] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Show no window.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    vae: Annotated[str, typer.Option(help="Folder of the VAE in the checkpoint: vae or vae_large.")] = "vae",
    side_by_side: Annotated[bool, typer.Option("--side-by-side/--output-only", help="Show the camera too.")] = False,
    contact_sheet: Annotated[Path | None, typer.Option(help="Write an image with a row for each prompt.")] = None,
) -> None:
    """Render a camera, a video or an image under a prompt, live."""
    if headless and not outs and contact_sheet is None:
        raise UsageError("--headless shows nothing and there is no --out; add --out FILE, or drop --headless")
    make = _backend_class(backend)  # before OpenCV is imported: MLX wants to load its BLAS first
    from .common.backend import BackendOptions, FrameParams
    from .common.checkpoint import find
    from .common.loop import Prompt, run_sequential
    from .common.sink import Window, open_sink
    from .common.source import open_source
    from .common.text_encoder import TextEncoder

    checkpoint = find(model, vae)
    size = size or checkpoint.frame.size
    renderer = make(checkpoint, BackendOptions(size, dtype))
    checkpoint.check_size(size)
    texts = prompt or [DEFAULT_PROMPT]
    endless = frames is not None or len(texts) > 1 or not headless
    with ExitStack() as stack:
        feed = open_source(source, size, repeat=endless)
        stack.callback(feed.close)
        hold = hold or (feed.length if feed.length and feed.length > 1 else DEFAULT_HOLD)
        if frames is None and headless and len(texts) > 1:
            frames = hold * len(texts)
        total = frames or (feed.length if not endless else None)
        sheet = _Sheet(contact_sheet, hold, total) if contact_sheet else None
        sinks = [open_sink(path, feed.fps) for path in outs or []]
        window = None if headless else Window()
        for sink in [*sinks, *([window] if window else [])]:
            stack.callback(sink.close)
        with err.status(f"loading {checkpoint.name}"):
            encoder = TextEncoder(checkpoint)
            prompts = [Prompt(text, encoder.encode(text)) for text in texts]
            renderer.load()
            stack.callback(renderer.close)
            renderer.set_params(FrameParams(seed=seed))
        err.print(_headline(checkpoint, renderer, size, feed.name))
        caught = stack.enter_context(_interrupts())
        report = stack.enter_context(_progress(total))

        def observe(index: int, current: "Prompt", camera: "np.ndarray", picture: "np.ndarray") -> None:
            report(index + 1, current.text)
            if sheet:
                sheet.observe(index, current, camera, picture)

        session = run_sequential(
            feed, renderer, [*sinks, *([window] if window else [])], prompts, size=size, hold=hold, frames=frames,
            side_by_side=side_by_side, stop=lambda: bool(caught) or (window is not None and window.closed), observe=observe,
        )
        if sheet:
            sheet.save()
    _summary(session, [*(outs or []), *([contact_sheet] if contact_sheet else [])])
    if caught:
        raise typer.Exit(128 + caught[0])


def _backend_class(name: str) -> "Callable[[Checkpoint, BackendOptions], Backend]":
    if name == "coreml":
        raise UsageError("--backend coreml: not built yet in this version of sdxs; use --backend mlx")
    if name not in BACKENDS:
        raise UsageError(f"--backend {name}: expected one of {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name].split(":")
    try:
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("sdxs"):
            raise
        raise UsageError(f"--backend {name}: the package {error.name!r} is not installed; `pip install {error.name}`") from None


def _headline(checkpoint: "Checkpoint", renderer: "Backend", size: int, source: str) -> str:
    facts = renderer.describe()
    where = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "backend")
    return escape(f"{facts['backend']}: {checkpoint.name} ({checkpoint.origin}) at {size} x {size}, {where}; source {source}")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying, so that a frame and its files are finished; a second one kills."""
    caught: list[int] = []

    def catch(number: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A moving line on a terminal, a plain line every two seconds anywhere else."""
    began = time.perf_counter()

    def rate(done: int) -> float:
        return done / max(time.perf_counter() - began, 1e-9)

    if err.is_terminal:
        columns = (TextColumn("{task.fields[fps]:5.1f} fps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[prompt]}", markup=False))
        with Progress(*columns, console=err) as progress:
            task = progress.add_task("", total=total, fps=0.0, prompt="")
            yield lambda done, text: progress.update(task, completed=done, fps=rate(done), prompt=text)
        return
    last = [began]

    def plain(done: int, text: str) -> None:
        if done == total or time.perf_counter() - last[0] >= PLAIN_PROGRESS_S:
            last[0] = time.perf_counter()
            err.print(escape(f"frame {done}{f'/{total}' if total else ''}  {rate(done):.1f} fps  {text}"))

    yield plain


def _summary(session: "Session", paths: list[Path]) -> None:
    import numpy as np

    if not session.frames:
        err.print("no frame was rendered, nothing was written")
        return
    median, p95 = np.percentile(session.backend_ms, [50, 95])
    out.print(
        f"{session.frames} frames in {session.seconds:.1f} s, {session.frames / session.seconds:.1f} fps; "
        f"backend {median:.1f} ms median, {p95:.1f} ms p95"
    )
    for path in paths:
        out.print(f"wrote {escape(str(path))}")


class _Sheet:
    """Collects a contact sheet: the camera on top, then the first few frames of each prompt."""

    COLUMNS = 5

    def __init__(self, path: Path, hold: int, total: int | None) -> None:
        from .common.sink import ImageSink

        self._sink = ImageSink(path)
        self._hold = min(hold, total or hold)
        self._picks = {int((i + 0.5) * self._hold / self.COLUMNS) for i in range(self.COLUMNS)}
        self._rows: dict[str, list[np.ndarray]] = {}

    def observe(self, index: int, prompt: "Prompt", camera: "np.ndarray", picture: "np.ndarray") -> None:
        if index % self._hold not in self._picks:
            return
        if index < self._hold:
            self._rows.setdefault("camera", []).append(camera.copy())
        row = self._rows.setdefault(prompt.text, [])
        if len(row) < len(self._picks):
            row.append(picture.copy())

    def save(self) -> None:
        from .common.image import contact_sheet

        if self._rows:
            self._sink.write(contact_sheet(list(self._rows.items())))
            self._sink.close()


@weights_app.command("list")
def weights_list() -> None:
    """Show every known checkpoint, whether it is here, and under which licence."""
    from .common.checkpoint import local_folder
    from .common.registry import ENTRIES

    table = Table(title="checkpoints", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in ("here", "licence", "what"):
        table.add_column(heading)
    for known in ENTRIES.values():
        here = local_folder(known)
        state = here[1] if here else "pickle only" if known.pickle_only else "can be pulled"
        table.add_row(known.name, state, known.licence, known.note)
    out.print(table)
    out.print("pickle only: " + next(k.pickle_only for k in ENTRIES.values() if k.pickle_only))


@weights_app.command("pull")
def weights_pull(
    model: Annotated[str, typer.Argument(help="Name of a checkpoint.")],
    vae: Annotated[str, typer.Option(help="Folder of the VAE: vae or vae_large.")] = "vae",
) -> None:
    """Download a checkpoint, verified, resuming where an earlier pull stopped."""
    from .common.checkpoint import local_folder, open_checkpoint, weights_folder
    from .common.hub import pull
    from .common.registry import entry

    known = entry(model)
    here = local_folder(known, vae)
    if here:
        out.print(f"{model} is already here: {escape(str(here[0]))}")
        return
    out.print(escape(f"{model}: licence {known.licence}"))
    folder = pull(known, weights_folder(), vae)
    open_checkpoint(folder, model, vae_folder=vae).verify()
    out.print(f"{model} is complete and verified: {escape(str(folder))}")


@weights_app.command("verify")
def weights_verify(
    models: Annotated[list[str] | None, typer.Argument(help="Names or paths; all that are here if none is given.")] = None,
) -> None:
    """Check every tensor's name, shape and dtype, and every recorded sha256, of checkpoints on this machine."""
    from .common.checkpoint import find, local_folder, weights_folder
    from .common.manifest import verify_hashes
    from .common.registry import ENTRIES

    names = models or [known.name for known in ENTRIES.values() if local_folder(known)]
    damaged = 0
    for name in names:
        try:
            with err.status(f"verifying {name}"):
                checkpoint = find(name, download=False)
                checkpoint.verify()
                hashes = verify_hashes(checkpoint.folder, weights_folder() / "manifest.json", rehash=True)
        except UsageError:
            raise
        except SdxsError as error:
            damaged += 1
            out.print(f"[red]damaged[/]  {escape(name)}: {escape(str(error))}")
            continue
        known = f"{hashes} files match their sha256" if hashes else "no hashes are recorded for it"
        out.print(f"[green]good[/]  {escape(name)}: tensors fit the configs, {known}")
    if damaged:
        raise WeightsError(f"{damaged} of {len(names)} checkpoints are damaged")


@weights_app.command("path")
def weights_path(model: Annotated[str, typer.Argument(help="Name of a checkpoint.")]) -> None:
    """Print the folder of a checkpoint on this machine."""
    from .common.checkpoint import find

    out.print(escape(str(find(model, download=False).folder)))


if __name__ == "__main__":
    main()
