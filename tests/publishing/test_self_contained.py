"""What `loopway export --self-contained` writes opens, computes, is saved and is evaluated where Loopway isn't installed."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from loopway.data.tokenizer import train_tokenizer
from loopway.inference.trained_model import open_trained
from loopway.publishing.publish import publish_command
from tests.modeling.tiny_models import random_ids, tiny_model
from tests.retrofit.pretrained import TEXTS, WORDS

FAMILIES = ("gpt_neox", "llama", "qwen3", "mistral", "olmo2")
MODELS = [(family, recurrence) for family in FAMILIES for recurrence in ("base", "mesh")]
MODELS += [(family, "mesh") for family in ("granite", "olmo3", "qwen3_moe")]
MODELS += [("llama", "anchor+anchor*"), ("gpt_neox", "static"), ("qwen3", "dynamic")]
FIRST = "gpt_neox base"  # by name, which the harness evaluates


def name_of(family: str, recurrence: str) -> str:
    return f"{family} {recurrence}"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders as Loopway saves them, without code."""
    folder = tmp_path_factory.mktemp("originals")
    tokenizer = train_tokenizer(TEXTS, 300)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    for family, recurrence in MODELS:
        model = tiny_model(
            "1+2R2+1",
            recurrence,
            family,
            dtype=torch.float32,
            vocab_size=320,
            max_position_embeddings=128,
            **ids,
        )
        model.save_pretrained(folder / name_of(family, recurrence))
        tokenizer.save_pretrained(folder / name_of(family, recurrence))
    return folder


@pytest.fixture(scope="module")
def published(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for family, recurrence in MODELS:
        name = name_of(family, recurrence)
        said = publish_command(str(originals / name), folder / name)
        assert said.splitlines()[0].endswith("with README.md and modeling_loopway.py")
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of the harness that needs no network."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"text": f"Riddle {number}: what is it?", "choices": [*WORDS[number : number + 4]], "answer": 1}
        for number in range(6)
    ]
    (folder / "riddles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "riddles",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "riddles.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }
    (folder / "riddles.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.fixture(scope="module")
def elsewhere(published: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is found in an environment with this one's dependencies but without Loopway.

    A line in a .pth file adds a folder without reading that folder's own .pth files, so an editable install of
    the package in the environment that runs the tests stays invisible.
    """
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness isn't installed: pip install lm-eval")
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", symlinks=True)
    (site_packages,) = (folder / "venv").glob("lib/python*/site-packages")
    here = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site_packages / "dependencies.pth").write_text("\n".join(here))
    torch.save(random_ids(), published / "ids.pt")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [folder / "venv/bin/python", Path(__file__).with_name("without_loopway.py"), published, tasks],
        env=environment | {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(published / "found.pt")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("family", "recurrence"), MODELS)
def test_without_loopway_a_model_gives_the_same_logits_and_the_same_text(
    family: str, recurrence: str, originals: Path, elsewhere: dict[str, Any]
) -> None:
    name, ids = name_of(family, recurrence), random_ids()
    model: Any = AutoModelForCausalLM.from_pretrained(originals / name)
    with torch.no_grad():
        assert torch.equal(elsewhere[name]["logits"], model(ids).logits)
    expected = model.generate(ids[:1], max_new_tokens=8, do_sample=False)
    assert torch.equal(elsewhere[name]["generated"], expected)


def test_without_loopway_the_base_model_opens_training_works_and_a_saved_model_opens_again(
    originals: Path, published: Path, elsewhere: dict[str, Any]
) -> None:
    assert elsewhere["again"]["name"] == elsewhere["hidden"]["name"] == FIRST
    model: Any = AutoModelForCausalLM.from_pretrained(originals / FIRST)
    with torch.no_grad():
        logits = model(random_ids()).logits
        assert torch.equal(model.get_output_embeddings()(elsewhere["hidden"]["states"]), logits)
    assert torch.equal(elsewhere["again"]["logits"], logits)
    assert elsewhere["trained"]["gradients"]
    for file in ("modeling_loopway.py", "model.safetensors"):
        assert (published / "again" / file).read_bytes() == (published / FIRST / file).read_bytes()
    configs = [json.loads((published / each / "config.json").read_text()) for each in ("again", FIRST)]
    assert configs[0]["auto_map"] == configs[1]["auto_map"]


def test_without_loopway_libraries_that_go_by_lists_of_names_treat_it_as_its_family(
    originals: Path, elsewhere: dict[str, Any]
) -> None:
    ids = random_ids()
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(originals / FIRST)(ids).logits
    smoothed = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(elsewhere["listed"]["smoothed"], smoothed)
    assert elsewhere["listed"]["targets"] == ["query_key_value"]
    assert torch.equal(elsewhere["listed"]["served"], logits)
    assert elsewhere["classifier"] == {"name": "RecursiveGPTNeoXForSequenceClassification", "shape": (1, 3)}


def test_without_loopway_the_stock_harness_scores_it(originals: Path, elsewhere: dict[str, Any]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(originals / FIRST)
    tokenizer = AutoTokenizer.from_pretrained(originals / FIRST)
    rows, right = elsewhere["harness"]["rows"], 0
    assert len(rows) == 6
    for row in rows:
        context, scores = len(tokenizer(row["doc"]["text"]).input_ids), []
        for choice in row["doc"]["choices"]:
            ids = torch.tensor([tokenizer(f"{row['doc']['text']} {choice}").input_ids])
            with torch.no_grad():
                likely = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            scores.append(likely[context - 1 :].sum().item())
        assert [answer[0] for answer in row["answers"]] == pytest.approx(scores, abs=1e-3)
        right += scores.index(max(scores)) == row["doc"]["answer"]
    assert elsewhere["harness"]["results"]["acc,none"] == pytest.approx(right / 6)


def test_with_loopway_the_folder_opens_with_loopway_s_own_classes(originals: Path, published: Path) -> None:
    config = json.loads((published / FIRST / "config.json").read_text())
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_loopway.RecursiveGPTNeoXForCausalLM"
    for options in ({}, {"trust_remote_code": True}):
        model = AutoModelForCausalLM.from_pretrained(published / FIRST, **options)
        assert type(model).__module__ == "loopway"
    assert type(open_trained(str(published / FIRST)).model).__module__ == "loopway"
    assert not any("modeling_loopway" in name for name in sys.modules)
    weights = "model.safetensors"
    assert (published / FIRST / weights).read_bytes() == (originals / FIRST / weights).read_bytes()


def test_a_model_that_loopway_opens_and_saves_again_names_no_code_that_is_not_beside_it(
    published: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(published / FIRST).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
