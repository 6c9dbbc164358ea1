"""A comparison under torchrun: the same runs, each trained by all workers, reported on once."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


@pytest.mark.slow
def test_workers_of_torchrun_share_every_run_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words, generator = (
        ["the", "state", "of", "our", "union", "is", "strong", "and", "will", "remain", "so"],
        random.Random(0),
    )
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(" ".join(generator.choices(words, k=400)))
    config = {
        "model": {
            "preset": "pythia-14m",
            "hidden_size": 32,
            "max_position_embeddings": 64,
            "layout": "1+1R2+1",
        },
        "data": {"train": str(tmp_path / "*.txt"), "sequence_length": 32, "vocab_size": 280},
        "training": {"max_steps": 4, "global_batch_size": 4, "per_device_train_batch_size": 2},
        "variants": {"base": {}, "mesh": {"recurrence": "mesh"}},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(config | {"data": config["data"] | {"validation_fraction": 0.3}}))

    def compare(folder: str, *launcher: str) -> Path:
        command = [sys.executable, *launcher, "-m", "loopway", "compare", str(path), "--out", folder]
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr[-3000:]
        assert finished.stdout.count("Everything is in") == 1
        return tmp_path / folder

    alone = compare("alone")
    shared = compare("shared", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for name in ("base-seed0", "mesh-seed0"):
        sitting = json.loads((shared / "runs" / name / "run.json").read_text())
        assert '"workers": 2' in json.dumps(sitting)
    losses = [
        [row["validation_loss"] for row in json.loads((folder / "results.json").read_text())]
        for folder in (alone, shared)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
