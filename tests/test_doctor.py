"""`sdxs doctor`: every finding has a remedy, and nothing it meets makes it fail."""

import json

import pytest

from command import Command
from sdxs.common import doctor
from sdxs.common.checkpoint import hub
from sdxs.common.doctor import Check, can_run_demo, examine
from sdxs.common.errors import SinkError


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: "the hub cannot be reached (test)")


@pytest.fixture
def no_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the real camera alone: it lights up, and macOS asks for permission."""
    monkeypatch.setattr(
        doctor,
        "look_at_camera",
        lambda index: Check(f"camera {index}", False, "not looked at (test)", "run it by hand"),
    )


@pytest.mark.usefixtures("no_camera")
def test_table_and_exit_code(command: Command) -> None:
    done = command("doctor")
    assert done.code == 0 and "will run here" in done.out
    for name in (
        "python",
        "packages",
        "demo weights",
        "disk",
        "display",
        "camera 0",
        "hub",
        "mlx",
        "coreml",
        "coreai",
    ):
        assert name in done.out


@pytest.mark.usefixtures("no_camera")
def test_json_has_a_remedy_for_everything_that_is_not_good(command: Command) -> None:
    report = json.loads(command("doctor", "--json").out)
    assert report["runs_demo"] is True and report["schema"] == 1
    assert all(check["remedy"] for check in report["checks"] if check["ok"] is not True)


def test_a_probe_that_fails_becomes_a_finding() -> None:
    def unforeseen() -> list[Check]:
        raise ZeroDivisionError("odd")

    def ours() -> list[Check]:
        raise SinkError("full")

    checks = examine([("a", unforeseen), ("b", ours), ("c", lambda: [Check("c", True, "fine")])])
    assert [(check.name, check.ok) for check in checks] == [("a", False), ("b", False), ("c", True)]
    assert "ZeroDivisionError: odd" in checks[0].finding and checks[1].finding == "full"


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)]
)
def test_python_versions(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], ok: bool
) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (*version, 0))
    assert doctor.python().ok is ok


def test_too_little_disk_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9})())
    check = doctor.disk()
    assert check.ok is None and "SDXS_WEIGHTS" in check.remedy


def test_demo_needs_one_backend_and_its_weights() -> None:
    good = [Check(name, True, "") for name in ("python", "packages", "demo weights")]
    assert can_run_demo([*good, Check("mlx", True, "")], ["mlx"])
    assert not can_run_demo([*good, Check("mlx", False, "", "x")], ["mlx"])
    assert not can_run_demo(
        [*good[:2], Check("demo weights", False, "", "x"), Check("mlx", True, "")], ["mlx"]
    )


def test_absent_camera_names_the_other_ways() -> None:
    check = doctor.look_at_camera(63)
    assert check.ok is False and "--source synthetic" in check.remedy
