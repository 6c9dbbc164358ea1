"""Tasks of lm-evaluation-harness on one model, with the harness's task definitions, HFLM and scoring.

Adds a cache of answers, and skips a task that can't be asked. Knows nothing of suites and tables.
"""

import contextlib
import io
import logging
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.checks import not_among, one_line
from loopway.data.beginnings import beginning_of
from loopway.errors import ConfigError
from loopway.evaluation.answers import Answers
from loopway.evaluation.results import TaskResult
from loopway.evaluation.suite import HELD_OUT, Measure

try:
    import lm_eval.tasks
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError:
    raise ConfigError(
        "evaluation needs lm-evaluation-harness, which isn't installed: pip install lm-eval"
    ) from None


# The harness's defaults: its command line gives the same numbers.
_SEED, _SEED_OF_OTHERS = 0, 1234
# Its default, 100,000, takes minutes a task; of the standard errors of perplexities it only improves the third digit.
_BOOTSTRAPS = 1000
# Else it forks this process. A child can inherit a lock of another thread and wait forever. The numbers are equal.
os.environ.setdefault("DISABLE_MULTIPROC", "1")


# The files of the paper's tasks: reading all of the harness's files takes over ten seconds.
_PAPER_FOLDERS = (
    "arc",
    "hellaswag",
    "lambada",
    "mmlu/continuation",
    "piqa",
    "sciq",
    "wikitext",
    "winogrande",
)


class LeftOutError(Exception):
    """A measure is skipped: its data is missing, or the model can't be asked. The message names the reason."""


class HarnessModel(HFLM):
    """The harness's Hugging Face model with a cache of answers."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | str,
        answers: Answers,
    ) -> None:
        # A text is read in one pass, without a cache. `generate` asks for a cache itself.
        model.config.use_cache = False
        arguments: dict[str, Any] = {"pretrained": model, "backend": "causal", "tokenizer": tokenizer}
        arguments["batch_size"] = batch_size
        # Else it puts the bos_token before a text without context, even if no training document began with it.
        if tokenizer.bos_token_id is not None and not beginning_of(tokenizer):
            arguments["prefix_token_id"] = tokenizer.eos_token_id
        with _quiet():
            super().__init__(**arguments)
        self.answers = answers
        self.cache_hook = answers  # type: ignore[assignment]

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        return self._ask("loglikelihood", requests, super().loglikelihood, disable_tqdm)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list:
        # The harness puts the prefix token before each text; the tokenizer must not add another.
        before, self.add_bos_token = self.add_bos_token, False
        try:
            return self._ask("loglikelihood_rolling", requests, super().loglikelihood_rolling, disable_tqdm)
        finally:
            self.add_bos_token = before

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
        names: of the tasks, groups or tags that will be asked for.
        include_path: a folder with your own task files; a file with the name of a known task replaces it.

    Raises:
        ConfigError: an unknown task, with the nearest names, or a file that the harness can't read.
    """

    def __init__(self, names: Sequence[str], include_path: Path | None = None) -> None:
        if include_path is not None and not include_path.is_dir():
            raise ConfigError(f"--include-path: no folder {include_path}")
        own: list[str | Path] = [include_path] if include_path else []
        folders = [Path(lm_eval.tasks.__path__[0], folder) for folder in _PAPER_FOLDERS]
        with _quiet():  # it warns of every task that is replaced
            self._manager = TaskManager(include_path=[*folders, *own], include_defaults=False)
            whole = {*self._manager.all_subtasks, *self._manager.all_groups}  # tags span folders
            if not set(names) <= whole:
                self._manager = TaskManager(include_path=own)
        if include_path is not None:
            self._check_files(include_path)
        for name in names:
            if name not in self._manager.all_tasks:
                raise not_among("--tasks", name, [HELD_OUT, *self._manager.all_tasks])

    def _check_files(self, include_path: Path) -> None:
        """Raise ConfigError for a task file that the harness silently ignores."""
        taken = {entry.yaml_path for entry in self._manager.task_index.values()}
        for file in sorted(set(include_path.glob("**/*.yaml")) - taken):
            try:
                content = yaml.compose(file.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise ConfigError(f"--include-path: {file} is no YAML: {one_line(error)}") from None
            keys = {key.value for key, _ in content.value} if isinstance(content, yaml.MappingNode) else set()
            if keys & {"task", "group"}:  # else others include it
                raise ConfigError(
                    f"--include-path: the harness passes {file} over; what it includes doesn't exist, or another "
                    f"file has its task"
                )

    def expand(self, measures: Sequence[Measure]) -> list[Measure]:
        """The measures, with the tasks that carry a tag of the harness in its place."""
        expanded = []
        for measure in measures:
            is_tag = measure.task in self._manager.all_tags
            tasks = sorted(self._manager.task_index[measure.task].tags) if is_tag else [measure.task]
            expanded += [replace(measure, task=task) for task in tasks]
        return expanded

    def run(self, measure: Measure, model: HarnessModel, limit: int | None) -> TaskResult:
        """Ask a model the questions of a task.

        Args:
            limit: only so many questions of each (sub)task; None is all.

        Raises:
            LeftOutError: its questions can't be loaded, or this model can't answer them.
            ConfigError: the task has no such metric.
        """
        with _quiet():
            loaded = self._load(measure.task)
            for task in loaded["tasks"].values():
                _set_shots(task, measure.shots)
            _set_seeds()
            try:
                results: Any = evaluate(
                    lm=model,
                    task_dict=loaded,
                    limit=limit,
                    bootstrap_iters=_BOOTSTRAPS,
                    log_samples=False,
                )
            except (AssertionError, ImportError, NotImplementedError, OverflowError, ValueError) as error:
                # The harness's errors for a task that needs another model, a package or a permission.
                raise LeftOutError(f"{measure.task}: the harness says {_reason(error)}") from error
        metrics = _metrics(results["results"][measure.task])
        if not metrics:
            raise LeftOutError(
                f"{measure.task}: reports no single number; name its parts: {', '.join(loaded['tasks'])}"
            )
        metric = measure.metric or next(iter(metrics))
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

    def _load(self, name: str) -> Any:
        try:
            return self._manager.load([name])
        except Exception as error:  # of the Hub, of a reader of files, or of the code that some tasks bring
            data = (self._manager.task_index[name].cfg or {}).get("dataset_path") or "NAME"
            raise LeftOutError(
                f"{name}: can't be loaded ({_reason(error)}); if its data isn't here, download it where there is a "
                f"network (hf download --repo-type dataset {data}), or give --include-path with a task file that "
                "names local data"
            ) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _set_shots(task: Any, shots: int | None) -> None:
    """Set the number of examples as the harness does, but raise for a task that ignores `shots`."""
    own = task.get_config("num_fewshot")
    if own == 0 and shots:
        raise LeftOutError(f"{task.task_name}: the harness asks it without examples, not with {shots}")
    if own is None or shots is not None:
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
        if comma and not name.endswith("_stderr") and isinstance(value, Real):
            error = found.get(f"{name}_stderr,{filtered}")
            known = isinstance(error, float) and math.isfinite(error)
            metrics.setdefault(name, (float(value), error if known else None))
    return metrics


def _leaves(task: str, subtasks: dict[str, list[str]]) -> list[str]:
    """The tasks below a group; a task itself."""
    if not subtasks.get(task):
        return [task]
    return [leaf for member in subtasks[task] for leaf in _leaves(member, subtasks)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide all of the harness's output but errors, and its bars without a terminal, within the block."""
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
