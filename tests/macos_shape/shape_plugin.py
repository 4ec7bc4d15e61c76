"""pytest's part: say which shape this is, and leave out what only a real Mac can pass."""

import os

import pytest


def pytest_report_header() -> str:
    return f"macOS' shape on Linux: {os.environ['SDXS_MACOS_SHAPE']}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if mark := item.get_closest_marker("not_in_macos_shape"):
        pytest.skip(mark.kwargs["reason"])
