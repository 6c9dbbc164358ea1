"""A family of one's own, registered from user code with one row, works as the built-in ones do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import GROUPED, random_ids, randomize
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GemmaConfig, Qwen2Config, StableLmConfig

import loopway
from loopway.errors import FamilyError
from loopway.modeling import families


@pytest.fixture(autouse=True)
def clean_families() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(families.FAMILIES)
    yield
    families.FAMILIES.clear()
    families.FAMILIES.update(before)


ROWS = [
    (loopway.Family("qwen2", "Qwen2"), Qwen2Config(**GROUPED)),
    (loopway.Family("stablelm", "StableLm"), StableLmConfig(**GROUPED)),
    (loopway.Family("gemma", "Gemma"), GemmaConfig(**GROUPED, head_dim=8)),
]


@pytest.mark.parametrize(("family", "own_config"), ROWS, ids=lambda value: getattr(value, "model_type", None))
@torch.no_grad()
def test_a_registered_family_works_from_end_to_end(
    family: loopway.Family, own_config: Any, tmp_path: Path
) -> None:
    with pytest.raises(FamilyError, match=f"family '{family.model_type}' is not supported"):
        loopway.recursive_config(own_config, layout="1+2R2+1")
    loopway.register_family(family)
    loopway.register_family(family)  # the same row again: a notebook cell or a plugin that runs twice
    with pytest.raises(FamilyError, match="is registered already"):
        loopway.register_family(replace(family, residual_outputs=()))

    config = loopway.recursive_config(own_config, layout="1+2R3+1", recurrence="mesh")
    model: Any = AutoModelForCausalLM.from_config(config).double().eval()
    assert type(model) is getattr(loopway, f"Recursive{family.prefix}ForCausalLM")
    randomize(model)
    ids = random_ids()
    logits = model(ids).logits
    cache = model(ids[:, :7], use_cache=True).past_key_values
    cached = model(ids[:, 7:], past_key_values=cache).logits
    torch.testing.assert_close(cached, logits[:, 7:], rtol=0.0, atol=1e-9)

    model.float().save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == f"Recursive{family.prefix}Model"


@pytest.mark.parametrize(("family", "own_config"), ROWS, ids=lambda value: getattr(value, "model_type", None))
@torch.no_grad()
def test_one_segment_of_a_registered_family_is_the_familys_own_model(
    family: loopway.Family, own_config: Any
) -> None:
    loopway.register_family(family)
    own_config.num_hidden_layers = 3
    own = AutoModelForCausalLM.from_config(own_config).eval()
    randomize(own)
    config = loopway.recursive_config(own_config, layout="3", scale_embeddings=False)
    ours = AutoModelForCausalLM.from_config(config).eval()
    renamed = {name.replace(".layers.", ".layers.0.layers."): w for name, w in own.state_dict().items()}
    ours.load_state_dict(renamed)
    assert torch.equal(ours(random_ids()).logits, own(random_ids()).logits)


@pytest.mark.parametrize("model_type", ["gpt_neox", "llama"])
def test_a_built_in_family_is_not_replaced(model_type: str) -> None:
    with pytest.raises(FamilyError, match="is registered already"):
        loopway.register_family(loopway.Family(model_type, "Gemma"))


def test_a_prefix_that_transformers_does_not_have_is_named() -> None:
    with pytest.raises(
        FamilyError, match="has no BananaConfig, BananaModel, BananaForCausalLM; check the prefix 'Banana'"
    ):
        loopway.register_family(loopway.Family("banana", "Banana"))
    assert "banana" not in families.FAMILIES


def test_a_misspelt_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(FamilyError, match=r"'lama' is not supported \(did you mean 'llama'\?\)"):
        families.family_named("lama")
