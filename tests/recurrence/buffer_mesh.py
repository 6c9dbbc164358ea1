"""MeSH as the paper writes it, with a buffer of slots: the reference that the factored form is held against."""

import torch
from torch import Tensor, nn

from loopway import Layout


class BufferMeSH(nn.Module):
    """Section 2, line by line. Slot 0 starts as h_emb, the others as zero; every boundary writes, then reads."""

    def __init__(self, layout: Layout, hidden_size: int, num_slots: int) -> None:
        super().__init__()
        self.num_slots = num_slots
        steps = range(layout.num_boundaries)
        self.write_routers = nn.ModuleList(nn.Linear(hidden_size, num_slots) for _ in steps)
        self.read_routers = nn.ModuleList(nn.Linear(hidden_size, num_slots) for _ in steps)

    def start(self, embeddings: Tensor) -> Tensor:
        empty = torch.zeros_like(embeddings)
        return torch.stack([embeddings, *[empty] * (self.num_slots - 1)], dim=-2)  # [..., slots, hidden]

    def advance(
        self, buffer: Tensor, step: int, stage_input: Tensor, stage_output: Tensor
    ) -> tuple[Tensor, Tensor]:
        write = self.write_routers[step](stage_input).softmax(-1)
        read = self.read_routers[step](stage_input).softmax(-1)
        buffer = buffer + write.unsqueeze(-1) * stage_output.unsqueeze(-2)
        return (read.unsqueeze(-1) * buffer).sum(-2), buffer
