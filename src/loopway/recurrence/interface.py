"""The interface of a recurrence: the rule that turns one stage's output into the next stage's input.

A recurrence is called at every boundary (after every stage but the last). It knows the layout and the hidden
size, nothing of layers, caches or Hugging Face.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from loopway.layout import Layout


@dataclass(frozen=True)
class RecurrenceOptions:
    """Options that a recurrence is built from.

    Attributes:
        layout: the model's segments and stages.
        hidden_size: D, the last dimension of every state.
        num_slots: B, MeSH's buffer length; None means boundaries + 2 (loops + 3 for prelude-core-coda).
        transition_router_input: input of MeSH's routers after the first stage, ``embedding`` or ``prelude``.
        initializer_range: standard deviation of initial router weights.
        shared_routers: parameters of boundaries are shared: one set each for the first and the last boundary, and one
            for all between.
    """

    layout: Layout
    hidden_size: int
    num_slots: int | None = None
    transition_router_input: str = "embedding"
    initializer_range: float = 0.02
    shared_routers: bool = False


class Recurrence(nn.Module):
    """Base class of all recurrences; subclass it and register it with ``loopway.register_recurrence``.

    A subclass defines :meth:`start` and :meth:`advance`, and :meth:`reset_parameters` if it has parameters. The state
    passed between them may be any object: a tensor, a tuple, whatever the rule needs.
    """

    #: Whether the rule needs a looped segment to have any effect.
    needs_loop: ClassVar[bool] = False
    #: Whether the rule needs at least two stages to have any effect.
    needs_boundary: ClassVar[bool] = False

    #: Whether the rule has parameters per boundary that ``shared_routers`` can share.
    shares_routers: ClassVar[bool] = False

    def __init__(self, options: RecurrenceOptions) -> None:
        super().__init__()
        self.layout = options.layout
        self.shared_routers = options.shared_routers

    def parameters_of(self, step: int) -> int:
        """Return the number of the parameters that boundary ``step`` uses, from 0.

        Without ``shared_routers``, each boundary has its own; with it, 0 are those of the first boundary, 1 those of
        all between and 2 those of the last.
        """
        if not self.shared_routers:
            return step
        return 0 if step == 0 else 2 if step == self.layout.num_boundaries - 1 else 1

    @classmethod
    def check(cls, options: RecurrenceOptions) -> None:
        """Validate the options; called before anything is built. Override it to reject options.

        Raises:
            RecurrenceError: the rule can't be used with these options.
        """

    def start(self, embeddings: Tensor) -> Any:
        """Return the state before the first stage.

        Args:
            embeddings: ``h_emb``, ``[batch, seq, hidden]``.
        """
        raise NotImplementedError

    def advance(self, state: Any, step: int, stage_input: Tensor, stage_output: Tensor) -> tuple[Tensor, Any]:
        """Return the next stage's input, ``[batch, seq, hidden]``, and the new state.

        Args:
            state: as returned by :meth:`start` or by the previous step.
            step: index of the boundary in stage order, from 0. A call with more loops than the layout's repeats a step.
            stage_input: input of the stage before the boundary, ``[batch, seq, hidden]``.
            stage_output: output of that stage, same shape.
        """
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set every parameter to its initial value. Loopway restores values loaded from a checkpoint afterwards.

        Random numbers come from a separate stream: layers get the same initial values with any recurrence.

        Raises:
            NotImplementedError: the subclass has parameters and doesn't override this method.
        """
        if any(True for _ in self.parameters()):
            raise NotImplementedError(
                f"{type(self).__name__} has parameters: define reset_parameters to set their initial values"
            )

    def routing(self, state: Any) -> Mapping[str, Tensor]:
        """Return the latest boundary's routing tensors for traces: ``write``, ``read``, ``weights``.

        Shapes are those of :class:`loopway.StageRecord`. Empty without routers.
        """
        return {}
