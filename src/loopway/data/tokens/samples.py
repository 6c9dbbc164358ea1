"""Fixed-length samples of token files, in an order that depends only on the seed and the sample's index.

Documents are concatenated and cut regardless of their boundaries. With `mask_documents`, attention doesn't cross a
boundary: position ids restart at every document, and transformers' attention masks recognise several sequences by them
(without an attention mask and without a cache).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from loopway.data.tokens.file import TokenFile
from loopway.data.tokens.order import EpochOrder, MixedOrder, SpreadOrder
from loopway.errors import DataError

IGNORED_LABEL = -100  # default ignore_index of PyTorch's cross entropy


@dataclass(frozen=True)
class Source:
    """Token files that form one source, and its weight in a mixture: any positive number."""

    files: Sequence[TokenFile]
    weight: float | None = None


def samples_per_epoch(num_tokens: int, sequence_length: int) -> int:
    """Return the number of samples of `sequence_length` + 1 tokens; each begins with the previous one's last token."""
    return max(num_tokens - 1, 0) // sequence_length


class TokenSamples(Dataset[dict[str, torch.Tensor]]):
    """Samples of `sequence_length` tokens and their labels.

    An item holds `input_ids` int64[sequence_length] and `shift_labels` int64[sequence_length], the token after each.
    The two may share memory: copy before changing one. With `mask_documents` it also holds `position_ids`
    int64[sequence_length], which restart at every document, and the label before a document's first token is -100. An
    item depends only on the files, the arguments and its index.

    Without weights, each row is used once per epoch: in file order if `seed` is None, else shuffled in every epoch. With
    weights, each source has its rounded share of every 1,000 consecutive samples, and uses all of its rows before any
    row again. An epoch is as many samples as there are rows, and the seed also determines each sample's source.

    Args:
        sources: the token files.
        sequence_length: input tokens per sample.
        sampling: how files become rows of `sequence_length` + 1 tokens. "packed" cuts each file into rows that begin
            with the previous row's last token: each token but the first is predicted once per epoch, and an incomplete
            last row is dropped. "preshuffled" uses the file's own sequences, unchanged and in order, whatever the seed.
        seed: seed of the order.
        num_samples: number of samples, which may span several epochs; defaults to one epoch.
        at_most: keep at most this many samples of an epoch, evenly spread in file order; for validation.
        mask_documents: see above.
        vocab_size: check every sample for ids outside this vocabulary when it is read.

    Raises:
        DataError: files hold no whole sample; preshuffled sequences have another length, or are combined with
            `mask_documents` (they have no document boundaries); only some sources have weights; weights are invalid
            (see :func:`block_counts`); or, when an item is read, an id lies outside the vocabulary.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sequence_length: int,
        *,
        sampling: Literal["packed", "preshuffled"] = "packed",
        seed: int | None = None,
        num_samples: int | None = None,
        at_most: int | None = None,
        mask_documents: bool = False,
        vocab_size: int | None = None,
    ) -> None:
        if sampling == "preshuffled" and mask_documents:
            raise DataError(
                "data.mask_documents: preshuffled sequences have no document boundaries; set it to false, or "
                "data.sampling to packed"
            )
        self.sequence_length, self.mask_documents, self.vocab_size = (
            sequence_length,
            mask_documents,
            vocab_size,
        )
        self._preshuffled = sampling == "preshuffled"
        # distance in tokens between the beginnings of two rows
        self._stride = sequence_length + 1 if self._preshuffled else sequence_length
        self._files = [file for source in sources for file in source.files]
        rows = [[self._rows(file) for file in source.files] for source in sources]
        self._first_rows = [0, *accumulate(count for counts in rows for count in counts)]
        self._order = self._make_order(sources, [sum(counts) for counts in rows], seed)
        self.samples_per_epoch = self._first_rows[-1]
        if at_most is not None and at_most < self.samples_per_epoch:
            self._order, num_samples = SpreadOrder(self.samples_per_epoch, at_most), at_most
        self.num_samples = self.samples_per_epoch if num_samples is None else num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        file, start, tokens = self._read(index)
        ids = tokens.astype(np.int64)
        if self.vocab_size is not None:
            _check_ids(file, start, ids, self.vocab_size)
        inputs, labels = ids[:-1], ids[1:]
        if not self.mask_documents:
            return {"input_ids": torch.from_numpy(inputs), "shift_labels": torch.from_numpy(labels)}
        begins = file.document_begins(start + 1, start + self._stride + 1) - start  # in 1..sequence_length
        labels = labels.copy()
        labels[begins - 1] = IGNORED_LABEL
        edges = np.concatenate(([0], begins, [self.sequence_length]))
        positions = np.arange(self.sequence_length) - np.repeat(edges[:-1], np.diff(edges))
        item = {"input_ids": inputs, "shift_labels": labels, "position_ids": positions}
        return {name: torch.from_numpy(values) for name, values in item.items()}

    def document_of_samples(self) -> np.ndarray:
        """Return the index, over all files, of the document in which each sample begins: int64[num_samples].

        Reads the whole indices of the files: for validation sets only.
        """
        documents, before = [], 0
        for file, (first, last) in zip(self._files, pairwise(self._first_rows), strict=True):
            ends = np.cumsum(file.document_lengths)
            starts = np.arange(last - first) * self._stride
            documents.append(before + np.searchsorted(ends, starts, side="right"))
            before += len(ends)
        return np.concatenate(documents)[[self._order.row(index) for index in range(self.num_samples)]]

    def _rows(self, file: TokenFile) -> int:
        if not self._preshuffled:
            return samples_per_epoch(file.num_tokens, self.sequence_length)
        self._check_sequence(file, 0, file.sequence_size(0))
        if file.num_tokens != file.num_sequences * self._stride:
            raise DataError(
                f"{file.prefix}: {file.num_tokens} tokens are not {file.num_sequences} preshuffled sequences of "
                f"{self._stride}; all must have the same length, or set data.sampling to packed"
            )
        return file.num_sequences

    def _check_sequence(self, file: TokenFile, number: int, size: int) -> None:
        if size != self._stride:
            raise DataError(
                f"{file.prefix}: sequence {number} has {size} tokens, not sequence_length {self.sequence_length} + 1; "
                f"set data.sequence_length to {size - 1}, or data.sampling to packed"
            )

    def _make_order(
        self, sources: Sequence[Source], rows: list[int], seed: int | None
    ) -> EpochOrder | MixedOrder | SpreadOrder:
        weights = [source.weight for source in sources if source.weight is not None]
        if weights and len(weights) < len(sources):
            raise DataError("some sources have a weight and some have none; give a weight to all or to none")
        key = None if seed is None or self._preshuffled else (seed,)
        if not weights:
            self._check_long_enough(self._files, sum(rows))
            return EpochOrder(sum(rows), key)
        for source, count in zip(sources, rows, strict=True):
            self._check_long_enough(source.files, count)
        orders = [EpochOrder(count, key and (*key, number)) for number, count in enumerate(rows)]
        return MixedOrder(orders, weights, seed)

    def _check_long_enough(self, files: Sequence[TokenFile], rows: int) -> None:
        if not files:
            raise DataError("a source without token files; give it at least one")
        if rows == 0:
            longest = max(files, key=lambda file: file.num_tokens)
            raise DataError(
                f"{longest.prefix}: {longest.num_tokens} tokens are fewer than one sample of sequence_length "
                f"{self.sequence_length} + 1; give more text or shorten data.sequence_length"
            )

    def _read(self, index: int) -> tuple[TokenFile, int, np.ndarray]:
        """Return the sample's file, its position in the file, and its tokens, [sequence_length + 1]."""
        row = self._order.row(index)
        number = bisect_right(self._first_rows, row) - 1
        file, row = self._files[number], row - self._first_rows[number]
        start = row * self._stride
        if not self._preshuffled:
            return file, start, file.read(start, start + self.sequence_length + 1)
        tokens = file.sequence(row)
        self._check_sequence(file, row, len(tokens))
        return file, start, tokens


def _check_ids(file: TokenFile, start: int, ids: np.ndarray, vocab_size: int) -> None:
    """Raise :class:`DataError` if an id lies outside the vocabulary; `ids` int64[tokens] begin at `start` in the file."""
    unsigned = ids.view(np.uint64)  # negative ids become large
    at = unsigned.argmax()  # faster than max
    if unsigned.item(at) >= vocab_size:
        raise DataError(
            f"{file.prefix}: token {start + at} is {ids[at]}, outside the vocabulary 0..{vocab_size - 1}; give the "
            f"tokenizer that the file was made with, or regenerate the file"
        )
