"""Run held-out samples through a model and record every stage, as input of all probes.

Knows models and samples; nothing of how the records are used.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import PreTrainedModel

from loopway.data.tokens.samples import TokenSamples
from loopway.modeling.stack import StageRecord, trace_stages

Batch = dict[str, Tensor]
_TOKENS_AT_ONCE = 4096


def evenly_spread(samples: TokenSamples | Subset[Batch], at_most: int) -> Subset[Batch]:
    """Return at most this many samples, evenly spread over the text."""
    count = min(at_most, len(samples))
    return Subset(samples, np.linspace(0, len(samples) - 1, count).round().astype(int).tolist())


def batches_of(samples: Subset[Batch]) -> DataLoader:
    """Return batches of about 4,096 tokens: enough to use a device well, with memory for the states of all stages."""
    length = samples[0]["input_ids"].shape[0]
    return DataLoader(samples, batch_size=max(1, _TOKENS_AT_ONCE // length))


def count_tokens(samples: Subset[Batch], vocab_size: int) -> tuple[np.ndarray, str]:
    """Return the count of each token id, ``[vocab]``, and a hash of the text, equal for models that read the same."""
    counts, digest = np.zeros(vocab_size, dtype=np.int64), hashlib.sha256()
    for index in range(len(samples)):
        ids = samples[index]["input_ids"].numpy()
        counts += np.bincount(ids, minlength=vocab_size)
        digest.update(ids.tobytes())
    return counts, digest.hexdigest()


@torch.no_grad()
def traced(
    model: PreTrainedModel, batches: DataLoader | Sequence[Batch], cut: str | None = None
) -> Iterator[tuple[Batch, list[StageRecord]]]:
    """Yield each batch with the stage records of its forward pass, which computes logits of one position only.

    Args:
        model: a recursive model in eval mode.
        batches: ``input_ids`` and, if documents are masked, ``position_ids``, ``[batch, seq]``; labels are ignored.
        cut: for a vanilla model, the layout as whose blocks it is recorded.
    """
    for batch in batches:
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "shift_labels"}
        with trace_stages(model, cut=cut) as records:
            # Call the whole model, since it may be wrapped (sharding, autocast); the head gets a single position.
            model(**inputs, use_cache=False, logits_to_keep=1)
        yield batch, records
