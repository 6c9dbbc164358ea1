"""Statistics of MeSH's routers: which slots they write and read, and how much of each state is read (section 3).

Knows stage records and token ids; nothing of how a model is run.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loopway.layout import Stage
from loopway.modeling.stack import StageRecord
from loopway.traces.findings import RouterProbes
from loopway.traces.measures import entropy
from loopway.traces.spread import RunningSpread

GROUPS = 10
"""Number of groups of tokens by frequency."""
UNUSED = 0.01
"""A slot is unused if its share of the read never exceeds this."""
_MOST_TOKENS, _MOST_WEIGHTS = 200, 10_000  # limits of per-token results, for a page of reasonable size


def has_routers(records: Sequence[StageRecord]) -> bool:
    """Return whether every boundary has router weights over slots."""
    boundaries = records[:-1]
    return bool(boundaries) and all(
        record.write is not None and record.read is not None and record.weights is not None
        for record in boundaries
    )


class TokenGroups:
    """Groups of tokens from the most frequent to the rarest, each with about the same share of a text.

    Args:
        counts: count of each token id in the text, ``[vocabulary]``.
    """

    def __init__(self, counts: np.ndarray) -> None:
        order = np.argsort(-counts, kind="stable")
        before = np.concatenate([[0], np.cumsum(counts[order])[:-1]])
        self.of_token = np.empty(len(counts), dtype=np.int64)
        self.of_token[order] = np.minimum(before * GROUPS // max(counts.sum(), 1), GROUPS - 1)
        self.least = np.full(GROUPS, np.nan)
        for group in range(GROUPS):
            found = counts[(self.of_token == group) & (counts > 0)]
            self.least[group] = found.min() if len(found) else np.nan


class GroupedMean:
    """Mean of ``a(t, s)`` over the tokens of each group."""

    def __init__(self, groups: int, boundaries: int) -> None:
        self._sums = np.zeros((groups, boundaries, boundaries + 1))
        self._counts = np.zeros(groups)

    def add(self, mixing: np.ndarray, groups: np.ndarray) -> None:
        """Add a sample: its ``mixing``, ``[seq, T, T + 1]``, and the group of each token, ``[seq]``."""
        np.add.at(self._sums, groups, mixing)
        np.add.at(self._counts, groups, 1)

    def mean(self) -> np.ndarray:
        """Return the means, ``[groups, T, T + 1]``, NaN for a group without tokens."""
        with np.errstate(invalid="ignore"):
            return self._sums / self._counts[:, None, None]


class RouterProbe:
    """Collects routing weights over samples.

    Args:
        stages: the stages that run.
        sequence_length: tokens per sample.
        groups: groups of tokens by frequency.
    """

    def __init__(self, stages: Sequence[Stage], sequence_length: int, groups: TokenGroups) -> None:
        self.stages = stages[:-1]
        self.groups = groups
        # 0, 1, 2–3, 4–7, …: finer at the beginning.
        self.positions = np.array(
            [0, *(2**power for power in range(max(sequence_length - 1, 0).bit_length()))]
        )
        self._of_position = np.searchsorted(self.positions, np.arange(sequence_length), side="right") - 1
        self._by_position = GroupedMean(len(self.positions), len(self.stages))
        self._by_frequency = GroupedMean(GROUPS, len(self.stages))
        weights_of_token = len(self.stages) * (len(self.stages) + 3) // 2
        self._kept = max(1, min(_MOST_TOKENS, _MOST_WEIGHTS // weights_of_token))
        self._first: tuple[np.ndarray, np.ndarray] | None = None  # token ids, mixing
        names = ("write", "read", "write_entropy", "read_entropy", "mixing", "flow")
        self._found = {name: RunningSpread() for name in names}

    def add(self, records: Sequence[StageRecord], input_ids: Tensor) -> None:
        """Add the records of one forward pass of ``input_ids``, ``[batch, seq]``."""
        boundaries = records[: len(self.stages)]
        write = torch.stack([_double(record.write) for record in boundaries], dim=2)  # [batch, seq, T, slots]
        read = torch.stack([_double(record.read) for record in boundaries], dim=2)
        mixing = write.new_full((*write.shape[:3], len(self.stages) + 1), torch.nan)
        for boundary, record in enumerate(boundaries):
            mixing[:, :, boundary, : boundary + 2] = _double(record.weights)
        held = write.cumsum(dim=2)  # total weight written to each slot; the first starts with the embeddings
        held[..., 0] += 1
        per_token = {"write": write, "read": read, "mixing": mixing, "flow": read * held}
        per_token |= {"write_entropy": entropy(write), "read_entropy": entropy(read)}
        for sample, ids in enumerate(input_ids.cpu().numpy()):
            for name, values in per_token.items():
                self._found[name].add(values[sample].mean(dim=0))
            tokens = mixing[sample].cpu().numpy()
            if self._first is None:
                self._first = ids[: self._kept].copy(), tokens[: self._kept].copy()
            self._by_position.add(tokens, self._of_position[: len(ids)])
            self._by_frequency.add(tokens, self.groups.of_token[ids])

    def result(self) -> RouterProbes:
        """Return the statistics over all samples."""
        assert self._first is not None, "there must be at least one sample"
        found = {name: values.spread() for name, values in self._found.items()}
        flow = found["flow"]
        shares = flow.mean / flow.mean.sum(axis=1, keepdims=True)
        return RouterProbes(
            boundaries=[f"after {stage.name}" for stage in self.stages],
            sources=["h_emb", *(stage.name for stage in self.stages)],
            positions=self.positions,
            mixing_by_position=self._by_position.mean(),
            frequencies=self.groups.least,
            mixing_by_frequency=self._by_frequency.mean(),
            unused_slots=[int(slot) for slot in np.flatnonzero((shares < UNUSED).all(axis=0))],
            token_ids=self._first[0],
            mixing_by_token=self._first[1],
            **found,
        )


def _double(weights: Tensor | None) -> Tensor:
    assert weights is not None, "only for stages with routers"
    return weights.double()
