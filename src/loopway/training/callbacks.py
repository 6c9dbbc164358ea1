"""Callbacks of a run: the metrics log, the progress bar, interruption.

Knows the Trainer's callbacks; knows nothing of configs and models.
"""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from loopway.children import end_with
from loopway.console import lost_output_ignored, say
from loopway.modeling.pretrained_folder import no_file_bars
from loopway.signals import signals_handled
from loopway.training.measurements import StepTimer
from loopway.training.metrics_log import MetricsLog

_STANDARD_ERROR = 2
# Characters of the progress bar's columns, with the gaps between them.
_TITLE, _BAR, _STEPS_AND_TIME = 20, 20, 28


class RunLog(TrainerCallback):
    """Writes metrics.jsonl and times the steps; the last step is always logged. Must run before other logging callbacks.

    Args:
        log: where lines go.
        tokens_per_step: of all workers.
        steps_per_epoch: may be a fraction.
        tokens_per_second_at_best: speed if the machine only computed the model's matrix products. The MFU is relative
            to it.
    """

    def __init__(
        self,
        log: MetricsLog,
        *,
        tokens_per_step: int,
        steps_per_epoch: float,
        tokens_per_second_at_best: float,
    ) -> None:
        self.log = log
        self.tokens_per_second_at_best = tokens_per_second_at_best
        self.timer = StepTimer()
        self.tokens_per_step = tokens_per_step
        self.steps_per_epoch = steps_per_epoch
        self._logged_steps = 0
        self._seconds_before = log.seconds
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its sittings."""
        return self._seconds_before + time.perf_counter() - self._started

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # a checkpoint brings those of the sitting that wrote it
        self.timer.restart()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.timer.step_done()
        control.should_log |= state.global_step >= state.max_steps

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        step = state.global_step + ("skipped_loss" in logs)  # logged before the step counts as done
        line: dict[str, float] = {
            "step": step,
            "tokens": step * self.tokens_per_step,
            "epoch": round(step / self.steps_per_epoch, 4),
            "seconds": round(self.seconds, 3),
        }
        if "skipped_loss" in logs:
            line |= {key: value for key, value in logs.items() if key.startswith("skipped_")}
        elif "loss" in logs:
            line |= {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
            steps_per_second = self.timer.steps_per_second(self._logged_steps)
            if steps_per_second is not None:
                speed = steps_per_second * self.tokens_per_step
                found = {"tokens_per_second": round(speed, 1)}
                # A faster step means that a busy machine measured its own speed too low.
                if speed < self.tokens_per_second_at_best:
                    found["mfu"] = round(speed / self.tokens_per_second_at_best, 4)
                line |= found
                logs |= found  # for TensorBoard and trackers, which log next
            self._logged_steps = len(self.timer.seconds)
        elif "eval_loss" in logs:
            logs["eval_perplexity"] = perplexity(logs["eval_loss"])  # for TensorBoard and trackers
            line |= {
                "validation_loss": logs["eval_loss"],
                "validation_perplexity": logs["eval_perplexity"],
            }
        else:
            return
        self.log.append(line)
        if "skipped_loss" not in logs:
            self.timer.restart()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.timer.restart()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.timer.restart()


def perplexity(loss: float) -> float:
    """Return exp(loss), or infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


class ProgressBar(TrainerCallback):
    """A live bar with loss, tokens/s, MFU and time left; without a terminal, one line per log.

    A context manager, which also hides transformers' file bars.

    Args:
        line: the validation loss to reach, if there is one.
    """

    def __init__(self, console: Console, title: str, log: MetricsLog, line: float | None = None) -> None:
        self.console = console
        self.title = title
        self.log = log
        self.line = line
        bar = [BarColumn(bar_width=_BAR)] if console.width >= 100 else []
        self.progress = Progress(
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=_TITLE)
            ),
            *bar,
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._room = console.width - _TITLE - len(bar) * _BAR - _STEPS_AND_TIME
        self._mfu: float | None = None
        self.task = self.progress.add_task(title, total=None, status="")
        self._quiet = no_file_bars()

    def __enter__(self) -> Self:
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:  # rich 14 prints an empty line if it isn't
            with lost_output_ignored():
                self.progress.stop()
        self._quiet.__exit__(None, None, None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)
        if state.is_world_process_zero:
            self.progress.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        if "skipped_loss" in logs and state.is_world_process_zero:
            values = ", ".join(f"{key.removeprefix('skipped_')} {value:.3f}" for key, value in logs.items())
            say(self.console, f"{self.title}  step {state.global_step + 1} skipped as a spike: {values}")
        if not ("loss" in logs or "eval_loss" in logs) or not self.log.lines:
            return
        parts = []
        # A bar shows the latest of everything, a line only what is new.
        told = {"loss", "eval_loss"} if self.console.is_terminal else logs.keys()
        if "loss" in told and (loss := self.log.last("loss")) is not None:
            parts.append(f"loss {loss:.3f}")
        if "eval_loss" in told and (validation_loss := self.log.last("validation_loss")) is not None:
            to_reach = "" if self.line is None else f" (original {self.line:.3f})"
            parts.append(f"validation {validation_loss:.3f}{to_reach}")
        if "loss" in told and (speed := self.log.last("tokens_per_second")) is not None:
            parts.append(f"{speed:,.0f} tokens/s")
        if "loss" in logs:
            self._mfu = logs.get("mfu")
        if "loss" in told and self._mfu is not None:
            parts.append(f"MFU {self._mfu:.0%}")
        line = shown = "  ".join(parts)
        while len(shown) > self._room and parts:  # steps and time left matter more
            shown = "  ".join(parts := parts[:-1])
        self.progress.update(self.task, status=shown)
        if not self.console.is_terminal and state.is_world_process_zero:
            say(self.console, f"{self.title}  step {state.global_step}/{state.max_steps}  {line}")


class Interruption(TrainerCallback):
    """Stop the run after the current step, with a checkpoint, on Ctrl-C, SIGTERM or SIGHUP; a second signal stops at once.

    A signal to one worker stops all workers. A context manager, which restores the old handlers.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.received: signal.Signals | None = None
        """The signal that ends the run: the same in all workers, known at the end of a step."""
        self._received_here: signal.Signals | None = None
        self._handled: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup wants it ignored
            numbers.append(signal.SIGHUP)
        self._handled = signals_handled(numbers, self._receive)
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received_here is not None:
            raise KeyboardInterrupt
        self._received_here = signal.Signals(number)
        if self.console.quiet:
            return
        text = f"{self._received_here.name}: stops after this step, with a checkpoint; a second one stops at once\n"
        if self.console.is_terminal:
            text = f"\n{text}"  # below the progress bar
        # Not through the console: the signal may have come while it prints.
        with contextlib.suppress(OSError):
            os.write(_STANDARD_ERROR, text.encode())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        number = int(self._received_here or 0)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            highest = torch.tensor(number, device=args.device)
            torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
            number = int(highest)
        if number:
            self.received = signal.Signals(number)
            control.should_save = True
            control.should_training_stop = True


def begin_loading(begin: Callable[[int], None] | None, parent: int | None, worker: int) -> None:
    """Start a data-loading process with `begin`; it ends with the process that trains.

    It ignores Ctrl-C and a closed terminal, which the training process handles. Schedulers send SIGTERM to all processes: it
    ignores the first, and a second ends it.

    Args:
        begin: the loader's own `worker_init_fn`.
        parent: see :func:`end_with`.
        worker: its number.
    """
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if begin is not None:
        begin(worker)
