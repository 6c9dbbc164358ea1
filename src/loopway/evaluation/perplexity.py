"""The perplexity of held-out text: exp of the mean loss per token, as in the paper's first column.

Knows models and samples; nothing of the harness.
"""

import hashlib
import math

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from loopway.data.tokens.samples import IGNORED_LABEL, TokenSamples
from loopway.evaluation.answers import Answers
from loopway.evaluation.results import SampleLosses, TaskResult
from loopway.inference.held_out import document_error, sample_losses


def held_out_perplexity(
    model: PreTrainedModel, samples: TokenSamples, answers: Answers, batch_size: int
) -> TaskResult:
    """Return exp of the mean loss over all targets; its standard error is over documents."""
    sums, targets = np.zeros(len(samples)), np.zeros(len(samples))
    new, identities = [], []
    for index in range(len(samples)):
        sample = samples[index]
        targets[index] = (sample["shift_labels"] != IGNORED_LABEL).sum().item()
        identities.append(_identity(sample))
        known = answers.get("held_out", [identities[index]])
        if known is None:
            new.append(index)
        else:
            sums[index] = known
    loader = DataLoader(torch.utils.data.Subset(samples, new), batch_size=batch_size)
    for number, batch in enumerate(loader):
        losses = sample_losses(model, batch)
        for index, loss in zip(new[number * batch_size :], losses, strict=False):
            sums[index] = loss
            answers.add_partial("held_out", [identities[index]], loss)
    loss = float(sums.sum() / targets.sum())
    documents = samples.document_of_samples()
    error = document_error(sums, targets, documents)
    perplexity = math.exp(min(loss, 700.0))
    return TaskResult(
        metric="perplexity",
        value=perplexity,
        error=None if error is None else perplexity * error,
        metrics={"perplexity": perplexity, "loss": loss},
        version=hashlib.sha256("".join(identities).encode()).hexdigest()[:12],
        samples=len(samples),
        losses=SampleLosses(sums, targets, documents),
    )


def _identity(sample: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in sample.values())).hexdigest()
