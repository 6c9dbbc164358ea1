"""Recurrences without a memory: base, residual, anchor, anchor* and their sums, static, dynamic (paper, section 1).

They apply their rule after every iteration of a looped segment, except after the last stage. At other boundaries the
stage output passes through unchanged. ``h(0)`` of a looped segment is the state that enters its first iteration.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from loopway.recurrence.interface import Recurrence, RecurrenceOptions
from loopway.recurrence.mixing import mix_states


class LoopMemory(NamedTuple):
    """Earlier states that a rule can use: the embeddings, and ``h(0)``, which entered looped segment ``segment``."""

    embeddings: Tensor
    anchor: Tensor
    segment: int | None


class Base(Recurrence):
    """h(t+1) = h_m(t): the next stage reads the previous stage's output. Valid for every layout."""

    def start(self, embeddings: Tensor) -> None:
        return None

    def advance(
        self, state: None, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, None]:
        return stage_output, None


class LoopRecurrence(Recurrence):
    """Base class of rules that keep h_emb and h(0) and apply :meth:`combine` after every iteration of a loop."""

    needs_loop = True

    def __init__(self, options: RecurrenceOptions) -> None:
        super().__init__(options)
        stages, segments = options.layout.stages, options.layout.segments
        self._looped = [segments[stage.segment].loops > 1 for stage in stages[:-1]]
        self._segment = [stage.segment for stage in stages[:-1]]

    def start(self, embeddings: Tensor) -> LoopMemory:
        return LoopMemory(embeddings, embeddings, None)

    def advance(
        self, state: LoopMemory, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, LoopMemory]:
        if not self._looped[step]:
            return stage_output, state
        if self._segment[step] != state.segment:
            state = state._replace(anchor=stage_input, segment=self._segment[step])
        return self.combine(step, stage_input, stage_output, state), state

    def _name(self, step: int) -> str:
        return str(self.parameters_of(step))

    def _names_of_coefficients(self) -> list[str]:
        """Return the names of the parameters of all steps in loops, in order and once each."""
        return list(dict.fromkeys(self._name(step) for step, looped in enumerate(self._looped) if looped))

    def combine(self, step: int, stage_input: Tensor, stage_output: Tensor, memory: LoopMemory) -> Tensor:
        """Return h(t+1) from h(t), h_m(t), h(0) and h_emb, each ``[batch, seq, hidden]``."""
        raise NotImplementedError


class SupplementSum(LoopRecurrence):
    """h(t+1) = h_m(t) + the named supplements: h(t) for ``residual``, h(0) for ``anchor``, h_emb for ``anchor*``."""

    SUPPLEMENTS = ("residual", "anchor", "anchor*")

    def __init__(self, options: RecurrenceOptions, supplements: frozenset[str]) -> None:
        super().__init__(options)
        self.supplements = supplements

    def combine(self, step: int, stage_input: Tensor, stage_output: Tensor, memory: LoopMemory) -> Tensor:
        state = stage_output
        if "residual" in self.supplements:
            state = state + stage_input
        if "anchor" in self.supplements:
            state = state + memory.anchor
        if "anchor*" in self.supplements:
            state = state + memory.embeddings
        return state

    def extra_repr(self) -> str:
        return "+".join(name for name in self.SUPPLEMENTS if name in self.supplements)


class Static(LoopRecurrence):
    """h(t+1) = a1·h_m(t) + a2·h(0) + a3·h_emb, with one trained triple per step, initially (1, 0, 0)."""

    shares_routers = True

    def __init__(self, options: RecurrenceOptions) -> None:
        super().__init__(options)
        self.coefficients = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(3)) for name in self._names_of_coefficients()}
        )

    def reset_parameters(self) -> None:
        for coefficients in self.coefficients.values():
            _start_at_base(coefficients)

    def combine(self, step: int, stage_input: Tensor, stage_output: Tensor, memory: LoopMemory) -> Tensor:
        return mix_states(
            self.coefficients[self._name(step)].unbind(), (stage_output, memory.anchor, memory.embeddings)
        )


class Dynamic(LoopRecurrence):
    """As static, but a linear map computes the triple per token from h(t). Initially: zero weight, bias (1, 0, 0)."""

    shares_routers = True

    def __init__(self, options: RecurrenceOptions) -> None:
        super().__init__(options)
        self.coefficients = nn.ModuleDict(
            {name: nn.Linear(options.hidden_size, 3) for name in self._names_of_coefficients()}
        )

    def reset_parameters(self) -> None:
        for linear in self.coefficients.values():
            nn.init.zeros_(linear.get_parameter("weight"))
            _start_at_base(linear.get_parameter("bias"))

    def combine(self, step: int, stage_input: Tensor, stage_output: Tensor, memory: LoopMemory) -> Tensor:
        device, linear = stage_input.device.type, self.coefficients[self._name(step)]
        # With float32 states, run the map in float32 too: near 1, half precision can't represent the small changes
        # that training makes. The map may be quantised, so only its forward is used.
        is_half = stage_input.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(device, enabled=is_half and torch.is_autocast_enabled(device)):
            coefficients = linear(stage_input).split(1, dim=-1)
        return mix_states(coefficients, (stage_output, memory.anchor, memory.embeddings))


def _start_at_base(triple: Tensor) -> None:
    with torch.no_grad():
        triple.copy_(torch.tensor([1.0, 0.0, 0.0]))
