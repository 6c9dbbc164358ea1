"""How many instructions is the recurrence alone, with and without MeSH's buffer?

    python benchmarks/instructions.py [--width 512] [--sequence 512]

Forward and backward between random states in float32, on one thread, as callgrind counts it through torch's own timer:
there is no noise of times in it. It needs valgrind. The last line is JSON.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import common
import torch
from recurrence_alone import BufferMeSH, recurrence_alone
from torch.utils.benchmark import Timer

from loopway.layout import Layout
from loopway.recurrence import RecurrenceOptions, build_recurrence, register_recurrence

LOOPS = (2, 4, 8, 16)
VARIANTS = ("mesh", "buffer")


def counted(width: int, sequence: int, loops: Sequence[int]) -> dict[str, Any]:
    setup = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import instructions
runs = instructions.runs({width}, {sequence}, {list(loops)})
"""
    # torch's timer starts `python`, which must be this one.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    timer = Timer("next(runs)()", setup=setup)
    repeats = 2 * len(loops) * len(VARIANTS) - 1  # a run before them isn't counted
    stats = timer.collect_callgrind(1, repeats=repeats, collect_baseline=False)  # type: ignore[misc]
    counts: dict[tuple[int, str], int] = dict(
        zip(product(loops, VARIANTS), (run.counts() for run in stats[::2]), strict=True)
    )

    def by_variant(value: Callable[[int, str], float]) -> dict[str, dict[str, float]]:
        return {
            variant: {layout_of(count): common.middle([value(count, variant)]) for count in loops}
            for variant in VARIANTS
        }

    return {
        "millions": by_variant(lambda count, variant: counts[count, variant] / 1e6),
        "for_each_element": by_variant(
            lambda count, variant: counts[count, variant] / ((count + 1) * sequence * width)
        ),
        "buffer_over_mesh": {
            layout_of(count): common.middle([counts[count, "buffer"] / counts[count, "mesh"]])
            for count in loops
        },
    }


def layout_of(loops: int) -> str:
    return f"1+1R{loops}+1"


def runs(width: int, sequence: int, loops: Sequence[int]) -> Iterator[Callable[[], None]]:
    """Every run twice, since the first one does more: what is made once."""
    register_recurrence("buffer", BufferMeSH)
    for count, variant in product(loops, VARIANTS):
        options = RecurrenceOptions(Layout.parse(layout_of(count)), hidden_size=width)
        inputs, outputs = torch.randn(2, count + 1, 1, sequence, width)
        yield from [recurrence_alone(build_recurrence(variant, options), [*inputs], [*outputs])] * 2


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--sequence", type=int, default=512)
    chosen = parser.parse_args()
    width, sequence, loops = chosen.width, chosen.sequence, LOOPS
    if chosen.quick:
        width, sequence, loops = 64, 32, LOOPS[:2]
    common.report({"recurrence": partial(counted, width, sequence, loops)})


if __name__ == "__main__":
    main()
