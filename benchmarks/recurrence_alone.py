"""The recurrence between the stages of a step, without the stages; and MeSH's buffer, which ours does without.

What benchmarks share; knows nothing of models.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from loopway.recurrence import Recurrence
from loopway.recurrence.mesh import MeSH, over_slots


class BufferMeSH(MeSH):
    """MeSH as the paper writes it (section 2): the same numbers, from a buffer ``[batch, seq, slots, hidden]``."""

    def start(self, embeddings: Tensor) -> Tensor:  # type: ignore[override]
        empty = torch.zeros_like(embeddings)
        return torch.stack([embeddings, *[empty] * (self.num_slots - 1)], dim=-2)

    def advance(  # type: ignore[override]
        self, state: Tensor, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, Tensor]:
        write = over_slots(self.write_routers[step](stage_input))
        read = over_slots(self.read_routers[step](stage_input))
        state = state + write.unsqueeze(-1) * stage_output.unsqueeze(-2)
        return (read.unsqueeze(-1) * state).sum(-2), state


def recurrence_alone(
    recurrence: Recurrence, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Callable[[], None]:
    """Forward and backward of every boundary, given what the stages before them read and computed."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = [tensor.detach().requires_grad_() for tensor in outputs]
    gradients = [torch.randn_like(output) for output in outputs]

    def run() -> None:
        state, mixed = recurrence.start(inputs[0]), []
        for boundary, (stage_input, stage_output) in enumerate(zip(inputs, outputs, strict=True)):
            following, state = recurrence.advance(state, boundary, stage_input, stage_output)
            mixed.append(following)
        torch.autograd.backward(mixed, gradients)
        for tensor in (*inputs, *outputs, *recurrence.parameters()):
            tensor.grad = None

    return run
