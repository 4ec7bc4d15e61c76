"""From settings to a backend: what is taken, what is refused, and how it is written down again."""

from dataclasses import fields

import pytest

from sdxs.common.backend.assembly import (
    ModelOptions,
    make_backend,
    open_checkpoint_for,
    options_for,
)
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.spec import PEERS, BackendSpec, spec_of, specs
from sdxs.common.bench.measure.entrants import counters, default_names, entrants
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import UsageError
from sdxs.common.live.parameters import LiveParameters
from sdxs.common.picture.size import FrameSize
from sdxs.common.settings import changed_texts, parse_settings, settings_of
from sdxs.coreai_backend.options import CoreAIOptions
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.mlx_sdxs.options import MlxOptions

EVERYBODY = [*specs().values(), *specs(PEERS).values()]


@pytest.mark.parametrize("spec", EVERYBODY, ids=lambda spec: spec.name)
def test_a_description_is_whole(spec: BackendSpec) -> None:
    """Every setting has help, its default is admitted, and a number has a unit."""
    options = spec.options(64)
    assert spec.title and not changed_texts(options)
    for each in settings_of(spec.options):
        assert each.help and each.check(each.default) == each.default
        assert each.kind is not int or each.unit or not each.flag
    assert {f.name for f in fields(options)} >= {each.name for each in settings_of(spec.options)}


def test_settings_of_installed_backends_share_a_spelling_only_where_they_mean_the_same() -> None:
    """A flag means one thing, whichever backends are chosen."""
    owners: dict[str, list[str]] = {}
    for name, spec in specs().items():
        for each in settings_of(spec.options):
            owners.setdefault(each.parameter, []).append(name)
    shared = {name: each for name, each in owners.items() if len(each) > 1}
    programs = ["coreml", "coreai"]
    assert shared.pop("dtype") == ["mlx", *programs]
    assert shared == {name: programs for name in ("attention", "weights", "sizes")}


def test_each_backend_takes_its_own_of_what_was_given() -> None:
    given = {"dtype": "auto", "lanes": 2, "attention": "matmul", "coreml_runtime": "reference"}
    mlx, coreml, coreai, identity = (options_for(spec, 64, given) for spec in specs().values())
    assert mlx == MlxOptions(64, lanes=2)
    assert coreml == CoreMLOptions(64, runtime="reference", attention="matmul")
    assert coreai == CoreAIOptions(64, attention="matmul")
    assert identity == BackendOptions(64)


def test_settings_of_one_backend_alone_must_be_its_own() -> None:
    mlx = spec_of("mlx")
    assert options_for(mlx, 64, {"dtype": "auto"}, {"dtype": "float32"}) == MlxOptions(
        64, dtype="float32"
    )
    with pytest.raises(UsageError, match="^identity: unknown setting 'lanes'; known are none$"):
        options_for(spec_of("identity"), 64, own={"lanes": 2})


@pytest.mark.parametrize(
    "texts",
    [
        {"sizes": "64,128", "weights": "int8"},
        {"placement": "encode=ne,unet=gpu,decode=ne", "noise_seed": "3"},
        {"dtype": "float16", "compute_units": "all"},
    ],
)
def test_what_was_given_is_written_as_it_was_read(texts: dict[str, str]) -> None:
    """Reports of earlier versions hold these texts, and are compared with new ones."""
    assert changed_texts(parse_settings(CoreMLOptions, texts, "coreml", size=64)) == texts


def test_entrants_have_labels_of_their_own() -> None:
    first, second = entrants(["mlx:lanes=2", "mlx:lanes=2"], 64, "float32")
    assert (first.label, second.label) == ("mlx:lanes=2", "mlx:lanes=2 (2)")
    assert first.options == MlxOptions(64, dtype="float32", lanes=2) and first.backend == "mlx"
    assert {"mlx", "identity"} <= set(default_names()) and "torch" not in default_names()
    at_hand, missing = counters()
    assert at_hand.keys() | missing.keys() == {"mlx", "coreml"}


def test_what_an_entrant_would_drop_is_refused() -> None:
    """Bugs: of two values the last one counted; a dtype that nobody takes was left out."""
    with pytest.raises(UsageError, match="^--backend mlx:lanes=2:lanes=4: names a setting twice"):
        entrants(["mlx:lanes=2:lanes=4"], 64)
    with pytest.raises(UsageError, match="^--dtype float16: none of identity has a choice"):
        entrants(["identity"], 64, "float16")
    first, second = entrants(["identity", "mlx"], 64, "float16")
    assert second.options == MlxOptions(64, dtype="float16") and first.backend == "identity"


def test_a_name_that_is_nearly_right_is_named() -> None:
    with pytest.raises(UsageError, match="^--backend mxl: did you mean 'mlx'\\? expected one of"):
        spec_of("mxl")


def test_isolate_hosts_whatever_it_is(demo: Checkpoint) -> None:
    spec, options = spec_of("identity"), BackendOptions(64)
    assert isinstance(make_backend(spec, demo, options), IdentityBackend)
    assert isinstance(make_backend(spec, demo, options, isolate=True), HostedBackend)
    placed = CoreMLOptions(64, runtime="reference", placement=("ne", "gpu", "ne"))
    assert isinstance(make_backend(spec_of("coreml"), demo, placed), HostedBackend)


def test_one_declaration_of_strength() -> None:
    (ours,) = (each for each in settings_of(ModelOptions) if each.name == "strength")
    (live,) = (each for each in settings_of(LiveParameters) if each.name == "strength")
    assert ours == live
    with pytest.raises(UsageError, match="^--strength 2: expected a number from 0 to 1$"):
        ModelOptions(strength=2)


def test_a_checkpoint_is_opened_as_it_was_asked_for() -> None:
    asked = ModelOptions("demo", size=128)
    checkpoint = open_checkpoint_for(asked)
    assert checkpoint.name == "demo" and asked.size_of(checkpoint) == FrameSize(128, 128)
    assert ModelOptions("demo").size_of(checkpoint) == FrameSize.of(checkpoint.frame.size)
    with pytest.raises(UsageError, match="multiple of"):
        open_checkpoint_for(ModelOptions("demo", size=63))
