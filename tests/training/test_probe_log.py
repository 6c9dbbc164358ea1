"""Probes while a model trains: they are logged, they cost little, and they change nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loopway.errors import ConfigError
from loopway.training.config.run_config import RunConfig
from loopway.training.metrics_log import read_metrics
from loopway.training.run import train


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    texts = [f"the {a} of the {b} and the {c} " * 8 for a in "abcd" for b in "efgh" for c in "ijkl"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def config(
    corpus: Path, *, probe_every: int | None, model: dict[str, Any] | None = None, **training: Any
) -> RunConfig:
    return RunConfig.from_dict(
        {
            "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"}
            | (model or {}),
            "data": {
                "train": str(corpus),
                "sequence_length": 32,
                "vocab_size": 300,
                "validation_fraction": 0.2,
            },
            "training": {
                "global_batch_size": 4,
                "max_steps": 6,
                "save_steps": 3,
                "learning_rate": 1e-2,
                "use_cpu": True,
            }
            | training,
            "probe_every": probe_every,
        }
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_probed_run_has_the_bits_of_one_that_is_not(corpus: Path, tmp_path: Path, dropout: float) -> None:
    for name, every in (("plain", None), ("probed", 1)):
        train(config(corpus, probe_every=every, model={"hidden_dropout": dropout}), tmp_path / name)
    plain, probed = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "probed")
    )
    assert plain.keys() == probed.keys() and all(torch.equal(plain[key], probed[key]) for key in plain)
    assert not (tmp_path / "plain" / "probes.jsonl").exists()


def test_probes_are_logged_as_json_lines_and_to_tensorboard(corpus: Path, tmp_path: Path) -> None:
    train(config(corpus, probe_every=2), tmp_path / "run")
    lines = read_metrics(tmp_path / "run" / "probes.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    names = set(lines[0]) - {"step"}
    assert names == {
        *(f"relative_update/{stage}" for stage in ("prelude", "core[0]", "core[1]", "coda")),
        "balance",
        *(
            f"{kind}_entropy/{stage}"
            for kind in ("write", "read")
            for stage in ("prelude", "core[0]", "core[1]")
        ),
        *(f"mixing/prelude/{source}" for source in ("h_emb", "prelude")),
        *(f"mixing/core[0]/{source}" for source in ("h_emb", "prelude", "core[0]")),
        *(f"mixing/core[1]/{source}" for source in ("h_emb", "prelude", "core[0]", "core[1]")),
    }
    assert 0 <= lines[0]["balance"] <= 1
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in names:
        scalars = events.Scalars(f"probe/{name}")
        assert [scalar.step for scalar in scalars] == [2, 4, 6]
        assert scalars[-1].value == pytest.approx(lines[-1][name], rel=1e-5)


def test_a_resumed_run_has_each_probe_once(corpus: Path, tmp_path: Path) -> None:
    train(config(corpus, probe_every=1), tmp_path / "straight")
    train(config(corpus, probe_every=1), tmp_path / "run")
    # As if it had been killed after step 5: the newest checkpoint is that of step 3.
    for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"):
        if path.name != "checkpoint-3":
            path.rename(tmp_path / path.name)
    (tmp_path / "run" / "summary.json").unlink()
    train(config(corpus, probe_every=1), tmp_path / "run")
    assert read_metrics(tmp_path / "run" / "probes.jsonl") == read_metrics(
        tmp_path / "straight" / "probes.jsonl"
    )


def test_a_vanilla_model_is_probed_as_one_block(corpus: Path, tmp_path: Path) -> None:
    train(config(corpus, probe_every=6, model={"layout": "3", "recurrence": "base"}), tmp_path / "run")
    (line,) = read_metrics(tmp_path / "run" / "probes.jsonl")
    assert set(line) == {"step", "relative_update/block"}


@pytest.mark.parametrize("value", [0, -1, "often", 1.5, True])
def test_a_wrong_interval_is_refused(corpus: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match="probe_every: got "):
        config(corpus, probe_every=value)


def test_probes_without_validation_text_are_refused_before_training(corpus: Path, tmp_path: Path) -> None:
    content = config(corpus, probe_every=1).to_dict()
    content["data"]["validation_fraction"] = 0
    with pytest.raises(ConfigError, match="probe_every: probes read validation text"):
        train(RunConfig.from_dict(content), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
