"""A run is opened from what it holds: after it was moved, after its text is gone, from anywhere, and never prepared anew."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from loopway.data import PreparationConfig, prepare
from loopway.data.tokens_note import NoTokensError
from loopway.errors import DataError
from loopway.inference.generation import generate
from loopway.inference.held_out import held_out_samples, sample_losses
from loopway.inference.trained_model import open_model, open_trained
from loopway.options import Sampling
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

TRAINING = {"max_steps": 4, "save_steps": 2, "eval_strategy": "no", "learning_rate": 1e-2, "use_cpu": True}
CONFIG: dict[str, Any] = {
    "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"},
    "training": {"global_batch_size": 4, "per_device_train_batch_size": 4, **TRAINING},
}
SEEN: list[str] | None = None
"""What was opened or listed since it was last emptied; None: not looked at."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three runs were trained, whose configs name what is there by relative paths: `text`, `tokens`, `held`."""
    place = tmp_path_factory.mktemp("begun")
    words = np.random.default_rng(0).choice(["the", "cat", "sees", "a", "red", "house"], (60, 80))
    lines = [json.dumps({"text": " ".join(each)}) + "\n" for each in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("words.jsonl").write_text("".join(lines[:30]))
        Path("more.jsonl").write_text("".join(lines[30:]))
        made = PreparationConfig(train=["words.jsonl"], vocab_size=280, validation_fraction=0.2)
        prepare(made, "made", progress=False)
        shutil.copytree("made/tokenizer", "pieces")
        for half in ("train", "validation"):
            for suffix in (".bin", ".idx"):
                shutil.copy(f"made/{half}{suffix}", f"{half}{suffix}")
        for name, data in {
            "text": {"train": ["words.jsonl", "more.jsonl"], "vocab_size": 280, "validation_fraction": 0.2},
            "tokens": {"train": "made"},
            "held": {"train": "train.bin", "validation": {"tokens": "valid*.bin"}, "tokenizer": "pieces"},
        }.items():
            train(RunConfig.from_dict({**CONFIG, "data": data | {"sequence_length": 16}}), f"runs/{name}")
    return place


@pytest.fixture
def moved(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs without anything that they were made from, seen from another folder."""
    shutil.copytree(begun / "runs", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "moved"


def without_end(run: Path) -> None:
    """Make a finished run one that was stopped after its second step."""
    for name in ("summary.json", "validation_losses.json"):
        (run / name).unlink()
    for name in ("model", "checkpoints/checkpoint-4"):
        shutil.rmtree(run / name)


def losses(run: Path) -> list[float]:
    """Of the run's own validation samples under its own model."""
    trained = open_trained(str(run))
    samples = held_out_samples(trained, [], None)
    assert samples is not None
    found = [sample_losses(trained.model, batch) for batch in DataLoader(samples, batch_size=8)]
    return [loss for batch in found for loss in batch]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run / "model").state_dict()


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("name", ["text", "tokens", "held"])
def test_a_moved_run_is_asked_for_losses_and_text_from_anywhere(
    begun: Path, moved: Path, name: str, gone: bool
) -> None:
    if not gone:  # something else of the same names is no matter
        Path("words.jsonl").write_text(json.dumps({"text": "of another project"}) + "\n")
        Path("made").mkdir()
    expected = json.loads((begun / "runs" / name / "validation_losses.json").read_text())["sums"]
    assert losses(moved / name) == pytest.approx(expected, rel=1e-5)
    assert generate(*open_model(moved / name), "the", Sampling(max_new_tokens=2, greedy=True))


@pytest.mark.parametrize("name", ["text", "tokens", "held"])
def test_a_moved_run_goes_on_from_anywhere_to_the_same_bits(
    begun: Path, moved: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = moved / name
    without_end(run)
    train(RunConfig.load(run / "config.yaml"), run)
    ours, expected = weights(run), weights(begun / "runs" / name)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    notices = [line for line in capsys.readouterr().err.splitlines() if "gone" in line]
    told = f"{run / 'data'}: using the prepared tokens; their text is gone: words.jsonl, more.jsonl"
    assert notices == ([told] if name == "text" else [])


def test_text_that_is_there_and_has_changed_is_refused_and_the_rest_may_be_gone(
    begun: Path, moved: Path
) -> None:
    without_end(moved / "text")
    config = RunConfig.load(moved / "text" / "config.yaml")
    shutil.copy(begun / "words.jsonl", "words.jsonl")
    Path("words.jsonl").write_text(Path("words.jsonl").read_text().swapcase())
    with pytest.raises(DataError, match=r"data.train has changed since it was prepared \(words.jsonl\)"):
        train(config, moved / "text")
    shutil.copy(begun / "words.jsonl", "words.jsonl")
    assert train(config, moved / "text").steps == 4


def test_tokens_that_are_gone_or_others_are_one_line(begun: Path, moved: Path, tmp_path: Path) -> None:
    """The places that the run noted count; without them, as before they were noted, the names in its config."""
    for name, named in (("tokens", "data.train: 'made'"), ("held", "data.validation: 'valid*.bin'")):
        note = moved / name / "tokens.json"
        content = json.loads(note.read_text())
        nowhere = {key: str(tmp_path / "nowhere" / key) for key in content["places"]}
        note.write_text(json.dumps(content | {"places": nowhere}))
        with pytest.raises(NoTokensError) as caught:
            losses(moved / name)
        expected = f"{named} is neither here nor at {tmp_path}/nowhere/"
        assert str(caught.value).startswith(expected) and "\n" not in str(caught.value)
        del content["places"]
        note.write_text(json.dumps(content))
        with pytest.raises(DataError):
            losses(moved / name)
    shutil.copytree(begun / "made", "made")
    assert losses(moved / "tokens")
    other = PreparationConfig(train=[str(begun / "more.jsonl")], vocab_size=280, validation_fraction=0.2)
    shutil.rmtree("made")
    prepare(other, "made", progress=False)
    with pytest.raises(DataError, match=r"data.validation: not what this run began with"):
        losses(moved / "tokens")


def opened(event: str, arguments: tuple[Any, ...]) -> None:
    if SEEN is not None and event in ("open", "os.listdir", "os.scandir"):
        SEEN.append(str(arguments[0]))


def test_a_run_from_elsewhere_never_makes_its_reader_prepare_or_read_a_folder_that_it_names(
    begun: Path, moved: Path, tmp_path: Path
) -> None:
    global SEEN
    private = tmp_path / "private"
    private.mkdir()
    shutil.copy(begun / "words.jsonl", private / "diary.jsonl")
    run = RunFolder(moved / "text")
    config = yaml.safe_load(run.config.read_text())
    config["data"]["train"] = [str(private)]
    run.config.write_text(yaml.safe_dump(config))
    sys.addaudithook(opened)  # which can't be removed
    for emptied in (False, True):
        if emptied:
            shutil.rmtree(run.data)
            run.data.mkdir()
        SEEN = []
        try:
            if emptied:
                with pytest.raises(NoTokensError, match="the run holds no prepared text"):
                    losses(run.path)
            else:
                assert losses(run.path)
            generate(*open_model(run.path), "the", Sampling(max_new_tokens=1, greedy=True))
            assert SEEN and not [path for path in SEEN if str(private) in path]
        finally:
            SEEN = None
    assert list(run.data.iterdir()) == []
