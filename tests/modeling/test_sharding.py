"""A model spread over workers by FSDP2 learns what it learns alone."""

import json
from pathlib import Path

import pytest
import torch
from sharded_worker import losses, new_model

import loopway
from tests.processes import Processes


@pytest.mark.slow
def test_a_sharded_model_has_the_losses_and_weights_of_a_whole_one(
    processes: Processes, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("sharded_worker.py")
    processes.run_workers(2, tmp_path, script=script, logs=tmp_path)

    model = new_model()
    alone = losses(model, rank=0, workers=1)
    assert alone[-1] < 0.97 * alone[0]
    expected = model.state_dict()
    found = json.loads((tmp_path / "losses.json").read_text())
    # Layer by layer; and the core as one unit, at every level of recomputation.
    assert len(found) == 5
    for name, sharded in found.items():
        assert sharded == pytest.approx(alone, rel=1e-5), name
        weights = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert weights.keys() == expected.keys()
        for key, weight in weights.items():
            torch.testing.assert_close(weight, expected[key], rtol=1e-3, atol=1e-4, msg=f"{name}: {key}")


def test_only_recursive_models_are_sharded_by_their_stages() -> None:
    with pytest.raises(TypeError, match="not a recursive model"):
        loopway.shard_model(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
