"""Small recursive models, and what probing them could find."""

import numpy as np

from loopway.traces.findings import (
    LoopProbes,
    LossChange,
    ModelProbes,
    RouterProbes,
    Spread,
    StateProbes,
)

TOKENS = [
    "The",
    " state",
    " of",
    "\n\n",
    "the",
    "  ",
    "<b>un",
    "ion",
    "日₁",
    "日₂",
    "\t",
    ".",
    *(40 * [" and", " so", " on"]),
]


def spread(generator: np.random.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Spread:
    return Spread(generator.uniform(low, high, shape), generator.uniform(0, (high - low) / 10, shape))


def made_up_probes(name: str = "mesh", *, loops: int = 2, seed: int = 0, routers: bool = True) -> ModelProbes:
    """What probing of a 1+1R{loops}+1 model could find: random numbers in the right shapes and ranges."""
    draw = np.random.default_rng(seed)
    core = [f"core[{loop}]" for loop in range(loops)]
    stages = ["prelude", *core, "coda"]
    states = ["h_emb", *(f"h({loop})" for loop in range(loops + 1)), "h_out"]
    boundaries, slots, sources = loops + 1, loops + 3, ["h_emb", "prelude", *core]
    cka = spread(draw, len(states), len(states))
    cka = Spread((cka.mean + cka.mean.T) / 2 * (1 - np.eye(len(states))) + np.eye(len(states)), cka.std)
    decay = np.exp(-np.outer(draw.uniform(0.05, 0.3, len(states)), np.arange(50)))
    unwritten = np.where(np.tri(boundaries, boundaries + 1, 1, dtype=bool), 0.0, np.nan)
    found = RouterProbes(
        boundaries=[f"after {stage}" for stage in stages[:-1]],
        sources=sources,
        write=spread(draw, boundaries, slots),
        read=spread(draw, boundaries, slots),
        write_entropy=spread(draw, boundaries, high=float(np.log(slots))),
        read_entropy=spread(draw, boundaries, high=float(np.log(slots))),
        mixing=Spread(
            draw.uniform(0, 1, unwritten.shape) + unwritten, np.full(unwritten.shape, 0.02) + unwritten
        ),
        positions=np.array([0, 1, 2, 4, 8, 16, 32]),
        mixing_by_position=draw.uniform(0, 1, (7, *unwritten.shape)) + unwritten,
        frequencies=np.array([1900.0, np.nan, 300, 150, 90, 40, 20, 10, 5, 1]),
        mixing_by_frequency=draw.uniform(0, 1, (10, *unwritten.shape)) + unwritten,
        flow=spread(draw, boundaries, slots, high=0.3),
        unused_slots=[slots - 1],
        token_ids=np.arange(len(TOKENS)),
        mixing_by_token=draw.uniform(0, 1, (len(TOKENS), *unwritten.shape)) + unwritten,
    )
    found.mixing_by_frequency[1] = np.nan  # a group without tokens
    changes = [
        LossChange(
            f"{count} loop{'s' * (count != 1)}",
            count,
            4 + 0.5 * abs(count - loops),
            0.5 * abs(count - loops),
            0.01,
        )
        for count in range(loops + 3)
    ]
    writes = [LossChange(f"without {stage}", None, 4.3, 0.3, 0.02) for stage in core]
    return ModelProbes(
        name=f"runs/{name}",
        family="gpt_neox",
        layout=f"1+1R{loops}+1",
        recurrence="mesh" if routers else "base",
        cut=None,
        parameters=1_234_567,
        key="0" * 64,
        samples=20,
        sequence_length=64,
        text="1" * 64,
        states=StateProbes(
            stages=stages,
            looped=[stage in core for stage in stages],
            states=states,
            relative_update=spread(draw, len(stages), high=1.8),
            cka=cka,
            spectrum=Spread(decay, 0.1 * decay),
            balance=spread(draw),
            stagnation=spread(draw),
            effective_rank=spread(draw, len(states), low=1, high=40),
        ),
        routers=found if routers else None,
        loops=[LoopProbes("core", loops, 10, 4.0, changes, writes if routers else [])],
        tokens=TOKENS if routers else [],
    )
