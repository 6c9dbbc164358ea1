"""What a recurrence is: the rule that turns one stage's output into the next stage's input.

A recurrence is asked at every boundary (after every stage but the last). It knows the layout and the hidden
size, nothing of layers, caches or Hugging Face.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from loopway.layout import Layout


@dataclass(frozen=True)
class RecurrenceOptions:
    """What a recurrence is built from.

    Attributes:
        layout: the stages between which it stands.
        hidden_size: D, the last dimension of every state.
        num_slots: B, MeSH's buffer length; None means boundaries + 2 (loops + 3 for prelude-core-coda).
        transition_router_input: what MeSH's routers after the first stage see, ``embedding`` or ``prelude``.
        initializer_range: standard deviation of fresh router weights.
    """

    layout: Layout
    hidden_size: int
    num_slots: int | None = None
    transition_router_input: str = "embedding"
    initializer_range: float = 0.02


class Recurrence(nn.Module):
    """Base class of all recurrences; subclass it and register it with ``loopway.register_recurrence``.

    A subclass gives :meth:`start` and :meth:`advance`, and, if it has parameters, :meth:`reset_parameters`. The
    state that travels between the two is its own: a tensor, a tuple, whatever the rule needs to remember.
    """

    #: Whether the rule does anything only where a segment is looped.
    needs_loop: ClassVar[bool] = False
    #: Whether the rule does anything only where there are two stages or more.
    needs_boundary: ClassVar[bool] = False

    def __init__(self, options: RecurrenceOptions) -> None:
        super().__init__()
        self.layout = options.layout

    @classmethod
    def check(cls, options: RecurrenceOptions) -> None:
        """Raise ``RecurrenceError`` if the rule can't be used with these options; called before anything is built."""

    def start(self, embeddings: Tensor) -> Any:
        """The state before the first stage.

        Args:
            embeddings: ``h_emb``, ``[batch, seq, hidden]``.
        """
        raise NotImplementedError

    def advance(self, state: Any, step: int, stage_input: Tensor, stage_output: Tensor) -> tuple[Tensor, Any]:
        """What the next stage reads, and the new state.

        Args:
            state: as returned by :meth:`start` or by the step before.
            step: the boundary, counted in stage order from 0.
            stage_input: what the stage before the boundary read, ``[batch, seq, hidden]``.
            stage_output: what it computed, same shape.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Give every parameter its initial value. Values loaded from a checkpoint are kept all the same.

        Random numbers drawn here come from a stream of the recurrence's own, so layers start alike with any recurrence.
        """
        if any(True for _ in self.parameters()):
            raise NotImplementedError(
                f"{type(self).__name__} has parameters: give it reset_parameters, which sets their initial values"
            )

    def routing(self, state: Any) -> Mapping[str, Tensor]:
        """Routing tensors of the latest boundary, for traces: ``write``, ``read``, ``weights``; empty without routers."""
        return {}
