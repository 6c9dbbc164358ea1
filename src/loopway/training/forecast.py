"""What a run will take, as far as it can be told before its first step."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, TrainingArguments

from loopway.modeling.accounting import parameter_report
from loopway.training.config.arguments import samples_per_step
from loopway.training.measurements import device_name, product_flops_per_second

_STATE_BYTES = 16  # a parameter in float32, its gradient and AdamW's two moments


@dataclass(frozen=True)
class Forecast:
    """Costs of a run.

    Attributes:
        device: of each worker.
        workers: that train together.
        parameters: of the model.
        tokens_per_step: of all workers.
        steps: None where they follow from epochs of data that isn't there yet.
        tokens_per_second_at_best: if all workers only multiplied matrices at this one's measured speed.
    """

    device: str
    workers: int
    parameters: int
    tokens_per_step: int
    steps: int | None
    tokens_per_second_at_best: float

    @classmethod
    def of(cls, model: PreTrainedConfig, arguments: TrainingArguments, sequence_length: int) -> "Forecast":
        """Count and measure, which takes about a second; no weights are made."""
        report = parameter_report(model, context_length=sequence_length)
        dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32
        speed = product_flops_per_second(arguments.device, dtype)
        return cls(
            device=device_name(arguments.device),
            workers=arguments.world_size,
            parameters=report.total,
            tokens_per_step=samples_per_step(arguments) * sequence_length,
            steps=arguments.max_steps if arguments.max_steps > 0 else None,
            tokens_per_second_at_best=arguments.world_size * speed / report.training_flops,
        )

    def text(self, steps_done: int = 0) -> str:
        """One line: device, parameters, memory of weights, gradients and AdamW, tokens, the least time that is left."""
        workers = f"{self.workers} × " if self.workers > 1 else ""
        told = [
            f"{self.parameters:,} parameters on {workers}{self.device}",
            f"{_size(self.parameters * _STATE_BYTES)} of weights, gradients and AdamW's moments",
        ]
        if self.steps is None:
            return ", ".join([*told, f"steps of {self.tokens_per_step:,} tokens"])
        tokens = self.steps * self.tokens_per_step
        seconds = (self.steps - steps_done) * self.tokens_per_step / self.tokens_per_second_at_best
        return ", ".join(
            [*told, f"{tokens:,} tokens in {self.steps:,} steps", f"at least {_duration(seconds)}"]
        )


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 2):.0f} seconds"
