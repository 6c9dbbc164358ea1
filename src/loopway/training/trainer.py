"""Hugging Face's Trainer for fixed-length samples whose targets are already shifted.

Differences to the Trainer: samples come in the data set's order, the mean loss is over targets instead of batches, evaluation
keeps one loss per sample, a non-finite loss stops the run, checkpoints are atomic, and nothing is pickled beside the weights.
All overrides of the Trainer's internals are here, each with its reason; `loopway.modeling.registration` names the releases of
transformers that they were tested with. Knows nothing of configs and run folders.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.modeling_utils import unwrap_model
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from loopway.checks import one_line
from loopway.children import parent_in
from loopway.files import write_json
from loopway.modeling.sample_losses import losses_of_samples
from loopway.modeling.stack import core_parameters
from loopway.modeling.weights import first_bad_weight
from loopway.training.callbacks import RunLog, begin_loading
from loopway.training.checkpoint import ASIDE, new_aside, retire, seal
from loopway.training.failures import TrainingError
from loopway.training.non_finite import first_bad_gradient, first_bad_module
from loopway.training.original import Teacher
from loopway.training.spikes import Spikes

# accelerate calls a worker's CPU cpu:0, to which torch 2.11 can't load.
torch.serialization.register_package(
    30, lambda _: None, lambda storage, location: storage if location.startswith("cpu:") else None
)

_UNLOGGED = "unlogged_loss.json"


def one_device_a_worker(fields: dict[str, Any]) -> TrainingArguments:
    """Return the arguments; without a launcher the Trainer would take all GPUs (DataParallel), and a batch for each."""
    if fields.get("use_cpu"):
        # Else transformers makes the process group without its timeout.
        timeout = timedelta(seconds=fields.get("ddp_timeout", TrainingArguments.ddp_timeout))
        PartialState(cpu=True, backend=fields.get("ddp_backend"), timeout=timeout)
    arguments = TrainingArguments(**fields)
    arguments._n_gpu = min(arguments.n_gpu, 1)
    unset_hf_deepspeed_config()  # or with ZeRO-3 models would be built in pieces, without their own initial values
    return arguments


@dataclass(frozen=True)
class SampleLosses:
    """Losses of the validation set, one entry per sample, in the set's order."""

    step: int
    """The optimizer step after which they were measured."""
    sums: np.ndarray
    """Summed loss of the sample's targets, in nats, [samples]."""
    targets: np.ndarray
    """Number of targets per sample, [samples]."""

    @property
    def mean(self) -> float:
        """The loss per target over the whole set."""
        return float(self.sums.sum(dtype=np.float64) / self.targets.sum())


class SampleTrainer(Trainer):
    """Takes samples of `input_ids`, `shift_labels` and, where documents are masked, `position_ids`, all [seq]."""

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[TrainerCallback],
        spike_deviations: float | None = None,
        core_steps: int = 0,
        teacher: Teacher | None = None,
        schedule: Callable[[int, int, int], float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of transformers' Trainer, and:

        Args:
            tokenizer: saved with every checkpoint.
            spike_deviations: see :class:`Spikes`.
            core_steps: number of first steps that train only looped layers and the recurrence.
            teacher: for distillation, on the device of the model.
            schedule: the learning rate's factor as a function of step, steps and warm-up steps; None: the one that the
                arguments name.
        """
        # Not as `processing_class`: its collator adds an attention mask, which would override the masking of documents, and
        # Llama gives its padding token, often the end of text, no embedding.
        self.spikes = Spikes(spike_deviations)
        super().__init__(
            **kwargs,
            callbacks=[self.spikes, *callbacks],
            data_collator=default_data_collator,
            compute_metrics=self._keep_sample_losses,
        )
        self.remove_callback(PrinterCallback)
        # Before the trackers of transformers, whose logs it extends.
        self.callback_handler.callbacks.sort(key=lambda callback: not isinstance(callback, RunLog))
        self.tokenizer = tokenizer
        self.core_steps = core_steps
        self.teacher = teacher
        self.schedule = schedule
        self.sample_losses: SampleLosses | None = None
        """Losses of the latest evaluation."""
        self._step_loss: torch.Tensor | float = 0.0
        """Summed over the batches of this worker so far; after the last one, over all workers."""
        self._step_inputs: list[dict[str, Any]] = []
        self._aside: Path | None = None

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        unset_hf_deepspeed_config()  # or models, those of parameter reports too, would be built in pieces under ZeRO-3

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        if self.schedule is not None and self.lr_scheduler is None:
            factor, warmup = self.schedule, self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,  # type: ignore[arg-type]
                lambda step: factor(step, num_training_steps, warmup),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        # The Trainer counts targets only where there are "labels" too.
        return super()._get_num_items_in_batch(
            [batch | {"labels": batch["shift_labels"]} for batch in batch_samples], device
        )

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        # Loading processes end with this one; those of the Trainer survive a SIGKILL.
        loader = super()._get_dataloader(*args, **kwargs)
        torchs_own = getattr(loader, "base_dataloader", loader)  # inside of accelerate's
        parent = parent_in(torchs_own.multiprocessing_context)
        torchs_own.worker_init_fn = partial(begin_loading, torchs_own.worker_init_fn, parent)
        return loader

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs = {**inputs, "use_cache": False}
        if self.teacher is None:
            return super().compute_loss(model, {**inputs, "skip_logits": True}, *args, **kwargs)
        return self._taught_loss(self.teacher, model, inputs, *args, **kwargs)

    def _taught_loss(
        self,
        teacher: Teacher,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        targets = inputs.pop("shift_labels")
        loss = teacher.loss(model(**inputs).logits, inputs, targets, num_items_in_batch)
        # As the Trainer does with the model's loss: the mean over workers divides by their number.
        return loss if num_items_in_batch is None else loss * self.accelerator.num_processes

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self._step_inputs.append(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._step_loss = self._step_loss + loss
        if not self.accelerator.sync_gradients:
            return loss
        # Once an optimizer step, before the update, and the same in all workers: a sum keeps what isn't finite.
        total = self.accelerator.reduce(self._step_loss, reduction="sum")
        assert isinstance(total, torch.Tensor)
        self._step_loss = total.item()
        if not math.isfinite(self._step_loss):
            raise self._fault(f"the loss became {self._step_loss}", self._first_bad_module(model))
        if self.state.global_step < self.core_steps:
            self._keep_core_gradients(model)
        return loss

    def _keep_core_gradients(self, model: Any) -> None:
        """Drop all other gradients before they are clipped; the optimizer skips weights without one."""
        core = {id(parameter) for parameter in core_parameters(unwrap_model(model))}
        for parameter in model.parameters():
            if id(parameter) not in core:
                parameter.grad = None

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Check the gradient's norm before every update; with fp16 a scaler skips steps that overflow."""
        if hasattr(grad_norm, "full_tensor"):  # with torch 2.9, item() gives the norm of this worker's shards
            grad_norm = grad_norm.full_tensor()
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise self._fault("a gradient isn't finite", self._first_bad_gradient(model))
        self._leave_out_spike(model, norm)
        self._step_inputs, self._step_loss = [], 0.0
        return norm

    def _leave_out_spike(self, model: Any, norm: Any) -> None:
        # Each worker's loss was multiplied by their number, which the mean of the gradients takes back.
        values = {"loss": float(self._step_loss) / self.args.world_size}
        if norm is not None:
            values["grad_norm"] = float(norm)
        if self.spikes.judge(*values.values()):
            model.zero_grad()  # the optimizer passes over weights without a gradient
            self.log({f"skipped_{name}": value for name, value in values.items()})

    def _first_bad_module(self, model: Any) -> str | None:
        """Repeat this step's batches with the same weights, up to the first non-finite output."""
        for inputs in self._step_inputs:
            whole = self._prepare_inputs(inputs)
            found = first_bad_module(unwrap_model(model), lambda whole=whole: self.compute_loss(model, whole))
            if found:
                return found
        return None

    def _first_bad_gradient(self, model: Any) -> str | None:
        """Recompute the gradients: clipping spread the non-finite norm."""
        model.zero_grad()
        for inputs in self._step_inputs:
            super().training_step(model, inputs)
        return first_bad_gradient(unwrap_model(model))

    def _fault(self, what: str, place: str | None) -> TrainingError:
        args, step = self.args, self.state.global_step
        of_step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        where = f", first in {place}" if place else ""
        return TrainingError(
            f"{what} at step {step + 1} (training samples {step * of_step} to {(step + 1) * of_step - 1}){where}; the "
            f"weights weren't touched; {self._way_out()}"
        )

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Summed loss and number of targets of every sample, [batch] each, in the place of logits and labels."""
        inputs = self._prepare_inputs(inputs)
        targets = inputs.pop("shift_labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            return None, *losses_of_samples(model, inputs, targets)

    def _keep_sample_losses(self, prediction: EvalPrediction) -> dict[str, float]:
        sums, targets = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        self.sample_losses = SampleLosses(self.state.global_step, sums, targets)
        if not math.isfinite(self.sample_losses.mean):
            self.check_weights()
            raise TrainingError(
                f"the validation loss of step {self.state.global_step} is {self.sample_losses.mean}, though all weights "
                f"are finite: activations overflow; {self._way_out()}"
            )
        return {"loss": self.sample_losses.mean}

    def check_weights(self) -> None:
        """Raise TrainingError in all workers if a weight isn't finite in one of them."""
        assert self.model is not None
        name = first_bad_weight(unwrap_model(self.model))
        failed = torch.tensor(0 if name is None else 1, device=self.args.device)
        if int(self.accelerator.reduce(failed, reduction="sum")):  # type: ignore[arg-type]
            what = f"{name} isn't finite" if name else "another worker says which"
            raise TrainingError(
                f"step {self.state.global_step} left weights that no run can resume from: {what}; {self._way_out()}"
            )

    def _way_out(self) -> str:
        return (
            f"a new run with a lower learning_rate, longer warmup or bf16 instead of fp16 may help; checkpoints from before "
            f"are in {self.args.output_dir}"
        )

    def _get_output_dir(self, trial: Any) -> str:
        # Write checkpoints aside while they are incomplete.
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write aside, and seal when all workers have written their part. Weights that aren't finite are never sealed."""
        self.check_weights()
        checkpoints = Path(str(self.args.output_dir))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = checkpoints / ASIDE

        def finish() -> None:
            seal(aside / name, checkpoints / name)
            aside.rmdir()
            retire(checkpoints, self.state.global_step, self.args.save_total_limit)

        trouble = f"the checkpoint of step {self.state.global_step} can't be written to {checkpoints}"
        advice = "those from before are whole: rerun to resume when the cause is gone"
        unlogged = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()  # type: ignore[union-attr]
        unlogged = {"after_step": self._globalstep_last_logged, "sums": unlogged}
        all_or_none = partial(self._all_or_none, trouble=trouble, advice=advice)
        try:
            all_or_none(partial(new_aside, checkpoints) if self.args.should_save else None)
            self._aside = aside
            all_or_none(partial(super()._save_checkpoint, model, trial))
            all_or_none(
                partial(write_json, aside / name / _UNLOGGED, unlogged) if self.args.should_save else None
            )
            all_or_none(finish if self.args.should_save else None)
        except TrainingError:
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            self._aside = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        self._load(resume_from_checkpoint, super()._load_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._load(checkpoint, super()._load_optimizer_and_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # Called once in a resume, after the Trainer has set its sums of losses to 0.
        self._load(checkpoint, super()._load_rng_state)
        self._load(checkpoint, self._load_unlogged_loss)

    def _load_unlogged_loss(self, checkpoint: str) -> None:
        """Restore the losses since the last logged line; the next line then covers the same steps as without the resume."""
        path = Path(checkpoint) / _UNLOGGED
        if not path.exists():  # a checkpoint of an earlier release
            return
        unlogged = json.loads(path.read_text(encoding="utf-8"))
        sums, worker = unlogged["sums"], self.args.process_index
        self._tr_loss += sums[worker] if len(sums) == self.args.world_size else sum(sums) / len(sums)
        self._globalstep_last_logged = unlogged["after_step"]

    def _load(self, checkpoint: str | None, load: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Load one part of a checkpoint, which another worker has found whole."""
        if checkpoint is not None:
            advice = f"rerun to resume when the cause is gone, or remove {checkpoint} to resume from an earlier one"
            self._all_or_none(
                partial(load, checkpoint, *args, **kwargs),
                trouble=f"{checkpoint} can't be read",
                advice=advice,
            )

    def _all_or_none(self, act: Callable[[], None] | None, *, trouble: str, advice: str) -> None:
        """Write or read a part of a checkpoint; where one worker can't, all end with the same error."""
        problem = None
        try:
            if act is not None:
                act()
        except (EOFError, OSError, RuntimeError, UnpicklingError, SafetensorError) as error:
            problem = error
        failed = torch.tensor(0 if problem is None else 1, device=self.args.device)
        if not int(self.accelerator.reduce(failed, reduction="sum")):  # type: ignore[arg-type]
            return
        why = "another worker says why" if problem is None else one_line(problem)
        raise TrainingError(f"{trouble}: {why}; {advice}") from problem

    def save_final_model(self, folder: Path) -> None:
        """Save the model as :meth:`save_model` does. If one worker can't, all raise the same TrainingError."""
        self._all_or_none(
            partial(self.save_model, str(folder)),
            trouble=f"the final model can't be written to {folder.parent}",
            advice=f"rerun to resume when the cause is gone; checkpoints are in {self.args.output_dir}",
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            try:
                self.tokenizer.save_pretrained(folder)
            except Exception as error:  # on a full disk, tokenizers raises nothing more exact
                raise RuntimeError(f"the tokenizer: {one_line(error)}") from error
            # A pickle that the next release may not read; the run's config.yaml holds the same.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
