"""Fixed-length samples cut from a token file, in order or shuffled anew in each epoch.

Documents are concatenated and cut without regard to their boundaries. Whether attention may cross a boundary is the
choice ``mask_documents``: with it, position ids restart at every document, from which transformers' attention masks
see that the sample is several sequences (without an attention mask and without a cache).

Knows nothing of text, tokenizers or batches.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from loopway.data.token_file import TokenFile
from loopway.errors import DataError

IGNORED_LABEL = -100  # of PyTorch's cross entropy


def samples_per_epoch(num_tokens: int, sequence_length: int) -> int:
    """How many samples of ``sequence_length`` + 1 tokens, each beginning at the last token of the one before."""
    return max(num_tokens - 1, 0) // sequence_length


class PackedSamples(Dataset[dict[str, torch.Tensor]]):
    """Samples of ``sequence_length`` tokens and their labels.

    Within an epoch each token but the first is predicted exactly once; an end shorter than a sample is dropped.
    ``seed`` None keeps the order of the file; otherwise index i is sample ``permutation[i % n]`` of epoch ``i // n``,
    so that an item depends on the seed and its index alone. ``num_samples`` (default: one epoch) may span many epochs.

    An item holds ``input_ids`` int64[sequence_length] and ``shift_labels`` int64[sequence_length], the token after
    each. With ``mask_documents`` it also holds ``position_ids`` int64[sequence_length], which restart at every
    document, and the first token of a document is nobody's label (-100).

    Raises :class:`DataError` if the file has no whole sample.
    """

    def __init__(
        self,
        token_file: TokenFile,
        sequence_length: int,
        *,
        seed: int | None = None,
        num_samples: int | None = None,
        mask_documents: bool = False,
    ) -> None:
        self.samples_per_epoch = samples_per_epoch(token_file.num_tokens, sequence_length)
        if self.samples_per_epoch == 0:
            raise DataError(
                f"{token_file.prefix}: {token_file.num_tokens} tokens are fewer than one sample of sequence_length "
                f"{sequence_length} + 1; give more text or shorten data.sequence_length"
            )
        self.token_file = token_file
        self.sequence_length = sequence_length
        self.seed = seed
        self.num_samples = self.samples_per_epoch if num_samples is None else num_samples
        self.mask_documents = mask_documents
        lengths = token_file.document_lengths
        self._document_starts = np.cumsum(lengths) - lengths
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        length = self.sequence_length
        start = self._sample_at(index) * length
        tokens = torch.from_numpy(self.token_file.tokens[start : start + length + 1].astype(np.int64))
        item = {"input_ids": tokens[:-1], "shift_labels": tokens[1:].clone()}
        if self.mask_documents:
            first, last = np.searchsorted(self._document_starts, [start + 1, start + length + 1])
            begins = self._document_starts[first:last] - start  # in 1..length
            item["shift_labels"][begins - 1] = IGNORED_LABEL
            origins = np.zeros(length + 1, dtype=np.int64)
            origins[begins] = begins
            origins = np.maximum.accumulate(origins)[:-1]
            item["position_ids"] = torch.from_numpy(np.arange(length) - origins)
        return item

    def _sample_at(self, index: int) -> int:
        epoch, position = divmod(index, self.samples_per_epoch)
        if self.seed is None:
            return position
        if epoch != self._epoch:  # one epoch's permutation at a time: indices mostly rise
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.samples_per_epoch)
            self._epoch = epoch
        return int(self._permutation[position])
