"""The workers that torchrun starts for one comparison: the first decides what is trained, the others join.

Every worker trains each run in a separate process. The processes of a run meet at a port that the first worker chooses. Knows
nothing of what is trained.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from loopway.errors import LoopwayError

# The others wait while the first works between two runs; if it dies, the launcher ends them.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Workers:
    """Without a launcher there is one worker, the first, and no store to meet at."""

    rank: int
    store: Any  # torch.distributed.Store
    count: int = 1

    @classmethod
    def here(cls) -> Self:
        """Read from the environment that torchrun, or a launcher like it, sets."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(0, None)
        from torch.distributed.rendezvous import rendezvous

        store, rank, _ = next(rendezvous("env://", timeout=_PATIENCE))  # the store that torchrun has open
        return cls(rank, store, count)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def meeting(self, run: str, *, wanted: bool) -> dict[str, str] | None:
        """Return environment variables with which the processes of `run` find each other; None to skip it.

        Args:
            run: its name. Every worker calls this once for each run, in the same order.
            wanted: whether to train it; the first worker's value counts.
        """
        if self.store is None:
            return {} if wanted else None
        key = f"loopway/compare/{run}"
        if self.is_first:
            self.store.set(key, str(_free_port() if wanted else 0))
        port = self.store.get(key).decode()
        return {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"} if port != "0" else None

    def agree(self, name: str, act: Callable[[], int]) -> int:
        """Return the highest number that any worker's `act` returns. All workers must call it, once for each `name`.

        Raises:
            LoopwayError: another worker's `act` failed. An error of this worker's `act` is raised unchanged.
        """
        if self.store is None:
            return act()
        keys = [f"loopway/compare/{name}/{rank}" for rank in range(self.count)]
        number = None
        try:
            number = act()
        finally:  # else the others wait for it
            self.store.set(keys[self.rank], json.dumps(number))
        numbers = [json.loads(self.store.get(key)) for key in keys]
        if None in numbers:
            raise LoopwayError(f"{name}: worker {numbers.index(None)} of {self.count} failed; see its log")
        return max(numbers)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]
