"""Run the `sdxs` command inside the test process."""

import sys
from dataclasses import dataclass

import pytest

from sdxs import cli
from sdxs.commands import console

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Command:
    """`command("live", "--frames", 3)` returns exit code and both streams."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["sdxs", *map(str, arguments)])
        self._monkeypatch.setattr(console.state, "abandoned", False)
        # A loaded machine may need longer to end a thread than a user who wants to leave has
        # patience ...
        self._monkeypatch.setattr("sdxs.common.live.threads.loop.JOIN_S", PATIENCE_S)
        # ... and whoever leaves at once takes the test run along, with exit code 0 and no word.
        self._monkeypatch.setattr(console, "leave_at_once", _fail)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        streams = self._capsys.readouterr()
        return Result(code, streams.out, streams.err)


def _fail(code: int) -> None:
    pytest.fail(
        f"the session left a thread behind and would have ended this process, with exit code {code}"
    )
