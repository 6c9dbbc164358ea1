"""What a run or a comparison wrote down and was damaged since: one line that names the file, or it begins anew."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loopway.comparison.run import compare
from loopway.errors import LoopwayError
from loopway.files import damage_told
from loopway.training.config.run_config import RunConfig
from loopway.training.original import read_line
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

DAMAGES = [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000]


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A config of a comparison, and its finished folder."""
    content = {
        "model": {"preset": "pythia-14m", "hidden_size": 32},
        "data": {"train": str(corpus), "sequence_length": 32, "vocab_size": 300},
        "training": {"global_batch_size": 4, "max_steps": 2, "learning_rate": 6e-3, "use_cpu": True},
        "variants": {"mesh": {"layout": "1+1R2+1", "recurrence": "mesh"}},
        "seeds": [0],
    }
    folder = tmp_path_factory.mktemp("finished")
    (folder / "compare.yaml").write_text(json.dumps(content))
    compare(folder / "compare.yaml", folder=folder / "out")
    return content, folder


@pytest.fixture
def copied(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[1], tmp_path / "copied"))


PUT_BACK = "put it back, or choose another folder"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("comparison.json", PUT_BACK),
        ("runs/mesh-seed0/summary.json", "delete it and rerun"),
        ("runs/mesh-seed0/validation_losses.json", "summary.json and rerun"),
        ("runs/mesh-seed0/config.yaml", PUT_BACK),
    ],
)
def test_a_comparison_names_the_file_and_what_to_do(
    copied: Path, name: str, advice: str, damage: bytes
) -> None:
    (copied / "out" / name).write_bytes(damage)
    with pytest.raises(LoopwayError) as told:
        compare(copied / "compare.yaml", folder=copied / "out")
    message = str(told.value)
    assert Path(name).name in message and "\n" not in message
    assert f"{Path(name).name}: damaged; " in message and advice in message
    assert told.value.__cause__ is not None  # which LOOPWAY_DEBUG=1 shows


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "tokens.json"])
def test_a_resume_names_the_file_and_what_to_do(
    finished: tuple[dict[str, Any], Path], copied: Path, name: str, damage: bytes
) -> None:
    run = RunFolder(copied / "out/runs/mesh-seed0")
    config = RunConfig.load(copied / "out/variants/mesh-seed0.yaml")
    run.summary.unlink()
    (run.path / name).write_bytes(damage)
    with pytest.raises(LoopwayError, match=rf"{name}: damaged; put it back, or choose another folder"):
        train(config, run.path)


@pytest.mark.parametrize("damage", [*DAMAGES, b'{"loss": 1}\n', b'{"step": "x"}\n'])
def test_damaged_metrics_begin_anew(copied: Path, damage: bytes) -> None:
    run = RunFolder(copied / "out/runs/mesh-seed0")
    run.summary.unlink()
    run.metrics.write_bytes(damage)
    train(RunConfig.load(copied / "out/variants/mesh-seed0.yaml"), run.path)
    assert run.is_finished


def test_a_config_that_another_one_is_named_in_is_read_as_it_stands(copied: Path) -> None:
    (copied / "other.yaml").write_text((copied / "out/variants/mesh-seed0.yaml").read_text())
    (copied / "out/runs/mesh-seed0/config.yaml").write_text("extends: ../../../other.yaml\n")
    with pytest.raises(LoopwayError, match=PUT_BACK):
        compare(copied / "compare.yaml", folder=copied / "out")


@pytest.mark.parametrize("damage", [*DAMAGES, b"{}", b'{"validation_loss": "x"}'])
def test_an_original_s_loss_names_its_file_and_what_to_do(tmp_path: Path, damage: bytes) -> None:
    (path := tmp_path / "original.json").write_bytes(damage)
    with pytest.raises(LoopwayError, match=r"original.json: damaged; delete it and rerun"):
        read_line(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(OSError), damage_told(tmp_path / "gone.json", "delete it"):
        (tmp_path / "gone.json").read_text()


def test_what_the_advice_says_works(copied: Path) -> None:
    run = RunFolder(copied / "out/runs/mesh-seed0")
    losses = run.validation_losses.read_bytes()
    run.validation_losses.write_bytes(b"{")
    run.summary.unlink()
    compare(copied / "compare.yaml", folder=copied / "out")
    assert run.validation_losses.read_bytes() == losses
