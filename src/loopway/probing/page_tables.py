"""The tables of the page of ``loopway probe``: all measured numbers.

Knows results and tables; nothing of the page around them.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from loopway.probing.names import frequency_names
from loopway.probing.state_figures import last_loop_state
from loopway.report.numbers import DOWN, NOTHING, UP, measured, plain
from loopway.report.page import Table
from loopway.traces.findings import LoopProbes, LossChange, ModelProbes, RouterProbes, Spread, StateProbes

_DEVIATION = "mean ± standard deviation over samples"


def glance_table(probes: Sequence[ModelProbes], labels: Sequence[str]) -> Table:
    """Return the overview, one row per model: one number per probe, and the last loop's effect on the loss."""
    rows = [
        (
            label,
            _number(found.states.balance),
            _number(found.states.stagnation),
            _cells(found.states.effective_rank)[last_loop_state(found.states)],
            _changes(found, lambda loops: loops.one_loop_fewer),
            _changes(found, lambda loops: loops.without_last_write),
        )
        for found, label in zip(probes, labels, strict=True)
    ]
    signs = (f"balance {UP}", f"stagnation {DOWN}", f"rank of h(K) {UP}")
    heads = ("model", *signs, "one loop fewer", "last write withheld")
    return Table(
        f"One number for each question: {_DEVIATION}; of the last two, which are changes of the loss in nats per token, "
        f"the mean ± its standard error. {UP} and {DOWN} mark the healthier sign, which isn’t better quality.",
        heads,
        rows,
    )


def state_tables(
    caption: str,
    probes: Sequence[ModelProbes],
    labels: Sequence[str],
    names: Callable[[StateProbes], Sequence[str]],
    values: Callable[[StateProbes], Spread],
) -> list[Table]:
    """Return tables with one row per model and one column per stage or state; one table per set of columns."""
    columns = [tuple(names(found.states)) for found in probes]
    return [
        Table(
            f"{caption}: {_DEVIATION}.",
            ("model", *heads),
            [
                (label, *_cells(values(found.states)))
                for found, label, own in zip(probes, labels, columns, strict=True)
                if own == heads
            ],
        )
        for heads in dict.fromkeys(columns)
    ]


def similarity_tables(probes: Sequence[ModelProbes], labels: Sequence[str]) -> list[Table]:
    """Return one table per model: CKA of all pairs of states."""
    return [
        Table(
            f"CKA of all pairs of states, {label}: {_DEVIATION}.",
            ("state", *found.states.states),
            _rows(found.states.states, found.states.cka),
            folded=True,
        )
        for found, label in zip(probes, labels, strict=True)
    ]


def spectrum_tables(probes: Sequence[ModelProbes], labels: Sequence[str]) -> list[Table]:
    """Return one table per model: the singular values of all states."""
    return [
        Table(
            f"Singular values divided by the largest, {label}: {_DEVIATION}.",
            ("number", *found.states.states),
            _rows(
                [str(number) for number in range(1, found.states.spectrum.mean.shape[1] + 1)],
                Spread(found.states.spectrum.mean.T, found.states.spectrum.std.T),
            ),
            folded=True,
        )
        for found, label in zip(probes, labels, strict=True)
    ]


def router_tables(found: ModelProbes, routers: RouterProbes, label: str) -> list[Table]:
    """Return the tables of a model's routers: mixing, its components, and its differences between tokens."""
    slots = [f"slot {slot}" for slot in range(routers.write.mean.shape[1])]
    tables = [
        Table(
            f"Mixing weights a(t, s) of {label}, how much of each source is read at each boundary: {_DEVIATION}.",
            ("boundary", *routers.sources),
            _rows(routers.boundaries, routers.mixing),
        ),
        Table(
            f"Entropy of a token's weights of {label}, in nats (ln {len(slots)} = {math.log(len(slots)):.3f} at most): "
            f"{_DEVIATION}.",
            ("boundary", "write", "read"),
            [
                (boundary, write, read)
                for boundary, write, read in zip(
                    routers.boundaries,
                    _cells(routers.write_entropy),
                    _cells(routers.read_entropy),
                    strict=True,
                )
            ],
        ),
    ]
    for caption, weights in (
        ("Write weights", routers.write),
        ("Read weights", routers.read),
        ("What is read through each slot", routers.flow),
    ):
        rows = _rows(routers.boundaries, weights)
        tables.append(Table(f"{caption}, {label}: {_DEVIATION}.", ("boundary", *slots), rows, folded=True))
    last = found.sequence_length - 1
    positions = _ranges(routers.positions, [*(routers.positions[1:] - 1), last])
    for caption, head, groups, values in (
        ("Mixing weights by position of the token", "positions", positions, routers.mixing_by_position),
        (
            "Mixing weights by how often the token occurs in the text, from frequent to rare",
            "occurs at least",
            frequency_names(routers.frequencies),
            routers.mixing_by_frequency,
        ),
    ):
        rows = [
            (boundary, group, *map(plain, means))
            for number, boundary in enumerate(routers.boundaries)
            for group, means in zip(groups, values[:, number], strict=True)
        ]
        heads = ("boundary", head, *routers.sources)
        tables.append(Table(f"{caption}, {label}: mean.", heads, rows, text_columns=2, folded=True))
    return tables


def loop_tables(probes: Sequence[ModelProbes], labels: Sequence[str]) -> list[Table]:
    """Return the losses of changed models: by the number of loops, and with withheld writes."""
    kinds: list[tuple[str, Callable[..., list[LossChange]]]] = [
        ("Validation loss by the number of loops", lambda loops: loops.by_loops),
        ("Validation loss with one loop's output withheld", lambda loops: loops.without_write),
    ]
    tables = []
    for caption, changes in kinds:
        rows = [
            (
                label,
                loops.segment,
                change.change + (" (as trained)" if change.loops == loops.trained_loops else ""),
                plain(change.loss),
                NOTHING if change.loops == loops.trained_loops else _difference(change),
                f"{loops.samples:,}",
            )
            for found, label in zip(probes, labels, strict=True)
            for loops in found.loops
            for change in changes(loops)
        ]
        heads = ("model", "segment", "change", f"loss {DOWN}", "difference", "samples")
        if rows:
            tables.append(
                Table(f"{caption}, in nats per token; difference ± standard error.", heads, rows, 3)
            )
    return tables


def _changes(found: ModelProbes, wanted: Callable[[LoopProbes], LossChange | None]) -> str:
    """Return the change of the loss for each looped segment."""
    cells = [
        (f"{loops.segment}: " if len(found.loops) > 1 else "") + _difference(change)
        for loops in found.loops
        if (change := wanted(loops)) is not None
    ]
    return ", ".join(cells) or NOTHING


def _rows(names: Sequence[str], spread: Spread) -> list[tuple[str, ...]]:
    return [(name, *cells) for name, cells in zip(names, _cells(spread), strict=True)]


def _cells(spread: Spread) -> list:
    """Return an array's cells, nested as the array is."""
    if spread.mean.ndim == 1:
        return [measured(mean, std) for mean, std in zip(spread.mean, spread.std, strict=True)]
    return [_cells(Spread(mean, std)) for mean, std in zip(spread.mean, spread.std, strict=True)]


def _number(spread: Spread | None) -> str:
    return NOTHING if spread is None else measured(float(spread.mean), float(spread.std))


def _difference(change: LossChange) -> str:
    return measured(change.difference, change.error, sign=True)


def _ranges(first: np.ndarray, last: Sequence[int]) -> list[str]:
    return [
        f"{start:,}" if start == end else f"{start:,}–{end:,}" for start, end in zip(first, last, strict=True)
    ]
