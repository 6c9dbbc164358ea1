"""What does MeSH cost a training step beside plain recursion, in time and in memory, with and without its buffer?

    python benchmarks/recurrence.py [--rounds 7] [--widths 512 1024]

A step is forward, backward and fused AdamW in float32 on 512 random tokens, with Pythia's vocabulary. The last line is
JSON.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from scaling import HEAD, layers_alone, recurrence_alone, saved_bytes
from torch import Tensor
from torch.optim import AdamW
from torch.utils.benchmark import Timer
from transformers import AutoModelForCausalLM, PreTrainedModel

import loopway
from loopway.recurrence.mesh import MeSH, over_slots

VARIANTS = ("base", "mesh", "buffer")
LOOPS = (2, 4, 8)
CASES = [(core, loops) for core in (1, 4) for loops in LOOPS]
SEQUENCE, VOCABULARY = 512, 50304
COUNTED = ("layers_of_base", "mesh", "buffer")


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


def layout_of(core: int, loops: int) -> str:
    return f"1+{core}R{loops}+1"


def new_model(recurrence: str, core: int, loops: int, width: int, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = loopway.pythia_config(
        "14m",
        layout=layout_of(core, loops),
        recurrence=recurrence,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // HEAD,
        vocab_size=vocabulary,
    )
    return AutoModelForCausalLM.from_config(config).train()


def training_step(model: PreTrainedModel, ids: Tensor) -> Callable[[], None]:
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        model(ids[:, :-1], shift_labels=ids[:, 1:], use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def case(width: int, core: int, loops: int, sequence: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """One layout with plain recursion, with MeSH and with MeSH's buffer."""
    ids = torch.randint(vocabulary, (1, sequence + 1), generator=torch.Generator().manual_seed(0))
    models = {name: new_model(name, core, loops, width, vocabulary) for name in VARIANTS}
    saved = {name: saved_bytes(model, ids) for name, model in models.items()}
    with torch.no_grad():
        logits = {name: models[name](ids).logits for name in ("mesh", "buffer")}
    torch.testing.assert_close(logits["mesh"], logits["buffer"], atol=1e-4, rtol=1e-4)
    steps = {name: training_step(model, ids) for name, model in models.items()}
    for step in steps.values():
        step()
    seconds = common.measure(steps, rounds)
    extra = (saved["mesh"] - saved["base"]) / (sequence * width * torch.float32.itemsize)
    return {
        "base_seconds": common.middle(seconds["base"]),
        "times_base": {
            name: common.times_as_fast(seconds["base"], seconds[name]) for name in ("mesh", "buffer")
        },
        "saved_over_base": {name: round(saved[name] / saved["base"], 4) for name in ("mesh", "buffer")},
        "states_a_boundary": round(extra / (loops + 1), 3),
    }


def by_figure(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``{figure: {case: value}}``."""
    figures = next(iter(cases.values()))
    return {figure: {name: found[figure] for name, found in cases.items()} for figure in figures}


def of_width(width: int, cases: list[tuple[int, int]], **sizes: int) -> dict[str, Any]:
    return by_figure({layout_of(core, loops): case(width, core, loops, **sizes) for core, loops in cases})


def instructions(width: int, loops: Sequence[int], sequence: int, *, quick: bool) -> dict[str, Any]:
    """As callgrind counts them, on one thread: free of the noise of times. Null if quick, and without valgrind."""
    counts: dict[str, dict[str, int | None]] = {
        layout_of(1, count): dict.fromkeys(COUNTED) for count in loops
    }
    if shutil.which("valgrind") and not quick:
        # torch's timer starts `python`, which must be this one.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import recurrence\n"
        setup += f"runs = recurrence.counted_runs({width}, {list(loops)}, {sequence})"
        timer = Timer("next(runs)()", setup=setup)
        repeats = 2 * len(COUNTED) * len(loops) - 1  # the very first run isn't counted
        stats = timer.collect_callgrind(1, repeats=repeats, collect_baseline=False)  # type: ignore[misc]
        second_runs = iter(stats[::2])
        for case_counts in counts.values():
            for part in COUNTED:
                case_counts[part] = next(second_runs).counts()
    figures: dict[str, Any] = {f"millions_of_{part}": {} for part in COUNTED} | {"share_of_layers": {}}
    for layout, found in counts.items():
        for part, count in found.items():
            figures[f"millions_of_{part}"][layout] = count and common.middle([count / 1e6])
        mesh, layers = found["mesh"], found["layers_of_base"]
        figures["share_of_layers"][layout] = round(mesh / layers, 4) if mesh and layers else None
    return figures


def counted_runs(width: int, loops: Sequence[int], sequence: int) -> Iterator[Callable[[], None]]:
    """What is `COUNTED`, for each number of loops; every run twice, since the first one does more."""
    loopway.register_recurrence("buffer", BufferMeSH)
    vocabulary = 512  # of no consequence: head and loss aren't counted
    ids = torch.randint(vocabulary, (1, sequence + 1), generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(1, sequence, width)
    for count in loops:
        models = {name: new_model(name, 1, count, width, vocabulary) for name in VARIANTS}
        yield from [partial(layers_alone, models["base"].base_model, ids, gradient)] * 2
        for name in ("mesh", "buffer"):
            yield from [recurrence_alone(models[name], ids)] * 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--quick", action="store_true", help="narrow models, to see that it runs")
    options = parser.parse_args()
    sizes = {"sequence": SEQUENCE, "vocabulary": VOCABULARY, "rounds": options.rounds}
    scale = 1
    if options.quick:
        scale, sizes = 8, {"sequence": 32, "vocabulary": 512, "rounds": 1}
    loopway.register_recurrence("buffer", BufferMeSH)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        f"width_{width}": partial(of_width, width // scale, CASES, **sizes) for width in options.widths
    }
    parts["instructions"] = partial(
        instructions, options.widths[0] // scale, LOOPS, sizes["sequence"], quick=options.quick
    )
    common.report(parts)


if __name__ == "__main__":
    main()
