"""Remove from Python's library what it lacks on macOS.

Source: the "Availability" lines of the library reference, and macOS' own headers for constants.
"""

import fcntl
import mmap
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from types import ModuleType

LACKING: dict[ModuleType, str] = {
    os: """
        copy_file_range eventfd eventfd_read eventfd_write fdatasync getrandom getresgid getresuid
        getxattr listxattr memfd_create pidfd_open pipe2 posix_fadvise posix_fallocate removexattr
        sched_getaffinity sched_getparam sched_getscheduler sched_rr_get_interval
        sched_setaffinity sched_setparam sched_setscheduler setns setresgid setresuid setxattr
        splice timerfd_create unshare O_DIRECT O_LARGEFILE O_NOATIME O_PATH O_TMPFILE P_PIDFD
        SCHED_BATCH SCHED_IDLE
    """,
    signal: """
        pidfd_send_signal sigtimedwait sigwaitinfo SIGCLD SIGPOLL SIGPWR SIGRTMAX SIGRTMIN SIGSTKFLT
    """,
    select: "epoll EPOLLIN EPOLLOUT EPOLLERR EPOLLHUP",
    time: "pthread_getcpuclockid CLOCK_BOOTTIME CLOCK_TAI",
    resource: """
        prlimit RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_OFILE RLIMIT_RTPRIO RLIMIT_RTTIME
        RLIMIT_SIGPENDING RUSAGE_THREAD
    """,
    fcntl: """
        F_ADD_SEALS F_GETLEASE F_GETPIPE_SZ F_GETSIG F_GET_SEALS F_NOTIFY F_SETLEASE F_SETPIPE_SZ
        F_SETSIG
    """,
    mmap: "MAP_POPULATE MAP_STACK MAP_LOCKED",
    socket: "AF_NETLINK SO_DOMAIN SO_PEERCRED SO_PROTOCOL SOCK_CLOEXEC SOCK_NONBLOCK",
}


def remove() -> None:
    """Delete the names; a version of Python that has not all of them is left with fewer."""
    for module, names in LACKING.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    # `socket` has imported it with epoll; asyncio asks for it, and macOS has kqueue there.
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc, assignment]
    if sys.version_info < (3, 13) and hasattr(os, "waitid"):
        del os.waitid  # macOS has it from Python 3.13 on
