"""What does MeSH cost a training step beside plain recursion, in time and in memory, with and without its buffer?

    python benchmarks/recurrence.py [--rounds 7] [--widths 512 1024]

A step is forward, backward and fused AdamW in float32 on 512 random tokens, with Pythia's vocabulary. The last line is
JSON.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from recurrence_alone import BufferMeSH
from scaling import HEAD, saved_bytes
from torch import Tensor
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, PreTrainedModel

import loopway
from loopway.training.allocator import return_large_blocks

VARIANTS = ("base", "mesh", "buffer")
CASES = [(core, loops) for core in (1, 4) for loops in (2, 4, 8)]
SEQUENCE, VOCABULARY = 512, 50304


def new_model(recurrence: str, core: int, loops: int, width: int, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = loopway.pythia_config(
        "14m",
        layout=f"1+{core}R{loops}+1",
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
        model(ids[:, :-1], shift_labels=ids[:, 1:], skip_logits=True, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def case(width: int, core: int, loops: int, sequence: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """One layout with plain recursion, with MeSH and with MeSH's buffer."""
    loopway.register_recurrence("buffer", BufferMeSH)
    return_large_blocks()  # as a run does
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
        "times_base_at_best": {
            name: common.middle([min(seconds[name]) / min(seconds["base"])]) for name in ("mesh", "buffer")
        },
        "saved_over_base": {name: round(saved[name] / saved["base"], 4) for name in ("mesh", "buffer")},
        "states_a_boundary": round(extra / (loops + 1), 3),
    }


def by_figure(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``{figure: {case: value}}``."""
    figures = next(iter(cases.values()))
    return {figure: {name: found[figure] for name, found in cases.items()} for figure in figures}


def of_width(
    width: int, cases: list[tuple[int, int]], cases_a_process: int | None, *sizes: int
) -> dict[str, Any]:
    # A process for each, or small blocks of the models before would keep memory of the large ones' size.
    context = common.ready_processes()
    with context.Pool(1, maxtasksperchild=cases_a_process) as process:
        return by_figure(
            {
                f"1+{core}R{loops}+1": process.apply(case, (width, core, loops, *sizes))
                for core, loops in cases
            }
        )


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024])
    options = parser.parse_args()
    scale, cases_a_process, sizes = 1, 1, (SEQUENCE, VOCABULARY, options.rounds)
    if options.quick:
        scale, cases_a_process, sizes = 8, None, (32, 512, 1)
    common.report(
        {
            f"width_{width}": partial(of_width, width // scale, CASES, cases_a_process, *sizes)
            for width in options.widths
        }
    )


if __name__ == "__main__":
    main()
