"""A stage's view of the KV cache, and caches of the right size for a call's stages.

Every iteration of a shared layer has separate cache entries. Layers know only their unique index, so each stage gets a
view of the cache that adds the stage's offset.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache

from loopway.errors import ConfigError
from loopway.layout import Stage

#: Names under which families hand the cache to their layers.
CACHE_ARGUMENTS = ("past_key_values", "layer_past")


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


def fit_caches(kwargs: Mapping[str, Any], stages: Sequence[Stage], config: Any, loops: Any) -> None:
    """Check that the cache among a layer's arguments has an entry for every layer that the stages run.

    An empty dynamic cache gets the entries that it lacks: the family made it before the loops were known.

    Raises:
        ConfigError: the cache was begun with other loops.
    """
    depth = stages[-1].cache_offset + len(stages[-1].layers)
    for given in (kwargs[name] for name in CACHE_ARGUMENTS if isinstance(kwargs.get(name), Cache)):
        entries = len(getattr(given, "layers", ()))
        if entries not in (0, depth) and type(given) is DynamicCache and given.get_seq_length() == 0:
            called = config if loops is None else config.with_loops(loops)
            given.layers = DynamicCache(config=called).layers
        elif entries not in (0, depth):
            raise ConfigError(
                f"the KV cache has entries for {entries} layers and this call runs {depth}: continue a cache with the "
                f"loops of its first call, or create one with DynamicCache(config=model.config.with_loops(loops))"
            )
        looped = [number for number, segment in enumerate(config.parsed_layout.segments) if segment.loops > 1]
        if len(looped) > 1:  # other counts can have this depth
            counted = Counter(stage.segment for stage in stages)
            now = [counted[segment] for segment in looped]
            first = vars(given).setdefault("loops_of_first_call", now)
            if first != now and given.get_seq_length() > 0:
                raise ConfigError(
                    f"the KV cache was created by a call with loops {first} and this call has {now}: continue a cache with "
                    f"the loops of its first call"
                )
            vars(given)["loops_of_first_call"] = now
