"""The perplexity of held-out token files: exp of the mean loss per token, as in the paper's first column.

Knows models and samples; nothing of the harness.
"""

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from loopway.checks import one_line
from loopway.data.config import DataConfig
from loopway.data.loading import open_data
from loopway.data.samples import IGNORED_LABEL, Source, TokenSamples
from loopway.data.token_sources import find_tokens, names_tokens
from loopway.data.tokenizer import fingerprint
from loopway.errors import DataError
from loopway.evaluation.answers import Answers
from loopway.evaluation.models import EvaluatedModel
from loopway.evaluation.results import TaskResult
from loopway.training.run_folder import RunFolder


def held_out_samples(
    evaluated: EvaluatedModel, held_out: list[str], sequence_length: int | None
) -> TokenSamples | None:
    """The samples to read: of the token files that are given, else of the validation set of the model's run.

    Args:
        held_out: prepared folders or `.bin` files; none: the run's own.
        sequence_length: tokens a sample; None: what the run was trained with, else what the model can read.

    Raises:
        DataError: the files are damaged, or were made with another tokenizer.
    """
    config = _data_config(evaluated.run)
    if not held_out:
        return _of_run(evaluated.run, config, sequence_length)
    found = [find_tokens(entry, field="data.validation") for entry in held_out]
    for folder in (folder for tokens in found for folder in tokens.folders):
        if folder.manifest["tokenizer"]["fingerprint"] != fingerprint(evaluated.tokenizer):  # type: ignore[arg-type]
            raise DataError(
                f"{folder.folder}: was made with another tokenizer than {evaluated.name}; prepare its text with "
                f"--tokenizer of that model"
            )
    vocab_size = evaluated.model.config.vocab_size
    for tokens in found:
        tokens.check_ids(vocab_size)
    length = sequence_length or (config.sequence_length if config else None)
    length = length or getattr(evaluated.model.config, "max_position_embeddings", None)
    if length is None:
        raise DataError(f"{evaluated.name}: doesn't say how many tokens it reads; give --sequence-length")
    mask = config.mask_documents if config else False
    return TokenSamples(
        [Source(tokens.files) for tokens in found], length, mask_documents=mask, vocab_size=vocab_size
    )


def held_out_perplexity(
    model: PreTrainedModel, samples: TokenSamples, answers: Answers, batch_size: int
) -> TaskResult:
    """exp of the loss over every target of the samples; its standard error is that of the loss, over documents."""
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
        losses = _losses(model, batch)
        for index, loss in zip(new[number * batch_size :], losses, strict=False):
            sums[index] = loss
            answers.add_partial("held_out", [identities[index]], loss)
    loss = float(sums.sum() / targets.sum())
    error = _error_of_mean(sums, targets, samples.document_of_samples())
    perplexity = math.exp(min(loss, 700.0))
    return TaskResult(
        metric="perplexity",
        value=perplexity,
        error=None if error is None else perplexity * error,
        metrics={"perplexity": perplexity, "loss": loss},
        version=hashlib.sha256("".join(identities).encode()).hexdigest()[:12],
        samples=len(samples),
    )


def _of_run(run: RunFolder | None, config: DataConfig | None, length: int | None) -> TokenSamples | None:
    if run is None or config is None:
        return None
    # A comparison's runs share its data.
    folder = next((place for place in (run.data, run.path.parents[1] / "data") if place.exists()), None)
    if folder is None and not any(map(names_tokens, config.train)):
        return None  # prepared text that is gone
    if length is not None:
        config = config.model_copy(update={"sequence_length": length})
    return open_data(config, folder or run.data).validation_samples()


def _data_config(run: RunFolder | None) -> DataConfig | None:
    """The data section of a run's config, read without its plugins."""
    if run is None:
        return None
    try:
        return DataConfig(**yaml.safe_load(run.config.read_text(encoding="utf-8"))["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{run.config}: is no config of a run: {one_line(error)}") from None


def _identity(sample: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in sample.values())).hexdigest()


@torch.no_grad()
def _losses(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> list[float]:
    """Summed loss of every sample, [batch], in nats."""
    inputs = {key: value.to(model.device) for key, value in batch.items()}
    targets = inputs.pop("shift_labels")
    logits = model(**inputs, use_cache=False).logits
    return [
        F.cross_entropy(logit.float(), target, reduction="sum", ignore_index=IGNORED_LABEL).item()
        for logit, target in zip(logits, targets, strict=True)
    ]


def _error_of_mean(sums: np.ndarray, targets: np.ndarray, documents: np.ndarray) -> float | None:
    """Standard error of the loss per token; documents, not tokens, are what was drawn at random."""
    residuals = np.bincount(documents, weights=sums - sums.sum() / targets.sum() * targets)
    residuals = residuals[np.unique(documents)]
    count = len(residuals)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(targets.sum())
