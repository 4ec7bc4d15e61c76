"""Start a command in a place where something is missing: run as a file, with a JSON of what.

Keys: limits (by name of RLIMIT_, in units of the system; NPROC counts from what the user has),
close and full (descriptors), user (whom to become, if root), mortal (root keeps to permissions),
ignore (signals), gone (the folder is removed under its feet). Needs the standard library alone and,
to become another user, util-linux; and execs.
"""

import ctypes
import json
import os
import resource
import signal
import sys

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def _threads(user: int) -> int:
    count = 0
    for number in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - quick to start
        try:
            if os.stat(f"/proc/{number}").st_uid == user:  # noqa: PTH116
                count += len(os.listdir(f"/proc/{number}/task"))  # noqa: PTH208
        except OSError:
            continue
    return count


def main(asked: dict, command: list[str]) -> None:
    """Change this process as asked, and become the command."""
    user = asked.get("user")
    if user is not None and os.getuid() == 0:  # it reads all, as root: Python may be root's
        kept = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        one = (f"--reuid={user}", f"--regid={user}", "--clear-groups")
        again = ("setpriv", *one, *kept, sys.executable, "-I", "-S", __file__)
        os.execvp("setpriv", [*again, *sys.argv[1:]])
    for name in asked.get("ignore", ()):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: a write fails instead
    if asked.get("gone"):
        os.rmdir(os.getcwd())  # noqa: PTH106, PTH109
    for descriptor in asked.get("full", ()):
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
    if asked.get("mortal") and os.getuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    for name, value in asked.get("limits", {}).items():
        most = value + (_threads(os.getuid()) if name == "NPROC" else 0)
        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (most, most))
    for descriptor in asked.get("close", ()):
        os.close(descriptor)
    os.execve(command[0], command, os.environ)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
