"""Failures from outside a run: memory that isn't there, a worker or a loading process that is gone.

Turns what libraries raise then into one line that says what to do. Knows nothing of models and data.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed
from transformers import TrainingArguments

from loopway.checks import one_line
from loopway.errors import LoopwayError
from loopway.modeling.recompute import RECOMPUTE_LEVELS

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_CONNECTION = re.compile(r"gloo|nccl|process ?group|connection|socket|TCPStore", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"closed|closure|reset by peer|broken pipe|timed? ?out|remote process|communicator was aborted",
    re.IGNORECASE,
)
_LOADING_PROCESS = re.compile(r"DataLoader worker \(pid.* \d+\)")


class TrainingError(LoopwayError):
    """Training can't go on with what was asked for, or where it runs."""


@contextmanager
def failures_told(arguments: TrainingArguments, recompute: str = "none") -> Iterator[None]:
    """Within, what ends the run from outside is a TrainingError of one line.

    Args:
        arguments: of the run.
        recompute: its ``training.recompute``.
    """
    try:
        yield
    except LoopwayError as error:
        if "Original Traceback" not in str(error):
            raise
        # A process that loads data raised it, and its traceback was put in front.
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except (RuntimeError, MemoryError) as error:
        reason = _reason(error, arguments, recompute)
        if reason is None:
            raise
        raise TrainingError(
            f"{reason} from the newest whole checkpoint in {arguments.output_dir}; the cause: {_cause(error)}"
        ) from error


def _reason(error: Exception, arguments: TrainingArguments, recompute: str) -> str | None:
    """Return the problem and how to resume, or None for an error that doesn't come from outside."""
    text = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY.search(text):
        return f"there wasn't enough memory: {_less_memory(arguments, recompute)}; rerun with that to resume"
    if _LOADING_PROCESS.search(text):
        return "a process that loads data died; rerun to resume"
    is_of_connection = isinstance(error, distributed.DistError) or _CONNECTION.search(text)
    if arguments.world_size > 1 and is_of_connection and _NO_ANSWER.search(text):
        return (
            f"worker {arguments.process_index} of {arguments.world_size} lost another one, which died or didn't answer "
            f"for training.ddp_timeout, {arguments.ddp_timeout} s (see that worker's log); rerun to resume"
        )
    return None


def _cause(error: Exception) -> str:
    """The library's own words, without the C++ frames that torch puts behind them."""
    words = one_line(error).partition(" Exception raised from ")[0]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _less_memory(arguments: TrainingArguments, recompute: str) -> str:
    """Advice that takes less memory and leaves the result as it is: a run may resume with it."""
    train, evaluation = arguments.train_batch_size, arguments.eval_batch_size
    step = train * arguments.world_size * arguments.gradient_accumulation_steps
    ways = []
    if evaluation > train:
        ways.append(f"lower training.per_device_eval_batch_size, now {evaluation}")
    if train > 1:
        ways.append(
            f"lower training.per_device_train_batch_size, now {train}, with training.global_batch_size={step}"
        )
    stronger = RECOMPUTE_LEVELS[RECOMPUTE_LEVELS.index(recompute) + 1 :]
    if stronger and not arguments.gradient_checkpointing:
        ways.append(f"set training.recompute ({', '.join(stronger)}), which takes time")
    return ", or ".join(ways or ["take a device with more memory"])
