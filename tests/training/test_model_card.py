"""A model card says what the config and the run say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import loopway
from loopway.training.config.run_config import RunConfig
from loopway.training.model_card import model_card, run_sections
from loopway.training.summary import RunSummary
from tests.modeling.tiny_models import tiny_config

ROOT = Path(__file__).parents[2]
SUMMARY: dict[str, Any] = {
    "folder": "run",
    "layout": "1+2R3+1",
    "recurrence": "mesh",
    "parameters": 1,
    "non_embedding_parameters": 1,
    "steps": 1200,
    "tokens": 1200 * 64 * 128,
    "epochs": 1.25,
    "train_loss": 3.14159,
    "validation_loss": 2.71828,
    "validation_perplexity": 15.154,
    "tokens_per_second": 10.0,
    "peak_memory_bytes": 1,
    "wall_seconds": 1.0,
    "device": "abacus",
    "versions": {"loopway": "0.0.7"},
}


def run_config(tmp_path: Path, **training: Any) -> dict[str, Any]:
    return RunConfig.from_dict(
        {
            "model": {"preset": "pythia-14m", "layout": "1+2R3+1", "recurrence": "mesh"},
            "data": {"train": [str(tmp_path / "books.txt"), {"dataset": "a/b"}], "sequence_length": 128},
            "training": {"max_steps": 1200, "learning_rate": 0.0123, **training},
        }
    ).to_dict()


def rows(card: str) -> dict[str, str]:
    """The cells of all tables of two columns."""
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, re.MULTILINE))


@pytest.mark.parametrize(
    ("layout", "recurrence", "kind", "rule"),
    [
        (
            "1+2R3+1",
            "mesh",
            "A recursive (looped) language model",
            "Every boundary writes the stage's output",
        ),
        ("1+2R3+1", "anchor+residual", "A recursive (looped) language model", "h(t+1) = h_m(t) + the named"),
        ("4", "base", "A language model: 4 layers with parameters compute 4", "h(t+1) = h_m(t): the next"),
    ],
)
def test_it_says_what_the_model_is(layout: str, recurrence: str, kind: str, rule: str) -> None:
    config = tiny_config(layout, recurrence)
    card, report = model_card(config, "my model"), loopway.parameter_report(config)
    assert f"# my model\n\n{kind}" in card and rule in card
    said = rows(card)
    assert said["parameters"] == f"{report.total:,}" and said["layout"] == f"`{layout}`"
    assert said["recurrence"] == f"`{recurrence}`" + (", 6 slots" if recurrence == "mesh" else "")
    assert (said["layers of compute"], said["layers with parameters"]) == (
        str(report.compute_depth),
        str(report.parameter_depth),
    )
    assert ModelCard(card).data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["loopway", "recursive-transformer", recurrence],
    }
    assert "trust_remote_code" not in card


def test_it_says_what_a_run_did_and_gave(tmp_path: Path) -> None:
    config = run_config(tmp_path, weight_decay=0.07)
    card = model_card(tiny_config(), "x", run_sections(config, RunSummary(**SUMMARY)))
    said = rows(card)
    assert said["validation loss"] == "2.7183" and said["validation perplexity"] == "15.15"
    assert said["training loss, mean since the log before the last"] == "3.1416"
    assert said["tokens, repeats included"] == "9,830,400 (1.25 epochs)" and said["steps"] == "1,200"
    assert said["batch"] == "64 sequences of 128 tokens"
    assert said["peak learning rate"] == "0.0123" and said["weight decay"] == "0.07"
    assert said["text"] == "`books.txt`, `a/b` (split train)"
    assert said["device"] == "abacus" and said["versions"] == "loopway 0.0.7"
    (block,) = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
    shown = yaml.safe_load(block)
    assert shown["training"] == config["training"] and shown["model"] == config["model"]
    assert RunConfig.from_dict(shown).model == RunConfig.from_dict(config).model


def test_a_run_without_validation_has_no_validation_loss(tmp_path: Path) -> None:
    none: dict[str, Any] = {"validation_loss": None, "validation_perplexity": None}
    sections = run_sections(run_config(tmp_path), RunSummary(**(SUMMARY | none)))
    assert "training loss" in sections[1] and "validation" not in sections[1]


def test_it_tells_no_password_and_no_folder_of_the_machine(tmp_path: Path) -> None:
    config = run_config(tmp_path, push_to_hub=True)
    config["training"]["hub_token"] = "hf_secret"  # which an earlier release took
    card = model_card(tiny_config(), "x", run_sections(config, RunSummary(**SUMMARY)))
    assert "hf_secret" not in card and str(tmp_path) not in card and "push_to_hub: true" in card


def test_it_cites_what_the_repository_cites() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    card = " ".join(model_card(tiny_config(), "x").split())
    (paper,) = citation["references"]
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert f"{{{' and '.join(authors)}}}" in card
    assert f"title = {{{paper['title']}}}" in card and paper["journal"] in card and paper["url"] in card
    assert f"title = {{{citation['title']}}}" in card and citation["license"] in card
    assert citation["authors"][0]["name"] in card and f"version = {{{loopway.__version__}}}" in card


def test_code_beside_the_weights_is_explained() -> None:
    card = model_card(tiny_config(), "my-model", code="code.py")
    assert "`code.py` beside the weights" in card
    assert 'from_pretrained("my-model", trust_remote_code=True)' in card
