"""MeSH, memory as state highways (paper, section 2), in its factored form without a buffer (section 3).

Only routers read slots, and writes only add. A read therefore returns a weighted sum of the embeddings and the stage
outputs so far. The buffer of B slots is never built: the highway keeps the outputs and a few scalars per token. This
is exact, forward and backward; the tests compare it with a plain buffer.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from loopway.errors import RecurrenceError
from loopway.recurrence.interface import Recurrence, RecurrenceOptions
from loopway.recurrence.mixing import mix_states
from loopway.recurrence.randomness import generator_for


class Highway(NamedTuple):
    """The buffer's content in factored form.

    Attributes:
        states: h_emb, then every stage output written so far, each ``[batch, seq, hidden]``.
        writes: the write weights of every output over the slots, each ``[batch, seq, slots]``.
        read: the latest read weights over the slots, same shape; None before the first boundary.
    """

    states: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    read: Tensor | None

    def written(self, output: Tensor, write: Tensor) -> "Highway":
        """Return the highway after m_b += write[b] · output for every slot b."""
        return self._replace(states=(*self.states, output), writes=(*self.writes, write))

    def weights(self, read: Tensor) -> list[Tensor]:
        """Return the weight of each state in a read: a_emb = read[0] (slot 0 starts as h_emb), a(s) = read · writes[s].

        Returns:
            One tensor ``[batch, seq, 1]`` per state.
        """
        return [read[..., :1], *((read * write).sum(-1, keepdim=True) for write in self.writes)]


def over_slots(logits: Tensor) -> Tensor:
    """Apply softmax over the slots; half-precision logits are normalised in float32.

    Kept outside the routers, which stay plain linear maps: an adapter (LoRA) adds to a linear map's output.
    """
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class MeSH(Recurrence):
    """Every boundary writes the stage's output to the slots, then reads the next stage's input from them.

    The routers of boundary t take the input of the stage before it. Those of boundary 0 (the transitional cycle)
    take h_emb, or the prelude's output with ``transition_router_input="prelude"``.
    """

    needs_boundary = True
    shares_routers = True

    def __init__(self, options: RecurrenceOptions) -> None:
        super().__init__(options)
        boundaries = options.layout.num_boundaries
        self.num_slots = options.num_slots or boundaries + 2
        self.transition_sees_output = options.transition_router_input == "prelude"
        self.initializer_range = options.initializer_range
        pairs = self.parameters_of(boundaries - 1) + 1
        self.write_routers = self._routers(pairs, options.hidden_size)
        self.read_routers = self._routers(pairs, options.hidden_size)

    def _routers(self, count: int, hidden_size: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(hidden_size, self.num_slots) for _ in range(count))

    @classmethod
    def check(cls, options: RecurrenceOptions) -> None:
        if options.transition_router_input == "prelude" and options.layout.segments[0].loops > 1:
            raise RecurrenceError(
                f"transition_router_input='prelude' needs a layout that begins with an unlooped segment; "
                f"{options.layout} begins with a loop: use 'embedding'"
            )

    def reset_parameters(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                generator = generator_for(name, parameter.device)
                nn.init.normal_(parameter, std=self.initializer_range, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def start(self, embeddings: Tensor) -> Highway:
        return Highway(states=(embeddings,), writes=(), read=None)

    def advance(
        self, state: Highway, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, Highway]:
        seen = stage_output if step == 0 and self.transition_sees_output else stage_input
        pair = self.parameters_of(step)
        write = over_slots(self.write_routers[pair](seen))
        read = over_slots(self.read_routers[pair](seen))
        state = state.written(stage_output, write)._replace(read=read)
        return mix_states(state.weights(read), state.states), state

    def routing(self, state: Highway) -> dict[str, Tensor]:
        assert state.read is not None, "routing needs at least one boundary"
        weights = torch.cat(state.weights(state.read), dim=-1)
        return {"write": state.writes[-1], "read": state.read, "weights": weights}
