"""MeSH with other routers, for readings.yaml and routers.yaml: a plugin that registers `mesh-zero`, `mesh-wide` and so on.

Knows nothing of what the routers learn.
"""

import math

from torch import Tensor, nn

import loopway
from loopway.recurrence.mesh import Highway, MeSH
from loopway.recurrence.mixing import mix_states


class ZeroRouters(MeSH):
    """Every slot is written and read alike, for every token."""

    def reset_parameters(self) -> None:
        for router in (*self.write_routers, *self.read_routers):
            for parameter in router.parameters():
                nn.init.zeros_(parameter)


class WideRouters(MeSH):
    """Ten times the weights' standard deviation: tokens differ in their routes from the start."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for router in (*self.write_routers, *self.read_routers):
            router.get_parameter("weight").data.mul_(10)


class ChainedRouters(MeSH):
    """Close to base recursion: each boundary writes its own slot and reads it back, with weights of 0.93 of five slots."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for routers in (self.write_routers, self.read_routers):
            for boundary, router in enumerate(routers):
                own = (boundary + 1) % self.num_slots
                nn.init.constant_(router.get_parameter("bias")[own : own + 1], 4.0)


class Amplified(nn.Linear):
    """A linear map times `factor`: under AdamW, whose steps don't depend on scale, a router with that rate in logits."""

    factor: float

    def forward(self, input: Tensor) -> Tensor:
        return self.factor * super().forward(input)


class FastRouters(MeSH):
    """The same logits at the start, and ten times the learning rate."""

    factor = 10.0

    def _routers(self, boundaries: int, hidden_size: int) -> nn.ModuleList:
        routers = nn.ModuleList(Amplified(hidden_size, self.num_slots) for _ in range(boundaries))
        for router in routers:
            router.factor = self.factor  # type: ignore[assignment]
        return routers

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for router in (*self.write_routers, *self.read_routers):
            router.get_parameter("weight").data.div_(self.factor)


class SlowRouters(FastRouters):
    """The same logits at the start, and a tenth of the learning rate."""

    factor = 0.1


class SummingReads(MeSH):
    """Reads add up to B instead of 1: at the start the sum of all states, not a B-th of it, as residual and anchor add."""

    def advance(
        self, state: Highway, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, Highway]:
        mixed, state = super().advance(state, step, stage_input, stage_output)
        return self.num_slots * mixed, state

    def routing(self, state: Highway) -> dict[str, Tensor]:
        routing = super().routing(state)
        return routing | {name: self.num_slots * routing[name] for name in ("read", "weights")}


class GatedRouters(MeSH):
    """Each slot has a gate of its own (a sigmoid) where a softmax lets them compete. Outputs start with weight 1 each, the
    embeddings with 1/√B.
    """

    def advance(
        self, state: Highway, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, Highway]:
        seen = stage_output if step == 0 and self.transition_sees_output else stage_input
        scale = 2 / math.sqrt(self.num_slots)
        write, read = (
            scale * routers[step](seen).sigmoid() for routers in (self.write_routers, self.read_routers)
        )
        state = state.written(stage_output, write)._replace(read=read)
        return mix_states(state.weights(read), state.states), state


for name, recurrence in (
    ("zero", ZeroRouters),
    ("wide", WideRouters),
    ("chain", ChainedRouters),
    ("fast", FastRouters),
    ("slow", SlowRouters),
    ("sum", SummingReads),
    ("gated", GatedRouters),
):
    loopway.register_recurrence(f"mesh-{name}", recurrence)
