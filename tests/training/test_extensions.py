"""Callbacks, trackers, optimizers and schedules from a plugin file, as CONTRIBUTING shows them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

import loopway
from loopway.errors import ConfigError, LoopwayError
from loopway.training import extensions
from loopway.training.callbacks import Interruption
from loopway.training.config.run_config import RunConfig
from loopway.training.metrics_log import read_metrics
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Nothing that a test registers is there for another."""
    yield
    for name in extensions.TRACKERS:
        del INTEGRATION_TO_CALLBACK[name]
    for known in (extensions.CALLBACKS, extensions.TRACKERS, extensions.OPTIMIZERS, extensions.SCHEDULES):
        known.clear()


@pytest.fixture
def shown(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A config whose plugin is what CONTRIBUTING shows, all of it in use."""
    blocks = re.findall(r"^```python\n(.*?)^```", CONTRIBUTING.read_text(), re.MULTILINE | re.DOTALL)
    kinds = ("callback", "optimizer", "schedule")
    used = [block for block in blocks if any(f"register_{kind}(" in block for kind in kinds)]
    assert len(used) == 3 and all(len(block.strip().splitlines()) <= 14 for block in used)
    (tmp_path / "mine.py").write_text("\n".join(used))
    tiny["plugins"] = [str(tmp_path / "mine.py")]
    tiny["training"] |= {
        "callbacks": ["file-of-losses"],
        "optim": "sgd-momentum",
        "optim_args": "momentum=0.9, nesterov=true",
        "lr_scheduler_type": "trapezoid",
        "lr_scheduler_kwargs": {"share": 0.5},
        "warmup_steps": 2,
        "logging_steps": 1,
    }
    return tiny


def rates(folder: Path) -> list[float]:
    return [
        line["learning_rate"] for line in read_metrics(RunFolder(folder).metrics) if "learning_rate" in line
    ]


def test_what_contributing_shows_trains_a_run(shown: dict[str, Any], tmp_path: Path) -> None:
    train(RunConfig.from_dict(shown), tmp_path / "run")
    # 8 steps: two of warm-up, then flat, then down over the last half; 6e-3 at the peak.
    expected = [6e-3 * factor for factor in (0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25)]
    assert rates(tmp_path / "run") == pytest.approx(expected)
    told = (tmp_path / "run" / "losses.txt").read_text().splitlines()
    assert {int(line.split()[0]) for line in told} == set(range(1, 9))
    state = torch.load(tmp_path / "run/checkpoints/checkpoint-8/optimizer.pt", weights_only=True)
    assert {(group["momentum"], group["nesterov"]) for group in state["param_groups"]} == {(0.9, True)}
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.0, 0.01}


def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(
    shown: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.from_dict(shown)
    train(config, tmp_path / "whole")

    def stop(self: Interruption, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Interruption, "on_step_end", stop)
        train(config, tmp_path / "cut")
    train(config, tmp_path / "cut")
    whole, cut = (RunFolder(tmp_path / name) for name in ("whole", "cut"))
    weights = "model.safetensors"
    assert (whole.model / weights).read_bytes() == (cut.model / weights).read_bytes()
    assert rates(whole.path) == rates(cut.path)


def test_a_tracker_of_one_s_own_is_told_what_others_are_and_may_change_on_resume(
    shown: dict[str, Any], tmp_path: Path
) -> None:
    del shown["training"]["callbacks"]
    train(RunConfig.from_dict(shown), tmp_path / "run")
    assert not (tmp_path / "run" / "losses.txt").exists()
    (tmp_path / "run" / "summary.json").unlink()  # as if the last moment had been cut off
    shown["training"]["report_to"] = ["file-tracker"]
    train(RunConfig.from_dict(shown), tmp_path / "run")
    shown["training"]["callbacks"] = ["file-of-losses"]
    with pytest.raises(LoopwayError, match="callbacks"):
        train(RunConfig.from_dict(shown), tmp_path / "run")
    train(RunConfig.from_dict(shown | {"training": shown["training"] | {"callbacks": []}}), tmp_path / "new")
    assert "1 " in (tmp_path / "new" / "losses.txt").read_text()


class Silent(TrainerCallback):
    pass


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("callbacks", ["fille"], r"training.callbacks: got 'fille'; did you mean .*file"),
        ("optim", "minee", r"training.optim: got 'minee'; did you mean .*mine"),
        ("lr_scheduler_type", "minee", r"training.lr_scheduler_type: got 'minee'; did you mean .*mine"),
        ("report_to", ["trackerr"], r"training.report_to: got 'trackerr'; did you mean .*tracker"),
    ],
)
def test_a_name_that_nothing_registered_is_refused_with_those_that_are_known(
    tiny_config: Build, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    loopway.register_callback("file", Silent)
    loopway.register_tracker("tracker", Silent)
    loopway.register_optimizer("mine", torch.optim.SGD)
    loopway.register_schedule("mine", lambda *_: 1.0)
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(training={key: value}), tmp_path / "run")


def test_what_an_optimizer_does_not_take_is_told_before_anything_is_prepared(
    tiny_config: Build, tmp_path: Path
) -> None:
    loopway.register_optimizer("mine", torch.optim.SGD)
    with pytest.raises(ConfigError, match=r"training: .*unexpected keyword argument 'momentumm'"):
        train(tiny_config(training={"optim": "mine", "optim_args": "momentumm=0.9"}), tmp_path / "run")
    loopway.register_schedule("flat", lambda step, steps, warmup_steps: 1.0)
    with pytest.raises(ConfigError, match=r"training: .*unexpected keyword argument 'share'"):
        schedule = {"lr_scheduler_type": "flat", "lr_scheduler_kwargs": {"share": 1}}
        train(tiny_config(training=schedule), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("register", "name", "value", "message"),
    [
        ("register_callback", "mine", Silent(), "no subclass of transformers.TrainerCallback"),
        ("register_callback", "", Silent, "the callback's name: got ''"),
        ("register_tracker", "wandb", Silent, "the tracker's name: got 'wandb'"),
        ("register_tracker", "all", Silent, "the tracker's name: got 'all'"),
        ("register_optimizer", "sgd", torch.optim.SGD, "the optimizer's name: got 'sgd'"),
        ("register_optimizer", "mine", 3, "optimizer mine: got 3"),
        ("register_optimizer", "mine", lambda *_, **__: None, "subclass of torch.optim.Optimizer"),
        ("register_schedule", "cosine", lambda *_: 1.0, "the schedule's name: got 'cosine'"),
    ],
)
def test_what_cannot_be_registered_is_refused(register: str, name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        getattr(loopway, register)(name, value)


class ReadsGroups(torch.optim.SGD):
    """Reads what it is promised, and holds the types of its options to what was written."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float) -> None:
        assert [set(group) for group in groups] == [{"params", "weight_decay"}] * 2
        assert groups[1]["weight_decay"] == 0.0 and all(group["params"] for group in groups)
        assert eps == 1e-8
        super().__init__(groups, lr=lr)


def test_an_optimizer_gets_the_groups_and_numbers_that_it_is_promised(
    tiny_config: Build, tmp_path: Path
) -> None:
    loopway.register_optimizer("reads", ReadsGroups)
    train(
        tiny_config(training={"optim": "reads", "optim_args": "eps=1e-8", "max_steps": 1}), tmp_path / "run"
    )


@pytest.mark.parametrize("given", ["nesterov", "betas=[0.9,0.95]", "=1"])
def test_optimizer_arguments_that_cannot_be_read_are_one_line(
    tiny_config: Build, tmp_path: Path, given: str
) -> None:
    loopway.register_optimizer("mine", torch.optim.SGD)
    with pytest.raises(ConfigError, match=r"training.optim_args") as told:
        train(tiny_config(training={"optim": "mine", "optim_args": given}), tmp_path / "run")
    assert "\n" not in str(told.value)


class NeedsAnArgument(TrainerCallback):
    def __init__(self, path: str) -> None:
        self.path = path


class CountsItself(TrainerCallback):
    made = 0

    def __init__(self) -> None:
        type(self).made += 1


def falls(step: int, steps: int, warmup_steps: int) -> float:
    return 1 / (steps - step)


class Fails(torch.optim.SGD):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise KeyError("this\nand that")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"callbacks": ["needs"]}, r"training.callbacks: needs failed: TypeError: .*'path'"),
        ({"lr_scheduler_type": "falls"}, r"training: schedule falls failed: ZeroDivisionError: "),
        ({"optim": "fails"}, r"training: optimizer fails failed: KeyError: "),
        (
            {"optim": "fails", "optim_target_modules": "all-linear"},
            r"training: optimizer fails failed: KeyError: ",
        ),
    ],
)
def test_an_error_of_a_user_s_own_code_is_one_line_that_names_it(
    tiny_config: Build, tmp_path: Path, training: dict[str, Any], message: str
) -> None:
    loopway.register_callback("needs", NeedsAnArgument)
    loopway.register_schedule("falls", falls)
    loopway.register_optimizer("fails", Fails)
    with pytest.raises(ConfigError, match=message) as told:
        train(tiny_config(training=training), tmp_path / "run")
    assert "\n" not in str(told.value)


def test_a_callback_is_made_once_a_run_and_never_to_check_a_config(
    tiny_config: Build, tmp_path: Path
) -> None:
    loopway.register_callback("counts", CountsItself)
    config = tiny_config(training={"callbacks": ["counts"], "max_steps": 1})
    assert CountsItself.made == 0
    train(config, tmp_path / "run")
    assert CountsItself.made == 1
