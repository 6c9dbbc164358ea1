"""Collect the arguments that a family's forward passes to each layer, such as masks and rotary tables by layer kind.

The forward iterates over stand-ins for the layers of the unrolled graph. They record their arguments; the last one runs
the stack. Knows nothing of layer kinds.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


class HandingList(nn.ModuleList):
    """Module list that holds only the stack, but iterates over stand-ins for all unrolled layers."""

    def __getitem__(self, index: Any) -> Any:
        return (
            _stand_ins(super().__getitem__(0))[index]
            if isinstance(index, slice)
            else super().__getitem__(index)
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(_stand_ins(super().__getitem__(0)))


class _StandIn:
    """Stand-in for one layer of the unrolled graph during one forward; all stand-ins share ``noted``."""

    def __init__(self, stack: Any, unique: int, is_last: bool, noted: dict[int, dict[str, Any]]) -> None:
        self._stack, self._unique, self._is_last, self._noted = stack, unique, is_last, noted

    def __call__(self, hidden_states: Tensor, *, loops: Any = None, **kwargs: Any) -> Tensor:
        self._noted[self._unique] = kwargs
        if not self._is_last:
            return hidden_states
        return self._stack(hidden_states, loops=loops, by_layer=self._noted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack.layers[self._unique], name)

    def __repr__(self) -> str:
        return repr(self._stack.layers[self._unique])


def _stand_ins(stack: Any) -> list[_StandIn]:
    stages = stack.stages_with(stack.config.loops)
    unrolled: list[int] = [unique for stage in stages for unique in stage.layers]
    noted: dict[int, dict[str, Any]] = {}
    last = len(unrolled) - 1
    return [_StandIn(stack, unique, position == last, noted) for position, unique in enumerate(unrolled)]
