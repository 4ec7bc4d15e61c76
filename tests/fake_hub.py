"""The hub of `sdxs.common.testing.hub` in the place of the real one, for the length of a test."""

from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from sdxs.common.checkpoint.registry import ENTRIES, Entry
from sdxs.common.testing.hub import FakeHub, Json, serve

__all__ = ["FakeHub", "Json", "point_client_at", "register", "serve"]


def point_client_at(port: int, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Point the hub's library, which read its environment on import, to this server."""
    endpoint = f"http://127.0.0.1:{port}"
    constants = huggingface_hub.constants
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    patch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses.json"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.delenv("HF_TOKEN", raising=False)
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    huggingface_hub.close_session()  # the next one reads the environment again


def register(patch: pytest.MonkeyPatch, **changes: str) -> Entry:
    """Put one more checkpoint into the registry for the duration of a test."""
    values = {
        "name": "test-model",
        "repo": "someone/test-model",
        "revision": "0123456789" * 4,
        "licence": "MIT",
        "note": "",
        "pickle_only": "",
    }
    known = Entry(**(values | changes))
    patch.setitem(ENTRIES, known.name, known)
    return known
