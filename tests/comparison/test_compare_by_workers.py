"""A comparison by several workers: the same runs, each trained by all workers, reported on once."""

import json
import random
from pathlib import Path

import pytest
import yaml
from torch import distributed

from loopway.comparison.workers import Workers
from loopway.errors import LoopwayError
from loopway.training.run_folder import RunFolder
from tests.processes import Processes


def test_a_worker_whose_run_failed_keeps_no_other_waiting() -> None:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    first, second = Workers(0, store, 2), Workers(1, store, 2)
    with pytest.raises(ZeroDivisionError):
        second.agree("mesh-seed0", lambda: 1 // 0)
    with pytest.raises(LoopwayError, match="mesh-seed0: worker 1 of 2 failed"):
        first.agree("mesh-seed0", lambda: 0)


@pytest.mark.slow
def test_workers_share_every_run_of_a_comparison(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        "variants": {"mesh": {"recurrence": "mesh"}},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(config | {"data": config["data"] | {"validation_fraction": 0.3}}))

    monkeypatch.chdir(tmp_path)
    output = tmp_path / "output.log"
    processes.run_workers(2, "compare", path, "--out", "shared", logs=tmp_path, output=output)
    assert output.read_text().count("Everything is in") == 1
    rows = json.loads((tmp_path / "shared" / "results.json").read_text())
    assert [row["variant"] for row in rows] == ["mesh"]
    for row in rows:
        run = RunFolder(tmp_path / "shared" / "runs" / f"{row['variant']}-seed0")
        (sitting,) = json.loads(run.provenance.read_text())["sittings"]
        assert sitting["workers"] == 2
        # What two workers compute is what one does: tests/training/test_workers.py.
        assert row["validation_loss"] == pytest.approx(json.loads(run.summary.read_text())["validation_loss"])
