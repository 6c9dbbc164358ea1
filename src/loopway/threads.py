"""Set how OpenMP's threads wait for each other, before torch is loaded.

By default a thread that waits spins for milliseconds. Beside other work it spins on the core that the thread it waits for
needs, and training slows down by far more than the other work's share. Knows nothing of models.
"""

import os

#: Variables of the GNU OpenMP runtime, which PyTorch's builds for Linux use. A thread that waits spins briefly, then sleeps.
WAITING = {"GOMP_SPINCOUNT": "100000"}
BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables with which a user decides it."""


def wait_without_spinning() -> None:
    """Set :data:`WAITING` for this process and those that it starts, unless the user's own variables decide.

    Must run before torch is loaded: the runtime reads its variables once.
    """
    if not any(name in os.environ for name in BY_USER):
        os.environ.update(WAITING)
