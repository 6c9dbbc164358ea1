"""A step whose loss or gradient leaps is left out where that is wanted, and only then."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from loopway.errors import ConfigError
from loopway.training import spikes as spikes_module
from loopway.training.config.run_config import RunConfig
from loopway.training.metrics_log import read_metrics
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from loopway.training.spikes import REMEMBERED, Spikes

Build = Callable[..., RunConfig]


def test_only_what_leaps_out_of_the_last_steps_is_a_spike() -> None:
    choose, spikes = random.Random(0), Spikes(6)
    usual = lambda: (choose.gauss(3, 0.1), choose.gauss(1, 0.05))  # noqa: E731
    assert not any(spikes.judge(*values) for values in [(9.0, 9.0), *[(3.0, 1.0)] * 5])  # too early to say
    spikes = Spikes(6)
    assert not any(spikes.judge(*usual()) for _ in range(3 * REMEMBERED))
    assert spikes.judge(3.9, 1.0)
    assert spikes.judge(3.0, 2.0)
    assert not spikes.judge(2.0, 0.2)  # lower is none


def test_a_loss_that_stays_high_soon_counts_as_usual() -> None:
    choose, spikes = random.Random(0), Spikes(6)
    for _ in range(REMEMBERED):
        spikes.judge(choose.gauss(3, 0.1))
    found = [spikes.judge(choose.gauss(5, 0.1)) for _ in range(REMEMBERED)]
    assert found[0] and sum(found) < 10


def test_what_is_remembered_goes_on_from_a_checkpoint() -> None:
    choose, before, after = random.Random(0), Spikes(6), Spikes(6)
    for _ in range(REMEMBERED):
        before.judge(choose.gauss(3, 0.1))

    class State:
        stateful_callbacks = {"Spikes": before.state()}  # noqa: RUF012

    after.on_train_begin(None, State(), None)  # type: ignore[arg-type]
    values = [choose.gauss(3, 0.25) for _ in range(50)]
    assert [after.judge(value) for value in values] == [before.judge(value) for value in values]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of steps 31 and 51, further apart than what is remembered, are a hundred times what they are."""
    monkeypatch.setattr(spikes_module, "REMEMBERED", 16)
    loss_of = Trainer.compute_loss

    def compute_loss(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = loss_of(self, model, *args, **kwargs)
        return loss * 100 if model.training and self.state.global_step in (30, 50) else loss

    monkeypatch.setattr(Trainer, "compute_loss", compute_loss)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(RunFolder(folder).model).state_dict()


@pytest.mark.usefixtures("spoiled")
def test_a_spike_is_left_out_and_logged_and_a_resumed_run_has_the_same_bits(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"max_steps": 52, "skip_spikes": 12, "save_steps": 36, "logging_steps": 1}
    config, update = tiny_config(training=training), torch.optim.AdamW.step
    updated: list[bool] = []

    def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        weight = self.param_groups[0]["params"][0]
        before = weight.detach().clone()
        result = update(self, *args, **kwargs)
        updated.append(not torch.equal(before, weight))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(config, tmp_path / "straight")
    assert [number for number, has in enumerate(updated, start=1) if not has] == [
        1,
        31,
        51,
    ]  # warmup begins at 0
    lines = read_metrics(RunFolder(tmp_path / "straight").metrics)
    skipped = [line for line in lines if "skipped_loss" in line]
    assert [line["step"] for line in skipped] == [31, 51]
    assert [line["tokens"] for line in skipped] == [31 * 4 * 32, 51 * 4 * 32]
    assert all(line["skipped_loss"] > 100 and line["skipped_grad_norm"] > 10 for line in skipped)
    assert [line["step"] for line in lines if "loss" in line] == [*range(1, 53)]

    train(tiny_config(training=training), tmp_path / "resumed")
    run = RunFolder(tmp_path / "resumed")
    run.summary.unlink()
    (run.checkpoints / "checkpoint-52" / "manifest.json").unlink()
    train(tiny_config(training=training), run.path)
    assert [line["step"] for line in read_metrics(run.metrics) if "skipped_loss" in line] == [31, 51]
    straight, resumed = weights(tmp_path / "straight"), weights(run.path)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


@pytest.mark.usefixtures("spoiled")
def test_off_by_default(tiny_config: Build, tmp_path: Path) -> None:
    train(tiny_config(training={"max_steps": 32}), tmp_path / "run")
    assert not any("skipped_loss" in line for line in read_metrics(RunFolder(tmp_path / "run").metrics))


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"skip_spikes": 0}, "more than 0 standard"),
        ({"skip_spikes": 6, "fp16": True}, "doesn't work with fp16"),
    ],
)
def test_what_makes_no_sense_is_refused(training: dict[str, Any], words: str, tiny_config: Build) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(training=training)


def test_the_loss_that_is_judged_is_the_mean_over_the_targets(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[float] = []
    monkeypatch.setattr(Spikes, "judge", lambda self, loss, norm: judged.append(loss))
    train(tiny_config(training={"logging_steps": 1}), tmp_path / "run")
    logged = [line["loss"] for line in read_metrics(RunFolder(tmp_path / "run").metrics) if "loss" in line]
    assert judged == pytest.approx(logged, rel=1e-3)
