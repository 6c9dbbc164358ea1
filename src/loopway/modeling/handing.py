"""Arguments that a family's forward gives to some layers only: masks and rotary tables by kind of layer.

The forward runs over the layers of the unrolled graph, and finds stand-ins that note what they are called with; in the
place of the last one the stack runs. Knows nothing of kinds.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from loopway.modeling.per_layer import unrolled_layers


class HandingList(nn.ModuleList):
    """Holds the stack alone, as the plain list does; when a forward runs over it, it seems to hold every layer."""

    def __getitem__(self, index: Any) -> Any:
        return (
            _stand_ins(super().__getitem__(0))[index]
            if isinstance(index, slice)
            else super().__getitem__(index)
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(_stand_ins(super().__getitem__(0)))


class _StandIn:
    """One layer of the unrolled graph in a single forward: ``noted`` is shared by all of them."""

    def __init__(self, stack: Any, unique: int, is_last: bool, noted: dict[int, dict[str, Any]]) -> None:
        self._stack, self._unique, self._is_last, self._noted = stack, unique, is_last, noted

    def __call__(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        self._noted[self._unique] = kwargs
        return self._stack(hidden_states, by_layer=self._noted) if self._is_last else hidden_states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack.layers[self._unique], name)

    def __repr__(self) -> str:
        return repr(self._stack.layers[self._unique])


def _stand_ins(stack: Any) -> list[_StandIn]:
    unrolled, noted = unrolled_layers(stack.layout), {}
    last = len(unrolled) - 1
    return [_StandIn(stack, unique, position == last, noted) for position, unique in enumerate(unrolled)]
