"""Adapters on layers that are chosen by index lie on these layers, or the model says that they don't."""

from typing import Any

import pytest
from peft import IA3Config, LoraConfig, PeftConfig, TaskType, VeraConfig, get_peft_model
from tiny_models import FAMILIES, random_ids, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from loopway.errors import ConfigError
from loopway.modeling import families
from loopway.modeling.adapters import LAYERS_PATTERN

ROWS = [name for name in FAMILIES if name in families.FAMILIES]  # a family once
LAYOUT = "1+2R2+1"


def adapted_layers(model: Any) -> list[int]:
    names = {
        name.partition(".layers.0.layers.")[2]
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    return sorted({int(name.split(".")[0]) for name in names if name})


@pytest.mark.parametrize("family", ROWS)
def test_lora_adapts_the_layers_that_are_named_by_index(family: str) -> None:
    target = families.FAMILIES[family].residual_outputs[0].split(".")[-1]
    for chosen in (0, [0], [2], [1, 3]):
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            target_modules=[target],
            layers_to_transform=chosen,
            layers_pattern=LAYERS_PATTERN,
        )
        adapted: Any = get_peft_model(tiny_model(LAYOUT, "mesh", family), config)
        assert adapted_layers(adapted) == ([chosen] if isinstance(chosen, int) else chosen)
        adapted(input_ids=random_ids(), labels=random_ids()).loss.backward()


@pytest.mark.parametrize("kind", [LoraConfig, VeraConfig])
@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_an_adapter_on_other_layers_than_those_chosen_is_refused(kind: type[PeftConfig], auto: Any) -> None:
    model = auto.from_config(tiny_config(LAYOUT, "mesh", "llama"))
    chosen: dict[str, Any] = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
    with pytest.raises(ConfigError, match=r"\[0\]: PEFT adapted layers \[0, 1, 2, 3\].*'layers\.0\.layers'"):
        get_peft_model(model, kind(**chosen))


def test_adapters_that_choose_no_layers_are_left_alone() -> None:
    for config in (LoraConfig(task_type=TaskType.CAUSAL_LM), IA3Config(task_type=TaskType.CAUSAL_LM)):
        adapted = get_peft_model(tiny_model(LAYOUT, "mesh", "llama"), config)
        assert adapted_layers(adapted) == [0, 1, 2, 3]
    assert not hasattr(tiny_model(LAYOUT), "peft_config")
