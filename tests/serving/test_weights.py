"""A running engine takes new weights, and models outside the engine keep working."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.serving.trained import Trained, answer_of, assert_serves

pytest.importorskip("vllm")


class Trainer:
    """A model whose weights change, in the process of an engine."""

    def __init__(self, trained: Trained) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(trained.folder).eval()
        self.answers = trained.answers[-4:]

    def step(self) -> None:
        """Change all weights; the model's answers change, too."""
        generator, before = torch.Generator().manual_seed(1), self.answers
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
        self.answers = [answer_of(self.model, answer.prompt) for answer in before]
        assert [answer.tokens for answer in self.answers] != [answer.tokens for answer in before]


def test_reloaded_weights_give_the_new_models_tokens(
    trained: dict[tuple[str, str], Trained], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """From a stream and from a folder; before, the cache holds the prompts' blocks of the old weights."""
    model = trained["llama", "mesh"]
    trainer, engine = Trainer(model), serve(model.folder, block_size=32)
    assert_serves(engine, trainer.answers)

    trainer.step()
    weights = list(trainer.model.state_dict().items())
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    engine.reset_prefix_cache()
    assert_serves(engine, trainer.answers)

    trainer.step()
    trainer.model.save_pretrained(tmp_path)
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(tmp_path)})
    engine.reset_prefix_cache()
    assert_serves(engine, trainer.answers)


def test_parameters_loaded_one_by_one_give_the_new_models_tokens(
    trained: dict[tuple[str, str], Trained], serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TRL does it."""
    # Otherwise vLLM for CPUs packs the matrices of any model when it starts, and can only reload all of them.
    monkeypatch.setattr("vllm._custom_ops._supports_onednn", False)
    model = trained["gpt_neox", "mesh"]
    trainer, engine = Trainer(model), serve(model.folder)
    trainer.step()
    for name, parameter in trainer.model.named_parameters():
        engine.apply_model(lambda served, new=(name, parameter.data): bool(served.load_weights([new])))
    engine.reset_prefix_cache()
    assert_serves(engine, trainer.answers)
