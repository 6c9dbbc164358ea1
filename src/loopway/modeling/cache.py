"""A KV cache as one stage sees it.

Every iteration of a shared layer has cache entries of its own. The layers know only their unique index, so each
stage gets a view of the cache that adds the stage's offset. Knows nothing of layouts.
"""

from typing import Any

from torch import Tensor
from transformers import Cache


class StageCache:
    """The cache with layer indices shifted by ``offset``; everything else is the cache's own."""

    def __init__(self, cache: Cache, offset: int) -> None:
        self.cache = cache
        self.offset = offset

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values ``[batch, heads, seq, head_dim]`` of unique layer ``layer_idx`` in this stage."""
        return self.cache.update(key_states, value_states, layer_idx + self.offset, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.get_seq_length(layer_idx + self.offset)

    def __getattr__(self, name: str) -> Any:
        if name == "cache":  # while copying or unpickling, before __init__
            raise AttributeError(name)
        return getattr(self.cache, name)
