"""Results of probing a model: arrays and the names of their axes. Knows nothing of measuring or display."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over samples, arrays of one shape; NaN where no sample has a value."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class StateProbes:
    """The paper's three probes (section 6), and one summary number for each.

    Attributes:
        stages: names of the blocks, in order: ``prelude``, ``core[0]``, …, ``coda``.
        looped: for each block, whether it is an iteration of a loop.
        states: names of the states, in order: ``h_emb``, ``h(0)``, …, ``h(K)``, ``h_out``; one more than stages.
        relative_update: ``2·‖f(h) − h‖ / (‖f(h)‖ + ‖h‖)``, ``[stages]``, 0 to 2.
        cka: similarity of states, ``[states, states]``, 0 to 1.
        spectrum: the first singular values (at most 50) divided by the largest, ``[states, values]``.
        balance: how evenly the loops share the work, ``[]``, 0 (one does all) to 1 (even); None without a loop.
        stagnation: mean CKA between each loop iteration's input and the next one's, ``[]``; None without a loop.
        effective_rank: exp of the entropy of the normalised singular values, ``[states]``, from 1.
    """

    stages: list[str]
    looped: list[bool]
    states: list[str]
    relative_update: Spread
    cka: Spread
    spectrum: Spread
    balance: Spread | None
    stagnation: Spread | None
    effective_rank: Spread


@dataclass(frozen=True)
class RouterProbes:
    """Statistics of MeSH's routers, over T boundaries, B slots and T + 1 readable states.

    Attributes:
        boundaries: position of each pair of routers: ``after prelude``, ``after core[0]``, …
        sources: the readable states: ``h_emb``, then the output of each stage before the last.
        write, read: mean weights, ``[T, B]``.
        write_entropy, read_entropy: entropy of a token's weights in nats, ``[T]``, at most ln B.
        mixing: ``a(t, s)`` (section 3): weight of source s in the read at boundary t, ``[T, T + 1]``; NaN where the
            source isn't written yet.
        positions: first position of each group of positions, ``[groups]``; a group ends where the next one begins.
        mixing_by_position: mean of ``a(t, s)`` per group of positions, ``[groups, T, T + 1]``.
        frequencies: smallest count of any token in each frequency group, ``[groups]``. Groups run from the most
            frequent tokens to the rarest, and each has about the same share of the text.
        mixing_by_frequency: mean of ``a(t, s)`` per frequency group, ``[groups, T, T + 1]``; NaN for an empty group.
        flow: share of the read that comes through each slot, ``[T, B]``; each row has the same sum as in ``mixing``.
        unused_slots: slots that carry less than 1% of the read at every boundary.
        token_ids: the first tokens of the first sample, ``[tokens]``.
        mixing_by_token: ``a(t, s)`` of each of these tokens, ``[tokens, T, T + 1]``; NaN as in ``mixing``.
    """

    boundaries: list[str]
    sources: list[str]
    write: Spread
    read: Spread
    write_entropy: Spread
    read_entropy: Spread
    mixing: Spread
    positions: np.ndarray
    mixing_by_position: np.ndarray
    frequencies: np.ndarray
    mixing_by_frequency: np.ndarray
    flow: Spread
    unused_slots: list[int]
    token_ids: np.ndarray
    mixing_by_token: np.ndarray


@dataclass(frozen=True)
class LossChange:
    """Loss of a changed model, in nats per token.

    Attributes:
        change: the change: ``2 loops``, ``without core[0]``.
        loops: number of loops that ran; None if the change is another one.
        loss: mean over samples.
        difference: changed model minus unchanged model, mean over the same samples.
        error: standard error of the difference; NaN for a single sample.
    """

    change: str
    loops: int | None
    loss: float
    difference: float
    error: float


@dataclass(frozen=True)
class LoopProbes:
    """Contribution of each loop of a segment to the loss.

    Attributes:
        segment: name of the looped segment, ``core``.
        trained_loops: number of loops in training.
        samples: number of samples that the losses were measured on.
        loss: loss of the unchanged model, nats per token.
        by_loops: losses with fewer loops (the next stage reads the state after that many), and with more (the last
            loop is repeated).
        without_write: losses with one loop's output withheld from the recurrence; empty if there would be nothing
            else to read.
    """

    segment: str
    trained_loops: int
    samples: int
    loss: float
    by_loops: list[LossChange]
    without_write: list[LossChange]

    @property
    def one_loop_fewer(self) -> LossChange | None:
        return next((change for change in self.by_loops if change.loops == self.trained_loops - 1), None)

    @property
    def without_last_write(self) -> LossChange | None:
        return self.without_write[-1] if self.without_write else None


@dataclass(frozen=True)
class ModelProbes:
    """All results of one model.

    Attributes:
        name: the name that the user gave.
        layout, recurrence: the model's.
        cut: for a vanilla model, the layout as whose blocks it was probed; else None.
        parameters: number of parameters.
        key: hash of its weights, config and tokenizer.
        samples: number of samples read, each of ``sequence_length`` tokens.
        text: hash of their tokens; equal for models that read the same text.
        tokens: text of each of ``routers.token_ids``; empty without routers.
    """

    name: str
    family: str
    layout: str
    recurrence: str
    cut: str | None
    parameters: int
    key: str
    samples: int
    sequence_length: int
    text: str
    states: StateProbes
    routers: RouterProbes | None
    loops: list[LoopProbes]
    tokens: list[str] = field(default_factory=list)
