"""Put a session together: source, sinks, window, text encoder and loop."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..backend.protocol import Backend
from ..checkpoint.find import Checkpoint
from ..errors import SdxsError, UsageError
from ..files import Written, check_writable, expanded, refuse_overlaps, without_folders
from ..io.kinds import split_kind
from ..io.outputs.output import Outputs
from ..io.outputs.registry import open_outputs
from ..io.sheet import Sheet
from ..io.sinks.film import VideoFileSink
from ..io.sinks.protocol import StampedSink
from ..io.sinks.registry import is_film, is_window, open_sink, warn_of_silence, written_by
from ..io.sinks.window import Window
from ..io.sources.browser import BrowserCamera
from ..io.sources.image import ImageFile
from ..io.sources.protocol import SoundingSource, Source, TimedSource
from ..io.sources.registry import open_source, source_camera, source_path
from ..picture.record import Recipe
from ..picture.size import FrameSize
from ..prompt.syntax import GALLERY, parse_prompt
from ..prompt.text_encoder import TextEncoder
from .effects import frame_params
from .inputs import InputOptions, make_stage
from .look import Look, View
from .options import LoopOptions, SessionFiles, SessionOptions
from .parameters import LORA_SCALE, OF_CONTROL, LiveParameters, with_prompt
from .parts import Page, SessionParts
from .prompt_list import PromptList
from .record import SessionRecord, SourceFacts
from .session import NO_EDGES, Session
from .threads.loop import Loop
from .threads.prompt import prepared
from .viewer import Viewer

DEFAULT_HOLD = 48
SYNTHETIC = "synthetic"
NO_LORA = "there is no LoRA in this session; start it with --lora FILE"


def open_session(
    options: SessionOptions,
    values: LiveParameters,
    files: SessionFiles,
    size: FrameSize,
    checkpoint: Checkpoint,
    backends: Sequence[Backend],
    prompts: Sequence[str] = (),
    recipe: Recipe | None = None,
    inputs: InputOptions | None = None,
    page: Page | None = None,
    lora_fixed: str = "",
) -> Session:
    """Open the source, every sink and the text encoder; write nothing and load no backend yet.

    size: of the frames. prompts: the list to go through, by default the one prompt of
    `values`; the session begins with its first. recipe: what the records of PNGs say of model and
    backend; without one, PNGs carry none. inputs: what moves the session besides its keys. page:
    shows the session too, as a window does if nothing is written. lora_fixed: why the LoRAs keep
    their weights, or ''. Raises SourceError, SinkError,
    UsageError, ConfigError.
    """
    refuse_one_file_twice(options.reads, files)
    _refuse_show_size(options.show_size, size)
    texts = tuple(prompts) or (values.written_prompt,)
    for text in texts:
        parse_prompt(text)  # the last of them may be met in an hour
    values = with_prompt(values, texts[0])
    windowed = not options.headless or any(is_window(out) for out in files.outs)
    options = replace(options, headless=not (windowed or _is_watched(page, files)))
    one_pass = options.frames is None and options.headless and len(texts) == 1
    source = open_source(options.reads, size, not one_pass, options.background, options.request)
    if isinstance(source, BrowserCamera) and page is None:
        raise UsageError("--source browser: is the camera of a page; add --web PORT")
    outputs = Outputs()
    try:
        options = _decide(options, source, len(texts))
        realtime = bool(options.realtime)
        named = [out for out in files.outs if not is_window(out)]
        codec = options.video_codec or ""
        if codec and not (windowed or page or any(is_film(out) for out in named)):
            raise UsageError(
                f"--video-codec {codec}: no film is written; add --out FILM, or drop it"
            )
        sinks = [open_sink(out, source.fps, realtime, codec) for out in named]
        by_source = not realtime and isinstance(source, TimedSource)
        for sink in sinks:
            if by_source and isinstance(sink, VideoFileSink):
                sink.place_by_time(source.heard if isinstance(source, SoundingSource) else None)
        if isinstance(source, SoundingSource):
            warn_of_silence(source, named, by_source)
        sheet_hold = options.hold or options.frames or source.length or DEFAULT_HOLD
        sheet = Sheet(files.contact_sheet, sheet_hold) if files.contact_sheet else None
        if files.stats:
            check_writable(files.stats, files.stats.absolute().parent)
        encoder = TextEncoder(checkpoint)
        if encoder.adapters:
            encoder.adapters.fixed = lora_fixed
        encoded = [
            prepared(text, encoder.encode, encoder.adapters, values.lora_scale)
            for text in (texts if options.hold else texts[:1])
        ]
        window = Window() if windowed and not (page and page.replaces_window) else None
        unusable = _unusable(options, checkpoint, lora_fixed)
        shows = windowed or page or files.outs or files.contact_sheet
        outputs = open_outputs(files.to, source.fps, alone=not shows)
        staged = make_stage(
            inputs or InputOptions(),
            values,
            unusable,
            realtime,
            isinstance(source, TimedSource) and source.paced,
            bool(options.hold),
            encoder.encode,
        )
    except SdxsError:
        outputs.close()
        source.close()
        raise
    loop = Loop(
        source,
        backends,
        replace(_loop_options(options, values, size, checkpoint), plan=staged.plan),
        encoded,
        frame_params(values, unusable),
        encoder.encode,
        encoder.adapters,
    )
    loop.pause(values.pause)
    record = None
    if recipe:
        facts = _facts_of(options.reads, source)
        enlarged = str(options.show_size) if options.show_size not in (None, size) else ""
        record = SessionRecord(recipe, facts, lambda: loop.stats.backends, enlarged)
        if window or page or any(isinstance(sink, StampedSink) for sink in sinks):
            record.prepare()
    beside = options.side_by_side or len(backends) > 1
    look = Look(View.SIDE_BY_SIDE if beside else View.OUTPUT, options.overlay)
    # In a window the keys lead through the user's prompts and on through the gallery.
    reachable = tuple(dict.fromkeys((*texts, *(GALLERY if windowed or page else ()))))
    parts = SessionParts(
        source,
        loop,
        Viewer(
            size,
            look,
            loop.stats,
            sinks,
            window,
            values,
            by_source,
            record,
            codec,
            options.show_size,
            "stretch" if options.fit == "stretch" else "pad",  # which takes the distortion back
            keeps=page is not None,
            outputs=outputs,
        ),
        PromptList(reachable),
        files,
        encoder.encode,
        unusable | staged.unusable,
        window,
        sheet,
        source.length if options.frames is None and options.headless else options.frames,
        follows=bool(options.hold),
        inputs=staged.inputs,
        stage=staged.stage,
        page=page,
    )
    return Session(parts, values)


def _is_watched(page: Page | None, files: SessionFiles) -> bool:
    """Whether a page or an output is what the session is for; beside files it looks on."""
    return bool(page or files.to) and not (files.outs or files.contact_sheet)


def _facts_of(spec: str, source: Source) -> SourceFacts:
    """Name an opened source as records do: without folders, and a stream without its address."""
    path, named = source_path(spec), split_kind(spec)
    if named:
        kind = named[0]
    elif spec == SYNTHETIC or source_camera(spec) is not None:
        kind = SYNTHETIC if spec == SYNTHETIC else "camera"
    else:
        kind = "image" if isinstance(source, ImageFile) else "film"
    if path is None or not path.is_file():  # a pipe can be read only once, and not for its hash
        kind, path = "stream" if kind in ("film", "image") else kind, None
    name = str(without_folders(source.name))
    return SourceFacts(kind, kind if "://" in name else name, path)


def _loop_options(
    options: SessionOptions, values: LiveParameters, size: FrameSize, checkpoint: Checkpoint
) -> LoopOptions:
    return LoopOptions(
        size,
        options.frames,
        options.hold or 0,
        bool(options.realtime),
        options.loop == "sequential",
        values.skip,
        transition_s=values.transition,
        edges=values.edges if checkpoint.control else "",
        mirror=values.mirror,
        fit=options.fit,
    )


def _refuse_show_size(show_size: FrameSize | None, size: FrameSize) -> None:
    """Raise UsageError for a show size that would lose what was rendered."""
    if show_size is None:
        return
    if show_size.width % 2 or show_size.height % 2:
        even = FrameSize(*(side + side % 2 for side in (show_size.width, show_size.height)))
        raise UsageError(f"--show-size {show_size}: videos have even sides; the nearest is {even}")
    if show_size.width < size.width or show_size.height < size.height:
        raise UsageError(
            f"--show-size {show_size}: only enlarges, and the frame is {size.words}; give at least "
            f"that, or a smaller --size"
        )


def _unusable(options: SessionOptions, checkpoint: Checkpoint, lora_fixed: str) -> dict[str, str]:
    """Parameters that make no difference in this session, each with the reason."""
    reasons = {} if checkpoint.control else dict.fromkeys(OF_CONTROL, NO_EDGES)
    if lora_fixed or not checkpoint.loras:
        reasons[LORA_SCALE] = lora_fixed or NO_LORA
    if options.loop == "sequential":
        reasons["skip"] = "the sequential loop renders every frame; start it with --loop threaded"
    return reasons


def _decide(options: SessionOptions, source: Source, prompts: int) -> SessionOptions:
    """Fill in open choices: without a window, files are rendered frame by frame, once."""
    realtime, hold, frames = options.realtime, options.hold, options.frames
    if realtime is None:
        realtime = not (options.headless and source.paced)
    if hold is None and options.headless and prompts > 1:
        hold = source.length if source.length and source.length > 1 else DEFAULT_HOLD
    if frames is None and options.headless and hold and source.paced:
        frames = hold * prompts
    return replace(options, realtime=realtime, hold=hold, frames=frames)


def refuse_one_file_twice(
    source: str, files: SessionFiles, reads: Iterable[tuple[str, Path | None]] = ()
) -> None:
    """Raise UsageError if an output is also another one, the source, or a file of `reads`.

    reads: pairs of option and file, see `refuse_overlaps`.
    """
    if sum(is_window(out) for out in files.outs) > 1:
        raise UsageError("--out window: is named twice; there is one window")
    named = (("--contact-sheet", files.contact_sheet), ("--stats", files.stats))
    refuse_overlaps(
        [("--source", source_path(source)), *reads],
        [
            *map(written_by, files.outs),
            *(Written(option, expanded(path)) for option, path in named if path),
        ],
    )
