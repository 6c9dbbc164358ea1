"""Set how OpenMP threads wait for each other, before torch is loaded.

By default a waiting thread spins for milliseconds. On a busy machine it occupies the core that the other thread
needs, and training slows down far more than the other work alone explains. Knows nothing of models.
"""

import os

#: Variables of the GNU OpenMP runtime, which PyTorch uses on Linux. A waiting thread spins briefly, then sleeps.
WAITING = {"GOMP_SPINCOUNT": "100000"}
BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables with which a user overrides the default."""


def wait_without_spinning() -> None:
    """Set :data:`WAITING` for this process and its children, unless the user set one of :data:`BY_USER`.

    Must run before torch is loaded: the runtime reads its variables once.
    """
    if not any(name in os.environ for name in BY_USER):
        os.environ.update(WAITING)
