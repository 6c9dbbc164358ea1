"""Running mean and standard deviation over samples, in constant memory. Knows arrays only."""

import numpy as np
from torch import Tensor

from loopway.traces.findings import Spread


class RunningSpread:
    """Accumulates one array per sample, all of one shape (Welford's algorithm); ignores NaN entries."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = np.zeros(()), np.zeros(()), np.zeros(())

    def add(self, values: Tensor) -> None:
        """Add one sample's values."""
        array = values.double().cpu().numpy()
        known = np.isfinite(array)
        self._count = self._count + known
        difference = np.where(known, array - self._mean, 0.0)
        self._mean = self._mean + difference / np.maximum(self._count, 1)
        self._squares = self._squares + np.where(known, difference * (array - self._mean), 0.0)

    def spread(self) -> Spread:
        """Return mean and population standard deviation (divided by the number of samples); NaN without values."""
        count = np.where(self._count > 0, self._count, np.nan)
        return Spread(np.where(self._count > 0, self._mean, np.nan), np.sqrt(self._squares / count))
