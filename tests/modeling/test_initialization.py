"""Initial values: depth-scaled output projections, routers of their own; and what is loaded stays."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, family_config, random_ids, stack_of, tiny_config, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

import loopway

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}


def wide_model(family: str, **options: Any) -> Any:
    config = loopway.recursive_config(
        family_config(family),
        layout="1+2R3+1",
        recurrence="mesh",
        **WIDE,
        **({"head_dim": 64} if family == "qwen3" else {}),
        **options,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("depth_scaled_init", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_residual_outputs_shrink_with_the_unrolled_depth_and_nothing_else_does(
    family: str, depth_scaled_init: bool
) -> None:
    model = wide_model(family, depth_scaled_init=depth_scaled_init)
    scaled = 0.02 / math.sqrt(2 * 8) if depth_scaled_init else 0.02  # 8 layers run, 4 are unique
    outputs = ("attention.dense", "mlp.dense_4h_to_h", "self_attn.o_proj", "mlp.down_proj")
    counted = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or "recurrence" in name:
            continue
        is_output = name.endswith(outputs)
        counted += is_output
        assert module.weight.std().item() == pytest.approx(scaled if is_output else 0.02, rel=0.03), name
        assert module.bias is None or (module.bias == 0).all()
    assert counted == 2 * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_start_near_zero_without_bias(family: str) -> None:
    routers = stack_of(wide_model(family)).recurrence
    count = 0
    for router in routers.modules():
        if isinstance(router, nn.Linear):
            count += 1
            assert router.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert (router.bias == 0).all()
    assert count == 2 * 4


@pytest.mark.parametrize("recurrence", ["static", "dynamic"])
def test_trained_sums_start_at_base_in_a_whole_model(recurrence: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("1+2R2+1", recurrence)).eval()
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(tiny_config("1+2R2+1", "base")).eval()
    base.load_state_dict({name: w for name, w in model.state_dict().items() if "recurrence" not in name})
    ids = random_ids()
    torch.testing.assert_close(model(ids).logits, base(ids).logits)


def test_a_seed_gives_the_same_model_again() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(AutoModelForCausalLM.from_config(tiny_config()).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("recurrence", ["mesh", "static", "dynamic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loading_never_undoes_what_was_loaded(family: str, recurrence: str, tmp_path: Path) -> None:
    model = tiny_model("1+2R2+1", recurrence, family, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def load(folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a folder, and which weights were missing."""
    return AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)  # type: ignore[return-value]


MISSING = "gpt_neox.layers.0.recurrence.write_routers.1.weight"


def test_a_router_missing_from_a_checkpoint_is_initialised_and_it_alone(tmp_path: Path) -> None:
    model = tiny_model("1+2R2+1", "mesh", dtype=torch.float32, hidden_size=512)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[MISSING]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, info = load(tmp_path)
    assert set(info["missing_keys"]) == {MISSING}
    for name, weight in loaded.state_dict().items():
        if name == MISSING:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        else:
            assert torch.equal(weight, weights[name]), name


def test_a_checkpoint_without_any_router_is_initialised_as_a_fresh_model_is(tmp_path: Path) -> None:
    """What turning a base model into a MeSH model does."""
    base = tiny_model("1+2R2+1", "base", dtype=torch.float32)
    base.save_pretrained(tmp_path)
    config = tiny_config("1+2R2+1", "mesh")
    loaded, info = load(tmp_path, config=config)
    assert all("recurrence" in name for name in info["missing_keys"]) and len(info["missing_keys"]) == 12
    for name, weight in loaded.state_dict().items():
        if "recurrence" not in name:
            assert torch.equal(weight, base.state_dict()[name]), name
        elif name.endswith("bias"):
            assert (weight == 0).all()
        else:
            assert 0.01 < weight.std() < 0.03, name
