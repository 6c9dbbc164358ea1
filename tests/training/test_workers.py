"""More workers are the same run: the same global batches, losses and checkpoints, on gloo."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from loopway.training.checkpoint import steps_of
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import merge
from loopway.training.metrics_log import read_metrics
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from tests.processes import Processes

Train = Callable[..., RunFolder]
TRAINING = {"max_steps": 12, "global_batch_size": 8, "per_device_train_batch_size": 2, "logging_steps": 1}


@pytest.fixture
def config(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        json.dumps(
            merge(tiny, {"training": TRAINING | {"save_steps": 4, "save_total_limit": 3, "eval_steps": 4}})
        )
    )
    return path


@pytest.fixture
def train_together(processes: Processes, config: Path, tmp_path: Path) -> Train:
    """Trains in a folder with so many workers, or goes on with what is there; by `script` instead of `loopway`."""

    def run(workers: int, folder: Path, *overrides: str, script: Path | None = None) -> RunFolder:
        begun = folder.exists()
        command = ("train", config, *overrides, "--out", folder)
        told = processes.run_workers(workers, *command, logs=tmp_path, script=script)
        assert told.count("resuming after step") == begun  # not by every worker
        return RunFolder(folder)

    return run


def losses(run: RunFolder) -> dict[tuple[int, str], float]:
    return {
        (line["step"], name): line[name]
        for line in read_metrics(run.metrics)
        for name in ("loss", "validation_loss", "grad_norm")
        if name in line
    }


def as_if_killed_after(step: int, run: RunFolder) -> None:
    for later, folder in steps_of(run.checkpoints).items():
        if later > step:
            shutil.rmtree(folder)
    run.summary.unlink()


@pytest.mark.slow
def test_workers_share_a_run_and_another_number_of_them_goes_on_with_it(
    config: Path, train_together: Train, tmp_path: Path
) -> None:
    one = RunFolder(tmp_path / "alone")
    train(RunConfig.load(config), one.path)
    alone, validation = losses(one), json.loads(one.validation_losses.read_text())["sums"]
    assert len(alone) == 12 + 12 + 3

    def check(run: RunFolder) -> None:
        assert losses(run) == pytest.approx(alone, rel=1e-5)
        assert run.newest_checkpoint() == (run.checkpoints / "checkpoint-12", {})
        sums = json.loads(run.validation_losses.read_text())["sums"]
        assert sums == pytest.approx(validation, rel=1e-5)

    run = train_together(4, tmp_path / "shared")
    check(run)
    as_if_killed_after(4, run)
    check(train_together(2, run.path))
    as_if_killed_after(8, run)
    train(RunConfig.load(config), run.path)
    check(run)


@pytest.mark.slow
def test_fsdp2_through_the_trainer_is_the_same_run_and_goes_on_with_another_number_of_workers(
    config: Path, train_together: Train, tmp_path: Path
) -> None:
    one = RunFolder(tmp_path / "alone")
    train(RunConfig.load(config), one.path)
    alone = losses(one)
    script, sharded = Path(__file__).with_name("fsdp_worker.py"), ["training.fsdp=true"]
    run = train_together(4, tmp_path / "sharded", *sharded, script=script)
    assert losses(run) == pytest.approx(alone, rel=1e-5)
    assert any("fsdp" in path.name for path in steps_of(run.checkpoints)[12].iterdir())
    AutoModelForCausalLM.from_pretrained(run.model)

    as_if_killed_after(4, run)
    train_together(2, run.path, *sharded, script=script)
    assert losses(run) == pytest.approx(alone, rel=1e-5)
