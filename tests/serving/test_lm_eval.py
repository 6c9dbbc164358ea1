"""lm-evaluation-harness with vLLM gives the answers of `loopway evaluate`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopway.evaluation.answers import Answers
from tests.processes import Processes
from tests.retrofit.pretrained import WORDS
from tests.serving.page import command
from tests.serving.trained import DOCS, Trained

pytest.importorskip("vllm")
pytest.importorskip("lm_eval")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A task of choices and a task of whole texts, without a network."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = {
        "riddles": [
            {"text": f"Loopway's {word} {n}: what is it?", "choices": [*WORDS[n : n + 4]], "answer": n % 4}
            for n, word in enumerate(("layout", "loss", "router", "token", "model", "run"))
        ],
        "pages": [
            {"text": (DOCS / name).read_text()[:120]} for name in ("data.md", "compare.md", "probing.md")
        ],
    }
    kinds = {
        "riddles": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "pages": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}],
        },
    }
    for name, kind in kinds.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **kind,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_the_harness_gives_the_answers_of_evaluate(
    trained: dict[tuple[str, str], Trained],
    serve: Callable[..., Any],  # ends the engine that the harness makes
    processes: Processes,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(trained["llama", "mesh"].folder.parents[1])
    names = "riddles,pages"
    log = tmp_path / "log"
    ours = processes.start(
        *("evaluate", "runs/mesh", "--tasks", names, "--shots", "0"),
        *("--include-path", tasks, "--out", "ours"),
        environment={"HF_DATASETS_CACHE": str(tmp_path / "datasets")},
        errors=log,
    )
    assert ours.wait() == 0, log.read_text()

    words = command("lm_eval run --model vllm")
    words[words.index("--tasks") + 1] = names
    at = words.index("--model_args") + 1
    words[at] += ",enforce_eager=True,max_num_seqs=16"
    words += ["--include_path", str(tasks), "--output_path", "theirs", "--log_samples"]
    monkeypatch.setattr(sys, "argv", words)
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()

    (path,) = Path("ours/answers").glob("*.jsonl")
    answers, compared = Answers(path), 0
    for task, kind in (("riddles", "loglikelihood"), ("pages", "loglikelihood_rolling")):
        (samples,) = Path("theirs").rglob(f"samples_{task}_*.jsonl")
        for sample in map(json.loads, samples.read_text().splitlines()):
            for asked, (got,) in zip(sample["arguments"].values(), sample["resps"], strict=True):
                # The harness writes numbers as text, and a pair for a continuation.
                expected: Any = answers.get(kind, list(asked.values()))
                if kind == "loglikelihood":
                    expected, likeliest = expected
                    assert got[1] == str(likeliest)
                    got = got[0]
                assert float(got) == pytest.approx(expected, abs=1e-4)
                compared += 1
    assert compared == 6 * 4 + 3
    (found,) = Path("theirs").rglob("results_*.json")
    theirs = json.loads(found.read_text())["results"]
    for result in json.loads(Path("ours/results.json").read_text())["models"][0]["results"]:
        for metric, value in result["metrics"].items():
            assert theirs[result["task"]][f"{metric},none"] == pytest.approx(value, rel=1e-4)
