"""A published folder tells what is known of its model, and of no other; what can't be published is one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from loopway.publishing.publish import publish_command
from loopway.recurrence import registry
from loopway.report.numbers import measured
from loopway.training.config.run_config import RunConfig
from loopway.training.plugins import load_plugins
from loopway.training.run import train
from tests.command_line import run_main
from tests.modeling.tiny_models import tiny_model
from tests.retrofit.pretrained import TEXTS, save_pretrained

PLUGIN = """
import loopway

class Half(loopway.Recurrence):
    def start(self, embeddings):
        return embeddings

    def advance(self, state, step, stage_input, stage_output):
        return stage_output + state / 2, state

loopway.register_recurrence("half", Half)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint before its last step."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:300]))
    config = {
        "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"},
        "data": {"train": str(folder / "text.jsonl"), "sequence_length": 32, "vocab_size": 300},
        "training": {
            "global_batch_size": 2,
            "per_device_train_batch_size": 2,
            "max_steps": 2,
            "eval_steps": 2,
            "save_steps": 1,
            "use_cpu": True,
        },
    }
    train(RunConfig.from_dict(config), folder / "run")
    return folder / "run"


def publish(name: Path, out: Path) -> str:
    publish_command(str(name), out)
    return (out / "README.md").read_text()


def test_a_finished_run_s_card_has_its_losses_and_the_results_of_this_very_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness isn't installed: pip install lm-eval")
    from loopway.evaluation.evaluate import evaluate
    from loopway.evaluation.suite import task_measures
    from loopway.options import EvaluationOptions

    measures = task_measures(["held-out"])
    checkpoint = str(run / "checkpoints" / "checkpoint-1")
    (found, other) = evaluate(
        [str(run), checkpoint], measures, run / "evaluations", EvaluationOptions(limit=5)
    )
    evaluate([checkpoint], measures, run / "of-another", EvaluationOptions(limit=5))
    said = publish_command(str(run), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert f"| validation loss | {summary['validation_loss']:.4f} |" in card
    assert f"| tokens, repeats included | {summary['tokens']:,} (" in card
    result, unlike = found.results[measures[0]], other.results[measures[0]]
    assert result.value != unlike.value
    assert f"| held-out | perplexity ↓ | {measured(result.value, result.error)} | 5 |" in card
    assert "| held-out | loss ↓ | " in card
    (told,) = ModelCard(card).data.eval_results  # type: ignore[misc]
    assert (told.dataset_name, told.metric_type, told.metric_value) == (
        "held-out",
        "perplexity",
        result.value,
    )
    assert re.findall(r"(\S+) holds results of other models", said) == [str(run / "of-another/results.json")]
    in_run = (run / "model" / "README.md").read_text()
    assert (
        f"| validation loss | {summary['validation_loss']:.4f} |" in in_run and "## Evaluation" not in in_run
    )


def test_a_checkpoint_isn_t_told_to_give_what_its_run_gave(run: Path, tmp_path: Path) -> None:
    card = publish(run / "checkpoints" / "checkpoint-1", tmp_path / "out")
    assert "## Model" in card and "## Training" not in card and "## Losses" not in card
    assert "## Training" in publish(run / "model", tmp_path / "model")


def test_a_retrofitted_model_says_where_it_comes_from_and_takes_its_record_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(Path("models/llama"))
    options = ["--layout", "1+2R2+1", "--recurrence", "mesh", "--out", "mesh"]
    assert run_main(monkeypatch, "retrofit", str(tmp_path / "models/llama"), *options) == 0
    for card in (Path("mesh/README.md").read_text(), publish(Path("mesh"), Path("out"))):
        assert "made it from `llama` of 6 layers" in card and str(tmp_path) not in card
        assert "filled `spaced`: 1 from 1, 2 from 4." in card
        assert "base_model" not in ModelCard(card).data.to_dict()
    assert Path("out/retrofit.json").read_text() == Path("mesh/retrofit.json").read_text()
    record = json.loads(Path("mesh/retrofit.json").read_text()) | {"on_hub": True, "source": "some/llama"}
    Path("mesh/retrofit.json").write_text(json.dumps(record))
    card = publish(Path("mesh"), Path("from-the-hub"))
    assert ModelCard(card).data.to_dict()["base_model"] == "some/llama"


def test_what_can_t_be_published_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(Path("llama"))
    tokenizer = {path.name: path.read_bytes() for path in Path("llama").glob("tokenizer*")}
    Path("half.py").write_text(PLUGIN)
    monkeypatch.setattr(registry, "_RECURRENCES", dict(registry._RECURRENCES))
    load_plugins(["half.py"])
    fields: dict[str, Any] = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}
    for name, recurrence in (("half", "half"), ("mesh", "mesh")):
        model = tiny_model("1+1R2+1", recurrence, "llama", **fields)
        model.save_pretrained(name)
        for file, content in tokenizer.items():
            Path(name, file).write_bytes(content)
    capfd.readouterr()
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (["llama", "--out", "out"], "llama is not a recursive model; transformers opens it"),
        (["half", "--out", "out", "--plugin", "half.py"], "recurrence 'half' comes from a plugin"),
        (["mesh", "--out", "llama"], "llama exists and isn't empty"),
        (["mesh", "--out", "out", "--drop-recurrence"], "--drop-recurrence is for a plain model"),
        (["gone", "--out", "out"], "'gone' is no folder here"),
    ):
        assert run_main(monkeypatch, "export", "--self-contained", *arguments) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert sorted(tmp_path.rglob("*")) == before
