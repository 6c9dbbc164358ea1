"""One training run, from a config to a finished run folder. Rerun to resume.

The same config, seed and machine give the same bits, interrupted or not. Knows nothing of comparisons.
"""

import contextlib
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from rich.console import Console
from transformers import PreTrainedConfig, PreTrainedModel, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from loopway.console import say, screen
from loopway.data.folder import is_prepared
from loopway.data.run_data import RunData, look_at_data, open_data, remove_other_data
from loopway.errors import ConfigError, LoopwayError
from loopway.files import write_atomically, write_json
from loopway.modeling.accounting import parameter_report
from loopway.modeling.stack import find_stack, set_recompute
from loopway.training.allocator import set_up_allocator
from loopway.training.callbacks import Interruption, ProgressBar, RunLog, perplexity
from loopway.training.checkpoint import put_in_place
from loopway.training.config.arguments import fit_to_data, samples_per_step, training_arguments
from loopway.training.config.engines import check_hub
from loopway.training.config.run_config import RunConfig
from loopway.training.extensions import own_callbacks, own_optimizer, own_schedule
from loopway.training.failures import failures_told
from loopway.training.forecast import Forecast
from loopway.training.measurements import (
    device_name,
    peak_memory_bytes,
    reset_peak_memory,
)
from loopway.training.metrics_log import MetricsLog
from loopway.training.model_card import CARD, model_card, run_sections
from loopway.training.original import Original, Teacher, read_line, validation_loss, write_line
from loopway.training.probe_log import ProbeLog
from loopway.training.provenance import note_sitting
from loopway.training.removal import remove_results
from loopway.training.retrofit_record import RECORD, origin_header, origin_section, read_record, record_text
from loopway.training.run_folder import RunFolder
from loopway.training.summary import RunSummary, library_versions
from loopway.training.tensorboard import BySteps, ByTokens
from loopway.training.trainer import SampleTrainer


def train(
    config: RunConfig,
    folder: Path | str,
    *,
    data_folder: Path | str | None = None,
    title: str | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> RunSummary:
    """Train the model of `config` in `folder`, or resume the run there. A finished run only returns its summary.

    Args:
        config: the run.
        folder: the run folder; created if it isn't there.
        data_folder: prepared data shared between runs; None is the run's `data/`, or its comparison's.
        title: name on the progress bar; None is the folder's.
        fresh: first remove the run in the folder, whatever its config; keep prepared text if it fits `config`.
        console: where progress goes; None is standard error.

    Raises:
        LoopwayError: a mistake in the config or the data, a folder of another run, another process that trains in the
            folder, a loss or weight that isn't finite, too little memory, a dead worker.
        KeyboardInterrupt: Ctrl-C, after a checkpoint of the last step.
        SystemExit: SIGTERM or SIGHUP, likewise.

    An error removes a new run that has no data, metrics or checkpoint yet, and the folder if this call made it.
    """
    run = RunFolder(Path(folder))
    model_config = config.build_model_config()
    arguments = training_arguments(config.training, run.checkpoints)
    # One worker prints what concerns all.
    console = (console or screen(stderr=True)) if arguments.should_save else Console(quiet=True)
    was_there = run.path.exists()
    with failures_told(arguments, config.training.recompute):
        with arguments.main_process_first(local=False, desc="the run folder"):
            if arguments.process_index == 0 and (fresh or not run.is_finished):
                check_hub(arguments)
            if arguments.process_index == 0 and fresh and run.config.exists():
                look_at_data(config.data)
                remove_results([run])
                remove_other_data(config.data, run.data)
            is_new = run.begin(config.to_dict(), config.plugins, arguments.world_size)
        if run.is_finished:
            if not (run.model / "config.json").exists():
                raise ConfigError(
                    f"{run.path}: finished, but its model/ is gone; put it back, or delete {run.summary} and rerun: training "
                    f"resumes from the newest checkpoint"
                )
            summary = RunSummary.read(run.summary)
            say(console, f"{run.path}: already finished, nothing to do")
            return summary
        with run.locked() if arguments.should_save else contextlib.nullcontext():
            try:
                with arguments.main_process_first(local=False, desc="data"):
                    place = data_folder or next(filter(is_prepared, run.data_places), run.data)
                    note = run.tokens if run.has_progress else None
                    data = open_data(config.data, place, note, check_pins=arguments.should_save)
                if data.notice and data_folder is None:  # a comparison prints it itself
                    say(console, data.notice)
                config.model.fit(model_config, data.tokenizer)
                data.check_ids(model_config.vocab_size)
                if arguments.should_save:
                    data.keep_identity(run.tokens, has_begun=run.has_progress)
                return _Run(
                    config, run, data, model_config, arguments, title or run.path.name, console
                ).execute()
            except BaseException:
                if is_new and not run.has_progress and not run.has_data:
                    run.abandon(keep_folder=was_there)
                raise


class _Run:
    """One sitting of a run: from its start or resume to its end."""

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        data: RunData,
        model_config: PreTrainedConfig,
        arguments: TrainingArguments,
        title: str,
        console: Console,
    ) -> None:
        self.config = config
        self.run = run
        self.data = data
        self.console = console
        self.title = title
        self.arguments = arguments
        self.checkpoint, steps_begun = self._choose_checkpoint()
        per_epoch, vocab_size = data.samples_per_epoch, model_config.vocab_size
        fit_to_data(arguments, per_epoch, validates=bool(data.validation), steps_begun=steps_begun)
        self.samples_per_step = samples_per_step(arguments)
        self.steps_per_epoch = per_epoch / self.samples_per_step
        self.train_samples = data.training_samples(
            arguments.max_steps * self.samples_per_step, vocab_size=vocab_size
        )
        self.validation_samples = data.validation_samples(vocab_size=vocab_size)
        if config.probe_every is not None and self.validation_samples is None:
            raise ConfigError("probe_every: probes read validation text; give data.validation, or omit it")
        self.tokens_per_step = self.samples_per_step * config.data.sequence_length
        self.tensorboard = BySteps(run.tensorboard)
        self.tensorboard_by_tokens = ByTokens(run.tensorboard / "by_tokens", self.tokens_per_step)
        set_seed(self.arguments.seed)
        self.model = config.model.make(model_config)
        set_recompute(self.model, config.training.recompute)
        if self.arguments.fsdp_plugin_args is not None:  # by default each layer is a unit
            layer = type(find_stack(self.model).layers[0]).__name__
            plugin: dict[str, Any] = self.arguments.fsdp_plugin_args
            plugin.setdefault("transformer_cls_names_to_wrap", layer)
        longest = getattr(model_config, "max_position_embeddings", None)
        if longest is not None and data.tokenizer.model_max_length > longest:  # 1e30 if unset
            data.tokenizer.model_max_length = longest
        self.teacher = self._meet_original()

    def _meet_original(self) -> Teacher | None:
        """Record the loss of a retrofit's original; return it as the teacher if the config asks for distillation."""
        pretrained = self.config.model.pretrained
        original = Original.find(self.config.original, pretrained)
        has_line = self.run.original.exists() or self.validation_samples is None
        if original is None or pretrained is None or (has_line and not original.config.distillation):
            return None
        try:
            original.check(pretrained)
            model = original.open("auto" if self.arguments.bf16 else torch.float32)
        except ConfigError as error:
            if original.is_named:
                raise
            say(self.console, f"{self.run.path}: without the original's loss: {error}")
            return None
        model.to(self.arguments.device)  # type: ignore[arg-type]
        with self.arguments.main_process_first(local=False, desc="the original's loss"):
            self._note_line(original.name, model)
        if not original.config.distillation:
            return None
        return Teacher(model, original.config.distillation, original.config.temperature)

    def _note_line(self, name: str, model: PreTrainedModel) -> None:
        if self.validation_samples is None or self.run.original.exists():
            return
        loss = validation_loss(model, self.validation_samples, self.arguments.eval_batch_size)
        say(self.console, f"{self.run.path}: the original, {name}, has validation loss {loss:.4f}")
        write_line(self.run.original, name, loss)

    def execute(self) -> RunSummary:
        checkpoint = self.checkpoint
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        if checkpoint:
            say(self.console, f"{self.run.path}: resuming after step {step}")
        forecast = Forecast.of(self.model.config, self.arguments, self.config.data.sequence_length)
        say(self.console, f"{self.run.path}: {forecast.text(step)}")
        if self.arguments.should_save:
            note_sitting(self.run.provenance, self.config.to_dict(), self.data, self.arguments, step)
        log = MetricsLog(self.run.metrics, step, write=self.arguments.should_save)
        run_log = RunLog(
            log,
            tokens_per_step=self.tokens_per_step,
            steps_per_epoch=self.steps_per_epoch,
            tokens_per_second_at_best=forecast.tokens_per_second_at_best,
        )
        if self.arguments.device.type == "cpu":
            set_up_allocator(self.model.num_parameters())
        reset_peak_memory(self.arguments.device)
        with Interruption(self.console) as interruption, self._bar(log) as bar:
            trainer = self._trainer([run_log, bar, interruption, *self._probes(run_log, step)])
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except BaseException:
                with contextlib.suppress(OSError):  # the first error matters more
                    self._close_tensorboard()
                raise
            self._close_tensorboard()
            if interruption.received is not None and trainer.state.global_step < trainer.state.max_steps:
                self._stop(interruption.received, trainer.state.global_step)
            trainer.check_weights()
            self._evaluate_final(trainer)
            return self._finish(trainer, run_log)

    def _choose_checkpoint(self) -> tuple[Path | None, int]:
        """Return the newest whole checkpoint and the number of steps of its run. The first worker reads them for all."""
        name, steps = None, 0
        if self.arguments.process_index == 0:
            checkpoint, broken = self.run.newest_checkpoint()
            for path, problem in broken.items():
                say(self.console, f"{path}: skipped, since it isn't whole ({problem})")
            if checkpoint:
                state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
                name, steps = checkpoint.name, state.max_steps
        name, steps = broadcast_object_list([name, steps])
        return self.run.checkpoints / name if name else None, steps

    def _close_tensorboard(self) -> None:
        self.tensorboard.close()
        self.tensorboard_by_tokens.close()

    def _bar(self, log: MetricsLog) -> ProgressBar:
        return ProgressBar(self.console, self.title, log, read_line(self.run.original))

    def _probes(self, run_log: RunLog, resumed_step: int) -> list[ProbeLog]:
        if self.config.probe_every is None or self.validation_samples is None:
            return []
        log = MetricsLog(self.run.probes, resumed_step, write=self.arguments.should_save)
        restart = run_log.timer.restart
        return [ProbeLog(self.config.probe_every, self.validation_samples, log, self.tensorboard, restart)]

    def _trainer(self, callbacks: list) -> SampleTrainer:
        training = self.config.training
        return SampleTrainer(
            model=self.model,
            args=self.arguments,
            train_dataset=self.train_samples,
            eval_dataset=self.validation_samples,
            tokenizer=self.data.tokenizer,
            callbacks=[
                *own_callbacks(training.callbacks),
                *callbacks,
                self.tensorboard,
                self.tensorboard_by_tokens,
            ],
            optimizer_cls_and_kwargs=own_optimizer(training.hugging_face),
            schedule=own_schedule(training.hugging_face),
            spike_deviations=training.skip_spikes,
            core_steps=training.core_steps(self.arguments.max_steps),
            teacher=self.teacher,
        )

    def _evaluate_final(self, trainer: SampleTrainer) -> None:
        """Evaluate after the last step, unless the schedule has just done so; keep every sample's loss."""
        if self.validation_samples is None:
            return
        losses = trainer.sample_losses
        if losses is None or losses.step != trainer.state.global_step:
            trainer.evaluate()
            losses = trainer.sample_losses
        assert losses is not None
        if self.arguments.should_save:
            content = {"step": losses.step, "sums": losses.sums, "targets": losses.targets}
            write_json(self.run.validation_losses, content, indent=None)

    def _stop(self, received: signal.Signals, step: int) -> None:
        say(self.console, f"{self.run.path}: stopped after step {step}; rerun to resume")
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received)

    def _finish(self, trainer: SampleTrainer, run_log: RunLog) -> RunSummary:
        args, log = self.arguments, run_log.log
        aside = self.run.model_aside
        if args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        if (plugin := getattr(trainer.accelerator.state, "fsdp_plugin", None)) is not None:
            plugin.set_state_dict_type("FULL_STATE_DICT")  # checkpoints may be sharded, the final model not
        trainer.save_final_model(aside)
        if args.should_save and not any(aside.glob("*.safetensors")):
            raise LoopwayError(
                f"{self.run.path}: the trained model's weights were not written; checkpoints are in "
                f"{self.run.checkpoints}; let the sharding plugin gather whole weights and rerun"
            )
        losses = trainer.sample_losses
        speed = run_log.timer.settled_steps_per_second()
        tokens = run_log.tokens_per_step
        report = parameter_report(self.model.config)
        summary = RunSummary(
            folder=self.run.path,
            layout=self.model.config.layout,
            recurrence=self.model.config.recurrence,
            parameters=report.total,
            non_embedding_parameters=report.non_embedding,
            steps=trainer.state.global_step,
            tokens=trainer.state.global_step * tokens,
            epochs=round(trainer.state.global_step / self.steps_per_epoch, 4),
            train_loss=log.last("loss"),
            validation_loss=losses.mean if losses else None,
            validation_perplexity=perplexity(losses.mean) if losses else None,
            original_loss=read_line(self.run.original),
            tokens_per_second=round(speed * tokens, 1) if speed else log.last("tokens_per_second"),
            peak_memory_bytes=peak_memory_bytes(args.device),
            wall_seconds=round(run_log.seconds, 1),
            device=device_name(args.device),
            versions=library_versions(),
        )
        if args.should_save:
            self._write_card(aside, summary)
            shutil.rmtree(self.run.model, ignore_errors=True)
            put_in_place(aside, self.run.model)
            summary.write(self.run.summary)
        return summary

    def _write_card(self, folder: Path, summary: RunSummary) -> None:
        """Write the model card and, for a retrofit, its record."""
        sections, header = run_sections(self.config.to_dict(), summary), {}
        if (name := self.config.model.pretrained) and (record := read_record(name)):
            write_atomically(folder / RECORD, record_text(record))
            sections, header = [origin_section(record), *sections], origin_header(record)
        write_atomically(folder / CARD, model_card(self.model.config, self.run.path.name, sections, **header))
