"""How do time and memory of a training step grow with loops, slots, sequence length, width and batch size?

    python benchmarks/scaling.py [--rounds 7]

A step is a forward and a backward pass in float32 on random tokens, without an optimizer. All but what is swept stays as
in `Shape`. The last line is JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from recurrence_alone import recurrence_alone
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import loopway
from loopway.modeling.stack import find_stack

BOTH = ("base", "mesh")
HEAD = 64  # size of an attention head


@dataclass(frozen=True)
class Shape:
    """Of a model with a core of one layer between two others, and of its batch."""

    loops: int = 2
    slots: int | None = None
    sequence: int = 256
    width: int = 256
    batch: int = 2
    vocabulary: int = 4096

    def model(self, recurrence: str) -> PreTrainedModel:
        torch.manual_seed(0)
        config = loopway.pythia_config(
            "14m",
            layout=f"1+1R{self.loops}+1",
            recurrence=recurrence,
            num_slots=self.slots,
            hidden_size=self.width,
            num_attention_heads=max(1, self.width // HEAD),
            vocab_size=self.vocabulary,
            max_position_embeddings=self.sequence,
        )
        return AutoModelForCausalLM.from_config(config).train()

    def ids(self) -> Tensor:
        """``[batch, sequence + 1]``."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocabulary, (self.batch, self.sequence + 1), generator=generator)


def loss_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(ids[:, :-1], shift_labels=ids[:, 1:], skip_logits=True, use_cache=False).loss


def step(model: PreTrainedModel, ids: Tensor) -> None:
    loss_of(model, ids).backward()
    model.zero_grad()


def saved_bytes(model: PreTrainedModel, ids: Tensor) -> int:
    """What the forward pass keeps for the backward pass, without parameters; what is shared counts once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, ids)
    del loss  # it has kept them all until here, so no two had the same address
    return sum(saved.values())


def growth(
    name: str, sizes: Sequence[int], rounds: int, shape: Shape, recurrences: Sequence[str] = BOTH
) -> dict[str, Any]:
    """The step at each size, and the exponents of its time and memory."""
    variants: dict[str, Callable[[], None]] = {}
    saved: dict[str, list[int]] = {recurrence: [] for recurrence in recurrences}
    for size in sizes:
        swept = replace(shape, **{name: size})
        for recurrence in recurrences:
            model, ids = swept.model(recurrence), swept.ids()
            saved[recurrence].append(saved_bytes(model, ids))
            variants[f"{recurrence} {size}"] = partial(step, model, ids)
    measured = {name: common.middle(taken) for name, taken in common.measure(variants, rounds).items()}
    seconds = {recurrence: [measured[f"{recurrence} {size}"] for size in sizes] for recurrence in recurrences}
    return {
        "sizes": list(sizes),
        "seconds": seconds,
        "saved_mb": {
            recurrence: [common.middle([found / common.MB]) for found in taken]
            for recurrence, taken in saved.items()
        },
        "seconds_exponent": {recurrence: exponent(sizes, taken) for recurrence, taken in seconds.items()},
        "saved_exponent": {recurrence: exponent(sizes, taken) for recurrence, taken in saved.items()},
    }


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """p of value ~ size^p: the slope of a line through the logarithms."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2)


def mixing(loops: Sequence[int], rounds: int, shape: Shape) -> dict[str, Any]:
    """MeSH's share of a step: by the same step without it, and by the recurrence alone."""
    shares: dict[str, list[float]] = {
        name: [] for name in ("of_step", "of_layers", "of_step_by_difference", "of_layers_by_difference")
    }
    seconds: dict[str, list[float]] = {}
    for count in loops:
        swept = replace(shape, loops=count)
        ids, (base, mesh) = swept.ids(), (swept.model(recurrence) for recurrence in BOTH)
        gradient = torch.randn(swept.batch, swept.sequence, swept.width)
        variants: dict[str, Callable[[], None]] = {
            "step_of_base": partial(step, base, ids),
            "step_of_mesh": partial(step, mesh, ids),
            "layers_of_base": partial(layers_alone, base.base_model, ids, gradient),
            "layers_of_mesh": partial(layers_alone, mesh.base_model, ids, gradient),
            "recurrence": recurrence_alone(find_stack(mesh).recurrence, *states_of(mesh, ids)),
        }
        measured = common.measure(variants, rounds)
        for name, taken in measured.items():
            seconds.setdefault(name, []).append(common.middle(taken))
        alone = measured["recurrence"]
        for part in ("step", "layers"):
            base_taken, whole = measured[f"{part}_of_base"], measured[f"{part}_of_mesh"]
            shares[f"of_{part}"].append(share(alone, whole))
            more = [there - here for here, there in zip(base_taken, whole, strict=True)]
            shares[f"of_{part}_by_difference"].append(share(more, whole))
    return {
        "loops": list(loops),
        "shape": {"width": shape.width, "sequence": shape.sequence, "batch": shape.batch},
        **{f"share_{name}": found for name, found in shares.items()},
        "seconds": seconds,
    }


def share(part: list[float], whole: list[float]) -> float:
    return round(common.middle(a / b for a, b in zip(part, whole, strict=True)), 4)


def states_of(model: PreTrainedModel, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What the stages before each boundary read and computed."""
    with torch.no_grad(), loopway.trace_stages(model) as records:
        model.base_model(ids[:, :-1], use_cache=False)
    return [record.input for record in records[:-1]], [record.output for record in records[:-1]]


def layers_alone(decoder: nn.Module, ids: Tensor, gradient: Tensor) -> None:
    """A step without head and loss."""
    decoder(ids[:, :-1], use_cache=False).last_hidden_state.backward(gradient)
    decoder.zero_grad()


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    rounds, shape = options.rounds, Shape()
    wide = replace(shape, width=512, sequence=512, batch=1, vocabulary=50304)
    loops: Sequence[int] = (1, 2, 4, 8, 16)
    sweeps: dict[str, tuple[int, ...]] = {
        "slots": (3, 5, 9, 17, 33),
        "sequence": (256, 512, 1024, 2048, 4096),
        "width": (128, 256, 512, 1024),
        "batch": (1, 2, 4, 8, 16),
    }
    if options.quick:
        rounds, shape, loops = 1, Shape(sequence=32, width=64, vocabulary=512), (1, 2, 4)
        wide = replace(shape, batch=1)
        sweeps = {"slots": (3, 5), "sequence": (32, 64), "width": (64, 128), "batch": (1, 2)}
    long = replace(shape, batch=1)
    common.report(
        {
            "loops": lambda: growth("loops", loops, rounds, shape),
            "slots": lambda: growth("slots", sweeps["slots"], rounds, shape, ["mesh"]),
            "sequence": lambda: growth("sequence", sweeps["sequence"], rounds, long),
            "width": lambda: growth("width", sweeps["width"], rounds, shape),
            "batch": lambda: growth("batch", sweeps["batch"], rounds, shape),
            "mixing": lambda: mixing(loops, rounds, wide),
        }
    )


if __name__ == "__main__":
    main()
