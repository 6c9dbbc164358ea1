"""Where numbers first went wrong is named, and the weights are as they were before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

import loopway
from loopway.modeling.weights import first_bad_weight
from loopway.training.config.run_config import RunConfig
from loopway.training.non_finite import first_bad_gradient, first_bad_module
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from loopway.training.trainer import SampleTrainer, TrainingError

Build = Callable[..., RunConfig]
WEIGHTS = [
    "gpt_neox.layers.0.layers.1.mlp.dense_4h_to_h.weight",
    "gpt_neox.layers.0.recurrence.read_routers.1.bias",
    "gpt_neox.embed_in.weight",
]


def tiny_model_and_ids() -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    config = loopway.pythia_config("14m", layout="1+1R2+1", recurrence="mesh", hidden_size=32, vocab_size=64)
    return AutoModelForCausalLM.from_config(config), torch.randint(64, (2, 7))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_first_module_whose_output_is_not_finite_is_named(weight: str) -> None:
    model, ids = tiny_model_and_ids()
    forward = lambda: model(ids, labels=ids)  # noqa: E731
    assert first_bad_module(model, forward) is None
    with torch.no_grad():
        model.get_parameter(weight).fill_(torch.inf)
    assert first_bad_module(model, forward) == weight.rpartition(".")[0]
    assert not any(module._forward_hooks for module in model.modules())


def test_the_last_weight_whose_gradient_is_not_finite_is_named() -> None:
    model, ids = tiny_model_and_ids()
    model(ids, labels=ids).loss.backward()
    assert first_bad_gradient(model) is None
    for weight in WEIGHTS[::-1]:
        gradient = model.get_parameter(weight).grad
        assert gradient is not None
        gradient.view(-1)[-1] = torch.nan
    assert first_bad_gradient(model) == WEIGHTS[1]  # the recurrence comes after the layers


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    train(config, tmp_path / "straight")
    training_step = Trainer.training_step
    at_fault: dict[str, torch.Tensor] = {}

    def spoiled(self: SampleTrainer, model: Any, *args: Any) -> torch.Tensor:
        loss = training_step(self, model, *args)
        if self.state.global_step == 5:
            at_fault.update({name: value.detach().clone() for name, value in model.named_parameters()})
            model.gpt_neox.layers[0].layers[1].mlp.dense_h_to_4h.bias.grad[3] = torch.nan
            at_fault_models.append(model)
        return loss

    at_fault_models: list[Any] = []
    monkeypatch.setattr(Trainer, "training_step", spoiled)
    message = r"a gradient isn't finite at step 6 \(training samples 20 to 23\), first in .*1\.mlp\.dense_h_to_4h\.bias"
    with pytest.raises(TrainingError, match=message):
        train(config, tmp_path / "run")
    now = dict(at_fault_models[0].named_parameters())
    assert all(torch.equal(now[name], value) for name, value in at_fault.items())

    monkeypatch.undo()
    train(config, tmp_path / "run")
    straight, run = (
        AutoModelForCausalLM.from_pretrained(RunFolder(tmp_path / name).model).state_dict()
        for name in ("straight", "run")
    )
    assert all(torch.equal(straight[name], value) for name, value in run.items())


def test_weights_that_are_not_finite_are_never_sealed(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(self: SampleTrainer, model: Any, *args: Any) -> torch.Tensor:
        with torch.no_grad():
            if (
                self.state.global_step == 9
            ):  # of 10: whatever the update makes of it, no later step would notice
                model.get_parameter(WEIGHTS[1]).requires_grad_(False)[0] = torch.nan
        return torch.tensor(5.0)

    monkeypatch.setattr(SampleTrainer, "training_step", spoiled)
    config = tiny_config(training={"max_steps": 10, "save_steps": 5, "eval_strategy": "no"})
    with pytest.raises(TrainingError, match=rf"step 10 left weights .*: .*{WEIGHTS[1][-20:]} isn't finite"):
        train(config, tmp_path / "run")
    assert [path.name for path in RunFolder(tmp_path / "run").checkpoints.iterdir()] == ["checkpoint-5"]
    assert not RunFolder(tmp_path / "run").model.exists()


def test_the_first_weight_that_is_not_finite_is_named() -> None:
    model, _ = tiny_model_and_ids()
    assert first_bad_weight(model) is None
    with torch.no_grad():
        model.get_parameter(WEIGHTS[0])[-1, -1] = torch.inf
    assert first_bad_weight(model) == WEIGHTS[0]


def test_a_validation_loss_that_is_not_finite_stops_the_run(tiny_config: Build, tmp_path: Path) -> None:
    config = tiny_config(
        training={"learning_rate": 1000.0, "max_steps": 1, "eval_steps": 1, "warmup_steps": 0}
    )
    object.__setattr__(
        config.training, "hugging_face", config.training.hugging_face | {"learning_rate": 1e30}
    )
    with pytest.raises(TrainingError, match=r"validation loss of step 1 is nan.* lower learning_rate"):
        train(config, tmp_path / "run")
