"""Is `loopway evaluate` as fast as lm-evaluation-harness alone, on the same model and questions?

    python benchmarks/local_tasks.py data/ tasks/
    python benchmarks/evaluation.py tasks/ [--model FOLDER] [--limit 100] [--rounds 7]

Both ask the same model, opened once, the same questions with the same batch size; Loopway also keeps every answer. A
third variant finds all its answers kept. The last line is JSON.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import common
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import loopway
from loopway.data.tokenizer import train_tokenizer
from loopway.evaluation.answers import Answers
from loopway.evaluation.harness import HarnessModel, Tasks
from loopway.evaluation.suite import task_measures

BATCH_SIZE = 8


def make_model(folder: Path) -> Path:
    """A recursive model of the shape of Pythia-14M with random weights, and a tokenizer of 8,192 tokens."""
    torch.manual_seed(0)
    text = folder / "text.jsonl"
    tokenizer = train_tokenizer(common.read_text(common.write_text(text, 4 * common.MB)), 8192)
    config = loopway.pythia_config(
        "14m", layout="1+2R2+1", recurrence="mesh", vocab_size=8192, bos_token_id=0, eos_token_id=0
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
    tasks, manager = Tasks(tasks_folder), TaskManager(include_path=str(tasks_folder))
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
        "questions": limit,
        "seconds": {name: common.middle(taken) for name, taken in seconds.items()},
        "times_as_fast_as_harness": common.times_as_fast(seconds["loopway"], seconds["harness"]),
        "times_as_fast_when_kept": common.times_as_fast(seconds["kept"], seconds["harness"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", type=Path, help="what local_tasks.py wrote")
    parser.add_argument("--model", type=Path, help="a model folder; without it a small one is made")
    parser.add_argument("--limit", type=int, default=100, help="questions a task")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or make_model(Path(folder))
        common.report(
            {
                task: lambda task=task: compare(model, options.tasks, task, options.limit, options.rounds)
                for task in ("piqa", "arc_easy", "lambada_openai")
            }
        )


if __name__ == "__main__":
    main()
