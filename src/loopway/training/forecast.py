"""Costs of a run, estimated before its first step."""

from dataclasses import dataclass

import torch
from rich.filesize import decimal
from transformers import PreTrainedConfig, TrainingArguments

from loopway.modeling.accounting import parameter_report
from loopway.training.config.arguments import samples_per_step
from loopway.training.measurements import device_name, product_flops_per_second


@dataclass(frozen=True)
class Forecast:
    """Costs of a run.

    Attributes:
        device: of each worker.
        workers: that train together.
        parameters: of the model.
        with_adamw: whether the optimizer keeps AdamW's two moments of each.
        tokens_per_step: of all workers.
        steps: None if they follow from epochs of data that isn't prepared yet.
        tokens_per_second_at_best: speed if all workers only multiplied matrices, at this machine's measured rate.
    """

    device: str
    workers: int
    parameters: int
    with_adamw: bool
    tokens_per_step: int
    steps: int | None
    tokens_per_second_at_best: float

    @classmethod
    def of(cls, model: PreTrainedConfig, arguments: TrainingArguments, sequence_length: int) -> "Forecast":
        """Count parameters and measure the machine, in about a second; allocates no weights."""
        report = parameter_report(model, context_length=sequence_length)
        dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32
        speed = product_flops_per_second(arguments.device, dtype)
        return cls(
            device=device_name(arguments.device),
            workers=arguments.world_size,
            parameters=report.total,
            with_adamw=arguments.optim in ("adamw_torch", "adamw_torch_fused"),
            tokens_per_step=samples_per_step(arguments) * sequence_length,
            steps=arguments.max_steps if arguments.max_steps > 0 else None,
            tokens_per_second_at_best=arguments.world_size * speed / report.training_flops,
        )

    def text(self, steps_done: int = 0) -> str:
        """Return one line: device, parameters, memory of weights, gradients and optimizer, tokens, and the least remaining time."""
        workers = f"{self.workers} × " if self.workers > 1 else ""
        told = [
            f"{self.parameters:,} parameters on {workers}{self.device}",
            decimal(self.parameters * 16) + " of weights, gradients and AdamW's moments"
            if self.with_adamw
            else decimal(self.parameters * 8) + " of weights and gradients",
        ]
        if self.steps is None:
            return ", ".join([*told, f"steps of {self.tokens_per_step:,} tokens"])
        tokens = self.steps * self.tokens_per_step
        seconds = (self.steps - steps_done) * self.tokens_per_step / self.tokens_per_second_at_best
        return ", ".join([*told, f"{tokens:,} tokens in {self.steps:,} steps", _duration(seconds)])


def _duration(seconds: float) -> str:
    """A lower bound, in whole units."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if seconds >= 2 * length:
            return f"at least {int(seconds / length)} {unit}"
    return "seconds at best"
