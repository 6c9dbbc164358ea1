"""Held-out text of a trained model: choose its samples, and compute the model's losses on them.

Knows models, runs and samples; nothing of how losses are used.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import yaml
from transformers import PreTrainedModel

from loopway.checks import one_line, wrong_value
from loopway.data.beginnings import warn_of_difference
from loopway.data.config import DataConfig
from loopway.data.run_data import open_held_out
from loopway.data.token_sources import find_tokens
from loopway.data.tokenizer import fingerprint
from loopway.data.tokens.samples import Source, TokenSamples
from loopway.data.tokens_note import NoTokensError
from loopway.errors import DataError
from loopway.inference.trained_model import TrainedModel
from loopway.modeling.sample_losses import losses_of_samples
from loopway.training.run_folder import RunFolder


def held_out_samples(trained: TrainedModel, held_out: list[str], sequence_length: int | None) -> TokenSamples:
    """Return the samples of the given token files, or else of the validation set of the model's run.

    Args:
        trained: the model.
        held_out: prepared folders or `.bin` files; empty means the run's validation set.
        sequence_length: tokens per sample; None means the run's, or else the model's context.

    Raises:
        NoTokensError: there is no validation set, or it no longer exists; the message says what to do.
        DataError: the files are damaged, or were made with another tokenizer.
        ConfigError: samples are longer than the model's context.
    """
    config = _data_config(trained.run)
    longest = getattr(trained.model.config, "max_position_embeddings", None)
    if sequence_length is not None and longest is not None and sequence_length > longest:
        raise wrong_value(
            "--sequence-length", sequence_length, f"at most the {longest} tokens that {trained.name} reads"
        )
    if not held_out:
        if (samples := _of_run(trained.run, config, sequence_length)) is None:
            raise NoTokensError("there is no validation set: give a run that has one")
        return samples
    found = [find_tokens(entry, field="data.validation") for entry in held_out]
    for folder in (folder for tokens in found for folder in tokens.folders):
        if folder.manifest["tokenizer"]["fingerprint"] != fingerprint(trained.tokenizer):  # type: ignore[arg-type]
            raise DataError(
                f"{folder.folder}: was made with another tokenizer than {trained.name}; prepare its text with "
                f"--tokenizer set to that model"
            )
        warn_of_difference(trained.tokenizer, folder.beginning, str(folder.folder))
    vocab_size = trained.model.config.vocab_size
    for tokens in found:
        tokens.check_ids(vocab_size)
    length = sequence_length or (config.sequence_length if config else None)
    length = length or longest
    if length is None:
        raise DataError(f"{trained.name}: its config has no context length; give --sequence-length")
    mask = config.mask_documents if config else False
    return TokenSamples(
        [Source(tokens.files) for tokens in found], length, mask_documents=mask, vocab_size=vocab_size
    )


@torch.no_grad()
def sample_losses(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> list[float]:
    """Return the summed loss of every sample, in nats.

    Args:
        model: the model.
        batch: `input_ids`, `shift_labels` and, if documents are masked, `position_ids`, [batch, seq].
    """
    inputs = {key: value.to(model.device) for key, value in batch.items()}
    targets = inputs.pop("shift_labels")
    sums, _ = losses_of_samples(model, inputs, targets)
    return sums.tolist()


def document_error(sums: np.ndarray, targets: np.ndarray, documents: np.ndarray) -> float | None:
    """Standard error of a loss per token, in nats; None with one document.

    Samples of one document are correlated, so the error is computed over documents, not samples or tokens.

    Args:
        sums: loss of every sample, or its difference between two models, ``[samples]``.
        targets: number of targets of every sample, ``[samples]``.
        documents: the document in which every sample begins, ``[samples]``.
    """
    total = targets.sum()
    residuals = np.bincount(documents, weights=sums - sums.sum() / total * targets)[np.unique(documents)]
    count = len(residuals)
    return None if count < 2 else math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(total)


class Difference(NamedTuple):
    """One variant's loss minus another's, with standard errors; None if they can't be computed.

    Attributes:
        value: nats per token.
        document_error: over documents only, for exactly these models.
        error: over documents and seeds.
    """

    value: float
    document_error: float | None
    error: float | None


def paired_difference(a: np.ndarray, b: np.ndarray, targets: np.ndarray, documents: np.ndarray) -> Difference:
    """Return a's loss minus b's, and its standard errors.

    Differences are paired: both models read the same text, and its difficulty cancels. The spread of the per-seed
    differences is added in quadrature.

    Args:
        a, b: summed loss of every sample, ``[seeds, samples]``, in nats; seeds in the same order.
        targets: number of targets of every sample, ``[samples]``.
        documents: the document in which every sample begins, ``[samples]``.
    """
    differences = a - b
    per_sample, total = differences.mean(0), targets.sum()
    difference = float(per_sample.sum() / total)
    error, seeds = document_error(per_sample, targets, documents), len(differences)
    if error is None or seeds < 2:
        return Difference(difference, error, None)
    of_seeds = math.sqrt(np.var(differences.sum(1) / total, ddof=1) / seeds)
    return Difference(difference, error, math.hypot(error, of_seeds))


def _of_run(run: RunFolder | None, config: DataConfig | None, length: int | None) -> TokenSamples | None:
    if run is None or config is None:
        return None
    if length is not None:
        config = config.model_copy(update={"sequence_length": length})
    return open_held_out(config, run.data_places, run.tokens)


def _data_config(run: RunFolder | None) -> DataConfig | None:
    """Return the data section of a run's config, read without its plugins."""
    if run is None:
        return None
    try:
        return DataConfig(**yaml.safe_load(run.config.read_text(encoding="utf-8"))["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{run.config}: is not a run's config: {one_line(error)}") from None
