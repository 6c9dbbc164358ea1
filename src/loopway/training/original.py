"""The original model of a retrofit: its loss is the target, and its logits can be distilled.

Distillation as in Hinton et al. (arXiv 1503.02531). Knows models and samples; nothing of the Trainer.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, default_data_collator

from loopway.data.tokenizer import fingerprint
from loopway.data.tokens.samples import TokenSamples
from loopway.errors import ConfigError
from loopway.files import damage_told, write_json
from loopway.modeling.loss import distillation_loss
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.modeling.sample_losses import losses_of_samples
from loopway.training.retrofit_record import RECORD, read_record


class OriginalConfig(BaseModel):
    """The original model, and its share of the loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1)] | None = None
    """A folder or a name on the Hub. None: the one that the pretrained model says it was made from."""
    distillation: float = Field(default=0.0, ge=0, le=1)
    """The share of the loss that its predictions give; the text's own tokens give the rest. 0: it isn't learned from."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Divides both models' logits where they are compared."""


@dataclass(frozen=True)
class Teacher:
    """A model whose predictions the student learns beside the text.

    Attributes:
        model: frozen, in eval mode.
        share: of the loss.
    """

    model: PreTrainedModel
    share: float
    temperature: float

    def loss(
        self, logits: Tensor, inputs: dict[str, Any], targets: Tensor, num_items: Tensor | int | None
    ) -> Tensor:
        """(1 − share)·cross entropy + share·temperature²·KL(teacher ‖ student), in nats per target.

        Args:
            logits: the student's, ``[batch, seq, vocab]``.
            inputs: what it was called with.
            targets: already shifted, ``[batch, seq]``; positions without one count in neither part.
            num_items: what to divide the sum by instead of the number of targets.
        """
        with torch.no_grad():
            taught = self.model(**inputs).logits
        return distillation_loss(
            logits, taught, targets, share=self.share, temperature=self.temperature, num_items=num_items
        )


@dataclass(frozen=True)
class Original:
    """The original of a run's retrofit, and its role in the run.

    Attributes:
        name: a folder or a name on the Hub.
        config: of the run.
        is_named: whether the config names it, or only the pretrained model does.
    """

    name: str
    config: OriginalConfig
    is_named: bool

    @classmethod
    def find(cls, config: OriginalConfig | None, pretrained: str | None) -> "Original | None":
        """Return the model that the config names, or else the pretrained model's record; None if neither does.

        Raises:
            ConfigError: the ``original:`` section exists, but neither it nor the record names a model.
        """
        if pretrained is None:
            return None
        name = config.model if config else None
        if name is None and (record := read_record(pretrained)):
            name = record["source"]
        if name is None and config is not None:
            raise ConfigError(
                f"original.model is missing, and {pretrained} has no {RECORD} that names its original"
            )
        return cls(name, config or OriginalConfig(), config is not None) if name else None

    def check(self, pretrained: str) -> None:
        """Raise ConfigError unless it can be opened and has the tokens of the retrofit. Reads no weights."""
        folder, made = PretrainedFolder(self.name), PretrainedFolder(pretrained)
        size, expected = (each.config().vocab_size for each in (folder, made))  # type: ignore[attr-defined]
        if size != expected:
            raise ConfigError(
                f"original.model: {self.name} predicts {size} tokens and {pretrained} {expected}; give the model that "
                f"it was made from"
            )
        if fingerprint(folder.tokenizer()) != fingerprint(made.tokenizer()):  # type: ignore[arg-type]
            raise ConfigError(f"original.model: {self.name} has another tokenizer than {pretrained}")

    def open(self, dtype: str | torch.dtype) -> PreTrainedModel:
        """The model, frozen; ``dtype`` is that of its weights, ``auto`` what they are stored in."""
        folder = PretrainedFolder(self.name)
        return folder.model(every_weight=True, dtype=dtype, device_map=None).eval().requires_grad_(False)


@torch.no_grad()
def validation_loss(model: PreTrainedModel, samples: TokenSamples, batch_size: int) -> float:
    """The mean loss per target over all samples, in nats."""
    total, targets = 0.0, 0
    for batch in DataLoader(samples, batch_size, collate_fn=default_data_collator):
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        wanted = inputs.pop("shift_labels")
        sums, counts = losses_of_samples(model, inputs, wanted)
        total += sums.double().sum().item()
        targets += int(counts.sum())
    return total / targets


def read_line(path: Path) -> float | None:
    """The original's validation loss that :func:`write_line` noted, or None."""
    if not path.exists():
        return None
    with damage_told(path, "delete it and rerun: the original, where it can be opened, is measured again"):
        return float(json.loads(path.read_text(encoding="utf-8"))["validation_loss"])


def write_line(path: Path, name: str, loss: float) -> None:
    write_json(path, {"model": name, "validation_loss": loss})
