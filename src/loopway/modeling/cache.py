"""A stage's view of the KV cache.

Every iteration of a shared layer has separate cache entries. Layers know only their unique index, so each stage gets a
view of the cache that adds the stage's offset. Knows nothing of layouts.
"""

from typing import Any

from torch import Tensor
from transformers import Cache


class StageCache:
    """View of a cache with layer indices shifted by ``offset``; delegates everything else to the cache."""

    def __init__(self, cache: Cache, offset: int) -> None:
        self.cache = cache
        self.offset = offset

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of unique layer ``layer_idx`` in this stage, ``[batch, heads, seq, head_dim]``."""
        return self.cache.update(key_states, value_states, layer_idx + self.offset, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.get_seq_length(layer_idx + self.offset)

    def __getattr__(self, name: str) -> Any:
        if name == "cache":  # while copying or unpickling, before __init__
            raise AttributeError(name)
        return getattr(self.cache, name)
