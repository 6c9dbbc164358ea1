"""What a run or a comparison wrote down and was damaged since: one line that names the file, or it begins anew."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopway.comparison.run import compare
from loopway.errors import LoopwayError
from loopway.training.config.run_config import RunConfig
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


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    [
        "comparison.json",
        "runs/mesh-seed0/summary.json",
        "runs/mesh-seed0/validation_losses.json",
        "runs/mesh-seed0/config.yaml",
    ],
)
def test_a_comparison_names_the_file_and_what_to_do(copied: Path, name: str, damage: bytes) -> None:
    (copied / "out" / name).write_bytes(damage)
    with pytest.raises(LoopwayError) as told:
        compare(copied / "compare.yaml", folder=copied / "out")
    message = str(told.value)
    assert Path(name).name in message and "\n" not in message


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
def test_damaged_metrics_begin_anew(
    copied: Path, damage: bytes, tiny_config: Callable[..., RunConfig]
) -> None:
    run = RunFolder(copied / "out/runs/mesh-seed0")
    run.summary.unlink()
    run.metrics.write_bytes(damage)
    train(RunConfig.load(copied / "out/variants/mesh-seed0.yaml"), run.path)
    assert run.is_finished


def test_what_the_advice_says_works(copied: Path) -> None:
    run = RunFolder(copied / "out/runs/mesh-seed0")
    losses = run.validation_losses.read_bytes()
    run.validation_losses.write_bytes(b"{")
    run.summary.unlink()
    compare(copied / "compare.yaml", folder=copied / "out")
    assert run.validation_losses.read_bytes() == losses
