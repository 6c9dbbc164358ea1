"""Correction of torch's compiler for CPUs, without which MeSH gives wrong tokens in a compiled engine.

Before pytorch pull request 185873, the compiler forgot that an operation reads what a custom operation wrote, and could
run the reader first. vLLM's matrix products on CPUs are such custom operations. Knows nothing of models.
"""

from functools import cache
from typing import Any

from torch._inductor.scheduler import SchedulerNode


@cache
def keep_mutation_order() -> None:
    """Keep a node's dependencies on mutated buffers when the compiler changes its loops. No effect where torch does."""
    recompute = SchedulerNode.recompute_size_and_body

    def recompute_and_rename(self: SchedulerNode, *args: Any, **kwargs: Any) -> None:
        recompute(self, *args, **kwargs)
        self.set_read_writes(self.read_writes.rename(self.mutation_renames))

    SchedulerNode.recompute_size_and_body = recompute_and_rename
