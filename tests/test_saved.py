"""What version 0.1.0 saved (at commit e539035) opens with equal logits, and its run resumes. It stays so in later versions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import loopway  # noqa: F401  (the models are known after this)
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from loopway.training.summary import RunSummary

SAVED = Path(__file__).with_name("saved")
EXPECTED = json.loads((SAVED / "models" / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED["logits"])
def test_a_saved_model_has_the_logits_that_it_was_saved_with(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(SAVED / "models" / name, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor(EXPECTED["input_ids"])).logits[0]
    torch.testing.assert_close(logits, torch.tensor(EXPECTED["logits"][name]).double(), rtol=0.0, atol=2e-5)


def test_every_built_in_recurrence_and_every_family_of_that_version_is_among_them() -> None:
    configs = [json.loads(path.read_text()) for path in (SAVED / "models").glob("*/config.json")]
    recurrences = {"base", "residual", "anchor", "anchor*", "static", "dynamic", "mesh"}
    assert recurrences <= {config["recurrence"] for config in configs}
    families = {"gpt_neox", "llama", "qwen3", "mistral", "olmo2"}
    assert {f"recursive_{family}" for family in families} <= {config["model_type"] for config in configs}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the saved run, where it was made: beside its text and config file."""
    shutil.copytree(SAVED, tmp_path / "place", ignore=shutil.ignore_patterns("models"))
    monkeypatch.chdir(tmp_path / "place")
    return Path("run")


def test_a_finished_run_is_finished(run: Path) -> None:
    before = RunSummary.read(run / "summary.json")
    assert train(RunConfig.load("run.yaml"), run).validation_loss == before.validation_loss


def test_an_interrupted_run_resumes_and_ends_where_it_ended(run: Path) -> None:
    before = RunSummary.read(run / "summary.json")
    assert before.validation_loss is not None
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    after = train(RunConfig.load("run.yaml"), run)
    first = json.loads((run / "run.json").read_text())["sittings"]
    assert [sitting["after_step"] for sitting in first] == [0, 4]
    assert after.validation_loss == pytest.approx(before.validation_loss, abs=1e-4)
