"""Processes that end with the one that began them, even where that one is killed.

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
    """End this process, by SIGKILL, when the one that began it ends. On other systems than Linux it goes on.

    Args:
        parent: process id of what began this one and may have ended before the call; None: a fork server stands between
            them, as :func:`parent_in` says.
    """
    if parent is None:
        threading.Thread(target=_end_after_beginner, daemon=True).start()
    elif sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def parent_in(context: BaseContext | None) -> int | None:
    """Return what :func:`end_with` takes in processes that `multiprocessing` begins here; None is its default context."""
    # A fork server lasts as long as the processes that it began.
    return None if (context or multiprocessing).get_start_method() == "forkserver" else os.getpid()


def _end_after_beginner() -> None:
    beginner = multiprocessing.parent_process()
    assert beginner is not None, "only multiprocessing has fork servers"
    beginner.join()
    os.kill(os.getpid(), signal.SIGKILL)
