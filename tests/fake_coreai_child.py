"""`coreai_backend.apart` for a child process that hangs or is killed: $FAKE_COREAI says how."""

import os
import signal
import time
from typing import NoReturn


def build(*_: object) -> NoReturn:
    how = os.environ["FAKE_COREAI"]
    if how != "hang":
        os.kill(os.getpid(), getattr(signal, how))
    time.sleep(600)
    raise AssertionError("nobody ended this process")
