"""Equal frames in flight and batches for entrants that name none, and what is not installed."""

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from command import Command
from sdxs.common.backend import spec as specs_module
from sdxs.common.backend.spec import PEERS, check_installed, specs
from sdxs.common.bench.measure.entrants import entrants
from sdxs.common.errors import UsageError

SIZE = 64


@pytest.fixture(autouse=True)
def torch_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is about options, which need no PyTorch."""
    peers = {name: replace(spec, needs=()) for name, spec in specs(PEERS).items()}
    original = specs_module.specs
    monkeypatch.setattr(
        specs_module,
        "specs",
        lambda group=specs_module.GROUP: peers if group == PEERS else original(group),
    )


def terms(
    *chosen: str, depth: int | None = None, batch: int | None = None
) -> list[tuple[int | None, object]]:
    """In flight and batch of each, as far as the options tell."""
    made = entrants(chosen, SIZE, depth=depth, batch=batch)
    return [(each.options.in_flight(), getattr(each.options, "batch", None)) for each in made]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (("mlx:lanes=2:batch=4", "torch"), [(12, 4), (12, 4)]),
        (("mlx:lanes=4", "torch:mode=compile"), [(4, 1), (4, 1)]),
        (("torch:depth=2", "mlx"), [(2, 1), (2, 1)]),
        (("mlx", "torch:batch=8"), [(16, 8), (16, 8)]),
        (("mlx:lanes=1:depth=2", "torch:depth=1"), [(2, 1), (1, 1)]),
        (("torch:batch=4", "torch:depth=3", "torch"), [(8, 4), (3, 1), (8, 4)]),
        (("mlx:batch=4", "torch"), [(None, 4), (8, 4)]),
        (("mlx", "torch"), [(None, 1), (1, 1)]),
        (("identity", "mlx:depth=2"), [(None, None), (2, 1)]),
    ],
)
def test_who_names_no_terms_gets_those_of_the_first_that_does(
    chosen: tuple[str, ...], expected: list[tuple[int | None, object]]
) -> None:
    assert terms(*chosen) == expected


def test_terms_are_asked_for_all_and_own_ones_go_first() -> None:
    asked = terms("mlx", "torch", "torch:batch=2", "identity", depth=8, batch=4)
    assert asked == [(8, 4), (8, 4), (8, 2), (None, None)]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"depth": 2}, "--depth 2: none of identity has frames in flight or batches to set"),
        ({"batch": 2}, "--batch 2: none of identity has frames in flight"),
    ],
)
def test_terms_that_nobody_has_are_refused(wanted: Mapping[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        entrants(["identity"], SIZE, **wanted)  # type: ignore[arg-type]


def test_terms_that_cannot_be_are_refused_by_the_backend() -> None:
    with pytest.raises(UsageError, match="mlx: depth 2: no batch of 4 would ever be full"):
        entrants(["mlx", "torch"], SIZE, depth=2, batch=4)


def test_what_a_peer_needs_and_nobody_installed_is_said_with_the_remedy() -> None:
    peer = replace(specs(PEERS)["torch"], needs=("json", "sdxs_no_such_module"), extra="parity")
    with pytest.raises(UsageError) as caught:
        check_installed(peer)
    assert str(caught.value) == (
        "--backend torch: sdxs_no_such_module not installed; `pip install 'sdxs[parity]'`, or "
        "drop it"
    )


def test_a_peer_that_is_not_installed_is_refused_before_anything_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: every round was measured, and the peer's failed with a bare ModuleNotFoundError."""
    monkeypatch.undo()
    monkeypatch.setattr(specs_module, "find_spec", lambda name: None)
    done = command("bench", "--backend", "identity", "--backend", "torch")
    assert done.code == 2 and "torch and diffusers not installed" in done.err
    assert "sdxs[parity]" in done.err and "round" not in done.err
