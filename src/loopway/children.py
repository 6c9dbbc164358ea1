"""End child processes when their parent ends, even if the parent is killed.

Knows nothing of what they do.
"""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import BaseContext

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int | None) -> None:
    """Kill this process by SIGKILL when its parent ends. With a process id, this works on Linux only.

    Args:
        parent: process id of the parent, which may have ended before the call; None if a fork server started this
            process. Use the value of :func:`parent_in`.
    """
    if parent is None:
        threading.Thread(target=_end_after_beginner, daemon=True).start()
    elif sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def parent_in(context: BaseContext | None) -> int | None:
    """Return the argument of :func:`end_with` for processes that this one starts; None means the default context."""
    # A fork server lives as long as the processes that it started, so its end says nothing about the parent.
    return None if (context or multiprocessing).get_start_method() == "forkserver" else os.getpid()


def _end_after_beginner() -> None:
    beginner = multiprocessing.parent_process()
    assert beginner is not None, "only multiprocessing has fork servers"
    beginner.join()
    os.kill(os.getpid(), signal.SIGKILL)
