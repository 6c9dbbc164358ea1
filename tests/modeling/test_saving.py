"""Saved and loaded, a model gives the same bits; and it can be built without any memory."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, random_ids, stack_of, tiny_config, tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig

import loopway

SCHEMES = [
    ("1+2R3+1", "mesh"),
    ("1+1+1+1", "mesh"),
    ("1+2R3+1", "static"),
    ("1+2R3+1", "dynamic"),
    ("2R2", "residual"),
]


def same_bits(model: Any, folder: Path, **options: Any) -> Any:
    """Load ``folder`` and hold its logits against the model's own."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    ids = random_ids()
    with torch.no_grad():
        found, expected = loaded.eval()(ids).logits, model(ids).logits
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    # Products of single experts differ in their last digit with where in memory the weights lie.
    rounding = 1e-4 if "experts" in str(model.state_dict().keys()) else 0.0
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)
    assert type(loaded) is type(model)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("layout", "recurrence"), SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_gives_identical_logits(
    family: str, layout: str, recurrence: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_model(layout, recurrence, family, dtype=dtype)
    model.save_pretrained(tmp_path)
    loaded = same_bits(model, tmp_path)
    assert loaded.dtype == dtype
    assert loaded.config.layout == layout and loaded.config.recurrence == recurrence


def test_a_saved_folder_holds_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "recursive_gpt_neox"
    assert config["layout"] == "1+2R3+1" and config["recurrence"] == "mesh"
    assert config["architectures"] == ["RecursiveGPTNeoXForCausalLM"]


def test_shards_are_put_together_again(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    same_bits(model, tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_tied_and_untied_embeddings_stay_what_they_are(family: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(family=family, dtype=torch.float32, tie_word_embeddings=tied)

    def is_tied(model: Any) -> bool:
        return model.get_input_embeddings().weight is model.get_output_embeddings().weight

    assert is_tied(model) == tied
    model.save_pretrained(tmp_path)
    assert is_tied(same_bits(model, tmp_path)) == tied
    ids = random_ids()
    model.train()(ids, labels=ids).loss.backward()
    grads = [model.get_input_embeddings().weight.grad, model.get_output_embeddings().weight.grad]
    assert all(grad is not None for grad in grads)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert loopway.parameter_report(model.config).total == total


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_resized_embeddings_are_saved_and_loaded(family: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(family=family, dtype=torch.float32, tie_word_embeddings=tied)
    before = model(random_ids()).logits
    model.resize_token_embeddings(80)
    assert model.config.vocab_size == 80
    logits = model(random_ids()).logits
    assert logits.shape[-1] == 80
    assert torch.equal(logits[..., : before.shape[-1]], before)
    model.save_pretrained(tmp_path)
    same_bits(model, tmp_path)
    ids = random_ids() + 15  # with new tokens
    assert model.train()(ids, labels=ids).loss.isfinite()


def test_a_state_dict_goes_through_torch_save(tmp_path: Path) -> None:
    model = tiny_model()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = tiny_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(random_ids()).logits, model(random_ids()).logits)


def test_a_config_is_the_same_after_json(tmp_path: Path) -> None:
    for family in FAMILIES:
        config = tiny_config(
            "1+2R3+1", "mesh", family, num_slots=7, transition_router_input="prelude", scale_embeddings=False
        )
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert type(loaded) is type(config)
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert loaded.num_hidden_layers == 8 and loaded.num_unique_layers == 4
        assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_the_auto_classes_open_every_kind_of_model(tmp_path: Path) -> None:
    for family in FAMILIES:
        model = tiny_model(family=family, dtype=torch.float32)
        model.save_pretrained(tmp_path)
        base: Any = AutoModel.from_pretrained(tmp_path)
        ids = random_ids()
        torch.testing.assert_close(model.head_logits(base.eval()(ids).last_hidden_state), model(ids).logits)
        assert type(AutoConfig.for_model(model.config.model_type)) is type(model.config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_on_the_meta_device_takes_no_memory(family: str) -> None:
    config = tiny_config("1+2R3+1", "mesh", family)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    real = AutoModelForCausalLM.from_config(config)
    shapes = {name: parameter.shape for name, parameter in real.named_parameters()}
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes


def test_a_models_type_is_what_the_config_asks_for() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = AutoModelForCausalLM.from_config(tiny_config(), dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_generation_settings_travel_with_the_model(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    model.generation_config = GenerationConfig(
        max_new_tokens=3, do_sample=False, eos_token_id=2, pad_token_id=0
    )
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(1, 4)
    assert torch.equal(loaded.generate(ids), model.generate(ids))
    assert loaded.generate(ids).shape[1] <= 7


def test_a_checkpoint_of_a_family_can_be_resumed_with_another_layout_of_the_same_depth(
    tmp_path: Path,
) -> None:
    """Layers are numbered over the unique ones, so two layouts of equal parameter depth share weights."""
    model = tiny_model("2+2", "base", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    config = tiny_config("1+2R2+1", "base")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, config=config)
    for mine, theirs in zip(
        stack_of(loaded).layers.parameters(), stack_of(model).layers.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
