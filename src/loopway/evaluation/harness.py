"""Tasks of lm-evaluation-harness on one model: its own task definitions, its own HFLM, its own scoring.

What is added: answers are kept as they come, and a task whose data can't be had is told from a mistake. Knows nothing
of suites and tables.
"""

import contextlib
import io
import logging
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.checks import not_among, one_line
from loopway.errors import ConfigError
from loopway.evaluation.answers import Answers
from loopway.evaluation.results import TaskResult
from loopway.evaluation.suite import Measure

try:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError:
    raise ConfigError(
        "evaluation needs lm-evaluation-harness, which isn't installed: pip install 'loopway[eval]'"
    ) from None


# The harness's own defaults, so that its command line gives the same numbers.
_SEED, _SEED_OF_OTHERS = 0, 1234
_BOOTSTRAPS = 1000


class MissingDataError(Exception):
    """A task's data is not on this machine and can't be downloaded. The message says how to provide it."""


class HarnessModel(HFLM):
    """The harness's own Hugging Face model, which asks its answers first."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | str,
        answers: Answers,
    ) -> None:
        # A whole text is read at once: keys and values are of no use. `generate` asks for them itself.
        model.config.use_cache = False
        arguments: dict[str, Any] = {"pretrained": model, "backend": "causal", "tokenizer": tokenizer}
        arguments["batch_size"] = batch_size
        with _quiet():
            super().__init__(**arguments)
        self.answers = answers
        self.cache_hook = answers  # type: ignore[assignment]

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        return self._ask("loglikelihood", requests, super().loglikelihood, disable_tqdm)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list:
        return self._ask("loglikelihood_rolling", requests, super().loglikelihood_rolling, disable_tqdm)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list:
        if any(request.args[1].get("do_sample") for request in requests):
            return super().generate_until(requests, disable_tqdm)  # type: ignore[call-arg]  # another text each time
        return self._ask("generate_until", requests, super().generate_until, disable_tqdm)

    def _ask(self, kind: str, requests: list, compute: Callable[..., list], disable_tqdm: bool) -> list:
        new = [request for request in requests if self.answers.get(kind, request.args) is None]
        if new:
            for request, answer in zip(new, compute(new, disable_tqdm), strict=True):
                self.answers.add_partial(kind, request.args, answer)
        found = [self.answers.get(kind, request.args) for request in requests]
        return [tuple(answer) if isinstance(answer, list) else answer for answer in found]


class Tasks:
    """The harness's tasks.

    Args:
        include_path: a folder with task files of one's own; one with the name of a known task replaces it.
    """

    def __init__(self, include_path: Path | None = None) -> None:
        if include_path is not None and not include_path.is_dir():
            raise ConfigError(f"--include-path: no folder {include_path}")
        with _quiet():  # it warns of every task that is replaced
            self._manager = TaskManager(include_path=str(include_path) if include_path else None)

    def check_names(self, names: Sequence[str]) -> None:
        """Raise ConfigError for a name that is no task, naming the nearest ones."""
        known = self._manager.all_tasks
        for name in names:
            if name not in known:
                raise not_among("--tasks", name, known)

    def run(self, measure: Measure, model: HarnessModel, limit: int | None) -> TaskResult:
        """Ask a model the questions of a task.

        Args:
            limit: only so many questions of each (sub)task; None is all.

        Raises:
            MissingDataError: there is no way to its questions.
            ConfigError: the task has no such metric.
        """
        with _quiet():
            with _telling_missing_data(measure.task):
                loaded = self._manager.load([measure.task])
            for task in loaded["tasks"].values():
                _set_shots(task, measure.shots)
            _set_seeds()
            results: Any = evaluate(
                lm=model,
                task_dict=loaded,
                limit=limit,
                bootstrap_iters=_BOOTSTRAPS,
                log_samples=False,
            )
        metrics = _metrics(results["results"][measure.task])
        metric = measure.metric or next(iter(metrics), None)
        if metric not in metrics:
            raise not_among(f"the metric of {measure.task}", metric, list(metrics))
        value, error = metrics[metric]
        counts = results["n-samples"]
        tasks = _leaves(measure.task, results.get("group_subtasks", {}))
        return TaskResult(
            metric=metric,
            value=value,
            error=error,
            metrics={name: value for name, (value, _) in metrics.items()},
            version=str(results["versions"].get(measure.task, "")),
            samples=sum(counts[task]["effective"] for task in tasks),
        )


def _set_shots(task: Any, shots: int | None) -> None:
    """As the harness does: a task that is always asked without examples stays so."""
    own = task.get_config("num_fewshot")
    if own != 0 and (shots is not None or own is None):
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=_SEED_OF_OTHERS)


def _set_seeds() -> None:
    random.seed(_SEED)
    np.random.seed(_SEED_OF_OTHERS)
    torch.manual_seed(_SEED_OF_OTHERS)


def _metrics(found: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Value and standard error of each metric; of several filters the first counts."""
    metrics: dict[str, tuple[float, float | None]] = {}
    for key, value in found.items():
        name, comma, filtered = key.partition(",")
        if comma and not name.endswith("_stderr") and isinstance(value, int | float):
            error = found.get(f"{name}_stderr,{filtered}")
            metrics.setdefault(name, (float(value), error if isinstance(error, float) else None))
    return metrics


def _leaves(task: str, subtasks: dict[str, list[str]]) -> list[str]:
    """The tasks below a group; a task itself."""
    if not subtasks.get(task):
        return [task]
    return [leaf for member in subtasks[task] for leaf in _leaves(member, subtasks)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, the harness says only what is wrong, and shows its bars on a terminal alone."""
    logger, shown = logging.getLogger("lm_eval"), datasets.utils.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.utils.disable_progress_bars()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            yield
        finally:
            logger.setLevel(level)
            if not shown:
                datasets.utils.enable_progress_bars()


@contextlib.contextmanager
def _telling_missing_data(task: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, DatasetsError, FileNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise MissingDataError(
            f"{task}: its data can't be had ({one_line(error)}); download it where there is a network "
            "(hf download --repo-type dataset NAME), or give --include-path with a task file that names local data"
        ) from error
