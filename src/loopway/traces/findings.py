"""What probing a model finds: arrays with names for their axes. Knows nothing of how it is found and shown."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over samples, arrays of one shape; NaN where there is nothing to take a mean of."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class StateProbes:
    """The paper's three probes (section 6), and one number for each of them.

    Attributes:
        stages: names of the blocks, in order: ``prelude``, ``core[0]``, …, ``coda``.
        looped: for each of them, whether it is an iteration of a loop.
        states: names of the states, in order: ``h_emb``, ``h(0)``, …, ``h(K)``, ``h_out``; one more than stages.
        relative_update: ``2·‖f(h) − h‖ / (‖f(h)‖ + ‖h‖)``, ``[stages]``, 0 to 2.
        cka: similarity of states, ``[states, states]``, 0 to 1.
        spectrum: the first singular values (at most 50) divided by the largest, ``[states, values]``.
        balance: how evenly the loops share the work, ``[]``, 0 to 1; None without a loop.
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
    """What MeSH's routers do, over T boundaries, B slots and the T + 1 states that can be read.

    Attributes:
        boundaries: where each pair of routers stands: ``after prelude``, ``after core[0]``, …
        sources: what can be read: ``h_emb``, then the output of each stage before the last.
        write, read: mean weights, ``[T, B]``.
        write_entropy, read_entropy: of a token's weights, in nats, ``[T]``; ln B is the most.
        mixing: ``a(t, s)`` (section 3): how much of source s is read at boundary t, ``[T, T + 1]``; NaN where the
            source isn't written yet.
        positions: first position of each group of positions, ``[groups]``; the next group's first ends it.
        mixing_by_position: mean of ``a(t, s)`` in each, ``[groups, T, T + 1]``.
        frequencies: of each group of tokens, the least count that a token in it has in the text, ``[groups]``; groups
            from the most frequent tokens to the rarest, each about the same share of the text.
        mixing_by_frequency: mean of ``a(t, s)`` in each, ``[groups, T, T + 1]``; NaN for a group without tokens.
        flow: how much of what is read comes through each slot, ``[T, B]``; a row sums to that of ``mixing``.
        unused_slots: slots through which less than 1% of what is read comes, at every boundary.
        token_ids: the first tokens of the first sample, ``[tokens]``.
        mixing_by_token: ``a(t, s)`` of each of them, ``[tokens, T, T + 1]``; NaN as in ``mixing``.
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
    """Loss of a changed model, in nats per token, on samples of its own number.

    Attributes:
        change: what was changed: ``2 loops``, ``without core[0]``.
        loops: loops that ran; None where it isn't their number that was changed.
        loss: mean over samples.
        difference: to the model as it is, mean over the same samples.
        error: standard error of the difference; NaN for a single sample.
    """

    change: str
    loops: int | None
    loss: float
    difference: float
    error: float


@dataclass(frozen=True)
class LoopProbes:
    """What each loop of a segment contributes.

    Attributes:
        segment: name of the looped segment, ``core``.
        trained_loops: how often it loops in training.
        samples: on how many samples the losses were measured.
        loss: of the model as it is, nats per token.
        by_loops: with fewer loops (what follows the loop reads what it would read after so many), and with more
            (the last is repeated).
        without_write: with one loop's output withheld from the recurrence; empty where nothing else could be read.
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
    """Everything that was found of one model.

    Attributes:
        name: how the user called it.
        layout, recurrence: of the model.
        cut: of a vanilla model, the layout as whose blocks it was probed; else None.
        parameters: how many it has.
        key: a hash of its weights, config and tokenizer.
        samples: how many were read, each of ``sequence_length`` tokens.
        text: a hash of their tokens: equal for models that read the same.
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
