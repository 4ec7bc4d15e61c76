"""The public description of a backend: its `BackendSpec`, found by entry point.

A package adds a backend with an entry point of the group `sdxs.backends` that names a BackendSpec:

    [project.entry-points."sdxs.backends"]
    mlx = "sdxs.mlx_sdxs:SPEC"

No other file needs an edit: the command line, `bench`, `doctor` and the API read the specs. The
group `sdxs.peers` holds peers that only `bench` runs (PyTorch). A spec holds plain values and
places (`module:name`); its import loads neither the framework nor OpenCV.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec

from ..adapt.loras import fixed_reason
from ..errors import BackendError, UsageError
from ..settings import settings_of
from .compile_cache import CompileCache, unknown
from .options import BackendOptions

GROUP, PEERS = "sdxs.backends", "sdxs.peers"
PACKAGES = ("sdxs", "numpy", "opencv-python", "opencv-python-headless", "safetensors")


def _never(_: BackendOptions) -> bool:
    return False


def _always() -> bool:
    return True


def _anything(_: BackendOptions) -> None:
    return None


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """Describe one backend. A place is 'module:name' or ''.

    location: place of its class, called as `Class(checkpoint, options)`.
    title: its name in a sentence.
    options: its options dataclass.
    rank: sort key, highest first; the first backend is the default.
    parameters: live parameters and session options that the backend uses.
    package: the PyPI package that it requires.
    needs, extra: modules that it imports and not everybody has, and the extra of sdxs with them.
    hosted: whether it runs in a child process by default.
    instrument: place of its `bench.measure.instrument.Instrument`.
    counts: package that its instrument needs to count a frame's operations; '' if it cannot.
    versions, environment: further packages, and prefixes of variables, that affect its speed.
    published: variables whose values `bench --submit` may show to others.
    doctor: place of a function that returns its `doctor.Check`s.
    programs: place of its `programs.Programs`, built before the backend loads.
    reference: backend that its programs, and in `bench` its pictures, are checked against.
    exact, exact_environment: its options' values, by field, and the variables of its process with
    which its own pictures are exact, for a backend that others are checked against.
    building: its options' values, by field, with which `convert` builds on this machine.
    runs_here: whether `bench` measures it by default on this machine.
    check_timed: raises UsageError for options that make timings meaningless.
    compile_cache: where its framework keeps what it compiles on this machine.
    """

    name: str
    location: str
    title: str = ""
    options: type[BackendOptions] = BackendOptions
    rank: int = 0
    parameters: frozenset[str] = frozenset()
    package: str = ""
    needs: tuple[str, ...] = ()
    extra: str = ""
    hosted: Callable[[BackendOptions], bool] = _never
    instrument: str = ""
    counts: str = ""
    versions: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    doctor: str = ""
    programs: str = ""
    reference: str = ""
    exact: Callable[[], Mapping[str, object]] = dict
    exact_environment: tuple[tuple[str, str], ...] = ()
    building: Callable[[], Mapping[str, object]] = dict
    runs_here: Callable[[], bool] = _always
    check_timed: Callable[[BackendOptions], None] = _anything
    compile_cache: Callable[[], CompileCache] = unknown

    def obeys(self, name: str) -> bool:
        """Tell whether the backend uses a live parameter or option.

        name: the parameter name in the command's function; see `Setting.parameter`.
        """
        own = {each.parameter for each in settings_of(self.options)}
        return name in self.parameters or name in own


def lora_fixed(chosen: Iterable[BackendSpec]) -> str:
    """Return why the LoRAs of backends keep their weights, or '' if they can change."""
    fixed = [spec for spec in chosen if not spec.obeys("lora_scale")]
    return fixed_reason(fixed[0].name) if fixed else ""


@cache
def specs(group: str = GROUP) -> dict[str, BackendSpec]:
    """Return the installed backends by name, highest rank first.

    Raises BackendError if none is installed or one cannot be imported.
    """
    found = [_load(entry) for entry in metadata.entry_points(group=group)]
    if not found and group == GROUP:
        raise BackendError("no backend is installed; install sdxs again: pip install -e .")
    return {spec.name: spec for spec in sorted(found, key=lambda spec: (-spec.rank, spec.name))}


def versions_of(chosen: Iterable[BackendSpec]) -> dict[str, str]:
    """Return the installed versions of the packages that pictures of backends depend on."""
    found = {}
    of_backends = [name for spec in chosen for name in (spec.package, *spec.versions) if name]
    for name in dict.fromkeys((*PACKAGES, *of_backends)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def default_backend() -> str:
    """Return the name of the default backend: the installed one with the highest rank."""
    return next(iter(specs()))


def spec_of(name: str, option: str = "--backend", peers: bool = False) -> BackendSpec:
    """Look up a backend by name. peers: include the peers of `bench`. Raises UsageError."""
    known = specs() | (specs(PEERS) if peers else {})
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"{option} {name}: {hint}expected one of {', '.join(known)}")


def check_installed(spec: BackendSpec) -> None:
    """Raise UsageError if a module is missing that the backend needs; import none of them."""
    missing = [name for name in spec.needs if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--backend {spec.name}: {' and '.join(missing)} not installed; `pip install "
            f"'sdxs[{spec.extra}]'`, or drop it"
        )


def located(place: str, spec: BackendSpec) -> object:
    """Import the object at 'module:name'. Raises UsageError if the framework is missing."""
    module, name = place.split(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == module.split(".")[0]:
            raise
        package = spec.package or error.name
        raise UsageError(
            f"--backend {spec.name}: {error.name!r} is not installed; `pip install {package}`"
        ) from None


def _load(entry: metadata.EntryPoint) -> BackendSpec:
    try:
        spec = entry.load()
    except (ImportError, AttributeError) as error:
        package = entry.dist.name if entry.dist else entry.value.partition(":")[0]
        raise BackendError(
            f"backend {entry.name} of {package} cannot be imported ({error}); install it again, or "
            f"pip uninstall {package}"
        ) from error
    if not isinstance(spec, BackendSpec):
        raise BackendError(f"entry point {entry.name} = {entry.value}: expected a BackendSpec")
    return spec
