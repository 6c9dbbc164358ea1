"""More workers are the same run: the same global batches, losses and checkpoints, with torchrun on gloo."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from loopway.training.checkpoint import steps_of
from loopway.training.metrics_log import read_metrics
from loopway.training.run_folder import RunFolder
from loopway.training.yaml_files import merge

Train = Callable[..., RunFolder]
TRAINING = {"max_steps": 20, "global_batch_size": 8, "per_device_train_batch_size": 2, "logging_steps": 1}


@pytest.fixture
def train(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains in a folder with so many workers, or goes on with what is there; by `script` instead of `loopway`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = tmp_path / "run.yaml"
    training = TRAINING | {"save_steps": 10, "eval_steps": 10}
    config.write_text(json.dumps(merge(tiny, {"training": training})))

    def run(workers: int, folder: Path, *overrides: str, script: Path | None = None) -> RunFolder:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        loopway = ["-m", "loopway"] if script is None else [str(script)]
        command = [*(launcher if workers > 1 else []), *loopway, "train", str(config), *overrides]
        finished = subprocess.run(
            [sys.executable, *command, "--out", str(folder)], capture_output=True, text=True, timeout=300
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        assert finished.stderr.count("going on after step") <= 1  # not by every worker
        return RunFolder(folder)

    return run


def losses(run: RunFolder) -> dict[tuple[int, str], float]:
    return {
        (line["step"], name): line[name]
        for line in read_metrics(run.metrics)
        for name in ("loss", "validation_loss", "grad_norm")
        if name in line
    }


@pytest.mark.slow
def test_workers_share_a_run_and_another_number_of_them_goes_on_with_it(train: Train, tmp_path: Path) -> None:
    alone = losses(train(1, tmp_path / "alone"))
    assert len(alone) == 20 + 20 + 2
    for workers in (2, 4):
        run = train(workers, tmp_path / str(workers))
        assert losses(run) == pytest.approx(alone, rel=1e-5)
        assert run.newest_checkpoint() == (run.checkpoints / "checkpoint-20", {})
        validation = [
            json.loads(each.validation_losses.read_text())["sums"]
            for each in (run, RunFolder(tmp_path / "alone"))
        ]
        assert validation[0] == pytest.approx(validation[1], rel=1e-5)

        # As if all had been killed after step 10.
        shutil.rmtree(steps_of(run.checkpoints)[20])
        run.summary.unlink()
        train(2 if workers == 4 else 1, run.path)
        assert losses(run) == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_fsdp2_through_the_trainer_is_the_same_run_and_goes_on_with_another_number_of_workers(
    train: Train, tmp_path: Path
) -> None:
    alone = losses(train(1, tmp_path / "alone"))
    script, sharded = Path(__file__).with_name("fsdp_worker.py"), ["training.fsdp=true"]
    run = train(4, tmp_path / "sharded", *sharded, script=script)
    assert losses(run) == pytest.approx(alone, rel=1e-5)
    assert any("fsdp" in path.name for path in steps_of(run.checkpoints)[20].iterdir())
    AutoModelForCausalLM.from_pretrained(run.model)

    shutil.rmtree(steps_of(run.checkpoints)[20])
    run.summary.unlink()
    train(2, run.path, *sharded, script=script)
    assert losses(run) == pytest.approx(alone, rel=1e-5)
