import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from loopway.errors import ConfigError
from loopway.training.config.arguments import training_arguments
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from loopway.training.trackers import tracker_names

Build = Callable[..., RunConfig]


def test_a_tracker_that_transformers_does_not_know_names_those_that_it_does() -> None:
    with pytest.raises(ConfigError) as error:
        tracker_names(["wandbb"])
    assert str(error.value).startswith("training.report_to: got 'wandbb'; did you mean wandb")
    with pytest.raises(ConfigError, match=r"expected one of .*mlflow.*trackio.*wandb"):
        tracker_names("x")


@pytest.mark.parametrize(
    "name, package", [("swanlab", "swanlab"), ("azure_ml", "azureml-sdk"), ("flyte", "flytekit")]
)
def test_a_tracker_that_is_not_installed_ends_a_run_before_anything_is_prepared(
    tiny_config: Build, tmp_path: Path, name: str, package: str
) -> None:
    module = {"azure_ml": "azureml", "flyte": "flytekit"}.get(name, name)
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=f"{name} is not installed, or not set up: pip install {package}"):
        train(tiny_config(training={"report_to": [name]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_tracker_of_transformers_can_be_asked_whether_it_is_here() -> None:
    for name in integration_utils.INTEGRATION_TO_CALLBACK:
        try:
            assert tracker_names(name) in ([name], [])
        except ConfigError as error:
            assert "is not installed, or not set up" in str(error)


@pytest.mark.parametrize("report_to", [None, "none", ["none"], "tensorboard", ["tensorboard", "none"]])
def test_tensorboard_is_left_to_the_run_itself(report_to: str | list[str] | None) -> None:
    assert tracker_names(report_to) == []


def test_all_means_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: True)
    assert "trackio" in tracker_names("all")
    assert "tensorboard" not in tracker_names("all")


def test_a_tracker_is_told_how_fast_a_run_is(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            told.append(dict(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "trackio", Tracker)
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: True)
    train(tiny_config(training={"report_to": ["trackio"], "max_steps": 4}), tmp_path / "run")
    of_steps = [logs for logs in told if "loss" in logs]
    assert of_steps and all(logs["tokens_per_second"] > 0 and logs["mfu"] > 0 for logs in of_steps[1:])
    assert any("eval_loss" in logs for logs in told)


def test_a_run_is_called_after_its_folder_unless_it_has_a_name(tiny_config: Build) -> None:
    checkpoints = Path("runs/wide/checkpoints")
    unnamed = training_arguments(tiny_config().training, checkpoints)
    named = training_arguments(tiny_config(training={"run_name": "mine"}).training, checkpoints)
    assert (unnamed.run_name, named.run_name) == ("runs/wide", "mine")
