"""Where other libraries go by a list of model types or class names, they treat a recursive model as one of its family."""

from pathlib import Path
from typing import Any

import peft
import peft.utils.constants
import pytest
import torch
import torch.nn.functional as F
import transformers
from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG
from tiny_models import FAMILIES, family_config, random_ids, tiny_config, tiny_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)
from transformers.cli.serving import utils as serving
from transformers.cli.serving.model_manager import ModelManager
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import loopway
from loopway.modeling import families

ROWS = [name for name in FAMILIES if name in families.FAMILIES]  # a family once
SMOOTHING = 0.1
HEADS = [AutoModelForSequenceClassification, AutoModelForTokenClassification]


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """The label-smoothed loss of predicting each next token."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=SMOOTHING)


@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "with LoRA"])
def test_label_smoothing_learns_the_next_token(wrapped: bool, tmp_path: Path) -> None:
    model = tiny_model("1+2R2+1", "mesh", "llama", dtype=torch.float32)
    ids = random_ids()
    expected = smoothed(model(ids).logits, ids)
    if wrapped:  # an adapter starts at what the model computes
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), label_smoothing_factor=SMOOTHING, use_cpu=True, report_to="none"
    )
    trainer = Trainer(model, arguments)
    loss = trainer.compute_loss(model, {"input_ids": ids, "labels": ids})
    torch.testing.assert_close(loss, expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("family", ROWS)
def test_every_family_s_class_is_listed_as_a_causal_language_model(family: str) -> None:
    model = tiny_model(family=family)
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model.config.model_type] == type(model).__name__
    mapping: Any = AutoModelForCausalLM._model_mapping
    assert mapping._load_attr_from_module(model.config.model_type, type(model).__name__) is type(model)


def test_a_family_that_is_registered_later_is_listed_too() -> None:
    family = loopway.Family("stablelm", "StableLm")
    loopway.register_family(family)
    try:
        targets = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["recursive_stablelm"] == "RecursiveStableLmForCausalLM"
        assert targets["recursive_stablelm"] == targets["stablelm"]
    finally:
        del families.FAMILIES["stablelm"]


def lists_of_peft() -> dict[str, dict]:
    """PEFT's lists by model type, by name."""
    found = {name: value for name, value in vars(peft.utils.constants).items() if name.endswith("_MAPPING")}
    assert len(found) > 5
    return {**found, "TRANSFORMERS_MODEL_CONFIG": TRANSFORMERS_MODEL_CONFIG}


@pytest.mark.parametrize("family", ROWS)
def test_peft_adapts_by_default_what_it_adapts_of_the_family(family: str) -> None:
    for name, entries in lists_of_peft().items():
        assert entries.get(f"recursive_{family}") == entries.get(family), name
    if family not in peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        return
    own = AutoModelForCausalLM.from_config(family_config(family, num_hidden_layers=4))
    adapted = [
        {
            name.replace(".layers.0.layers.", ".layers.")
            for name, _ in peft.get_peft_model(
                model, peft.LoraConfig(task_type="CAUSAL_LM")
            ).named_parameters()  # type: ignore[arg-type]
            if "lora_" in name
        }
        for model in (tiny_model("1+2R2+1", "mesh", family), own)
    ]
    assert len(adapted[0]) > 0
    assert adapted[0] == adapted[1]


@pytest.mark.parametrize("family", ROWS)
def test_transformers_serve_opens_a_recursive_model_and_reads_its_text_as_the_family_s(
    family: str, tmp_path: Path
) -> None:
    model = tiny_model(family=family, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    served = ModelManager(device="cpu")._load_model(f"{tmp_path}@main")
    assert type(served) is type(model)
    assert ModelManager.get_model_modality(served) is serving.Modality.LLM
    template = serving.get_response_template(None, served)
    assert template == serving.get_response_template(
        None, AutoModelForCausalLM.from_config(family_config(family))
    )


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@pytest.mark.parametrize("family", ROWS)
def test_texts_and_tokens_are_classified_by_a_head_on_the_recursive_model(
    family: str, head: Any, tmp_path: Path
) -> None:
    model = tiny_model("1+2R2+1", "mesh", family, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    classifier = head.from_pretrained(tmp_path / "model", num_labels=3).eval()
    ids = random_ids()
    ids[0, 9:] = model.config.pad_token_id
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state
        logits = classifier(ids).logits
    expected = classifier.score(hidden)
    if head is AutoModelForSequenceClassification:
        expected = expected[[0, 1], [8, 11]]  # the last token that isn't padding
    torch.testing.assert_close(logits, expected)

    labels = torch.zeros(ids.shape if head is AutoModelForTokenClassification else len(ids), dtype=torch.long)
    classifier.train()(ids, labels=labels).loss.backward()
    assert all(weight.grad is not None for weight in classifier.parameters())
    assert "RecursiveStack" in classifier._no_split_modules

    classifier.save_pretrained(tmp_path / "classifier")
    again = head.from_pretrained(tmp_path / "classifier")
    assert torch.equal(again(ids).logits, logits)


def test_another_head_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Unrecognized configuration class .*RecursiveLlamaConfig"):
        transformers.AutoModelForQuestionAnswering.from_config(tiny_config(family="llama"))
