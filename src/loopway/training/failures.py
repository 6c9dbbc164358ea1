"""External failures of a run: out of memory, a dead worker or a dead loading process.

Turns the libraries' exceptions into one-line errors that say what to do. Knows nothing of models and data.
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
    """Training can't continue with this config or on this machine."""


@contextmanager
def failures_told(arguments: TrainingArguments, recompute: str = "none") -> Iterator[None]:
    """Raise a one-line TrainingError for an external failure within the block.

    Args:
        arguments: of the run.
        recompute: its ``training.recompute``.
    """
    try:
        yield
    except LoopwayError as error:
        if "Original Traceback" not in str(error):
            raise
        # Raised in a loading process; torch puts its traceback in front.
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except (RuntimeError, MemoryError) as error:
        reason = _reason(error, arguments, recompute)
        if reason is None:
            raise
        raise TrainingError(
            f"{reason} from the newest whole checkpoint in {arguments.output_dir}; the cause: {_cause(error)}"
        ) from error


def _reason(error: Exception, arguments: TrainingArguments, recompute: str) -> str | None:
    """Return the problem and how to resume, or None for an error that isn't external."""
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
    """The library's message without torch's C++ frames."""
    words = one_line(error).partition(" Exception raised from ")[0]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _less_memory(arguments: TrainingArguments, recompute: str) -> str:
    """Settings that need less memory and leave the result equal; a run may resume with them."""
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
