"""Run the `sdxs` command inside the test process."""

import sys
from dataclasses import dataclass

import pytest

from sdxs import cli


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
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        streams = self._capsys.readouterr()
        return Result(code, streams.out, streams.err)
