"""Initial values: depth-scaled output projections, routers of their own; and what is loaded stays."""

import json
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
        **({"head_dim": 64} if family in ("qwen3", "gemma3_text") else {}),
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
    outputs = (
        "attention.dense",
        "mlp.dense_4h_to_h",
        "self_attn.o_proj",
        "mlp.down_proj",
        "experts.down_proj",
    )
    counted = 0
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert (weight == 0).all()
        if weight.ndim < 2 or "recurrence" in name or "embed" in name or name.endswith("mlp.gate.weight"):
            continue
        is_output = name.removesuffix(".weight").endswith(outputs)
        counted += is_output
        assert weight.std().item() == pytest.approx(scaled if is_output else 0.02, rel=0.03), name
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


SLOTTED = [("mesh", slots) for slots in (None, 1, 3, 7)]
RECURRENCES = [
    *((name, None) for name in ("residual", "anchor", "anchor*", "residual+anchor", "static", "dynamic")),
    *SLOTTED,
]


def fresh(recurrence: str, slots: int | None, family: str = "gpt_neox", layout: str = "1+2R3+1") -> Any:
    torch.manual_seed(11)
    return AutoModelForCausalLM.from_config(tiny_config(layout, recurrence, family, num_slots=slots))


def shared_equally(one: dict[str, Any], other: dict[str, Any]) -> int:
    """The number of tensors that two models share, all of which are equal."""
    shared = [name for name in one if name in other and one[name].shape == other[name].shape]
    assert all(torch.equal(one[name], other[name]) for name in shared)
    return len(shared)


@pytest.mark.parametrize(("recurrence", "slots"), RECURRENCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_differ_in_their_recurrence_start_with_equal_layers(
    family: str, recurrence: str, slots: int | None
) -> None:
    base = fresh("base", None, family)
    after_base = torch.rand(3)
    other = fresh(recurrence, slots, family)
    assert shared_equally(other.state_dict(), base.state_dict()) == len(base.state_dict())
    assert torch.equal(torch.rand(3), after_base), "what is drawn next is the same, too"


@pytest.mark.parametrize("layout", ["2+2", "2R2", "1+1R2+1R3", "4"])
def test_in_any_layout(layout: str) -> None:
    base = fresh("base", None, layout=layout).state_dict()
    recurrences = ["mesh", "dynamic"] if "R" in layout else ["mesh"] if "+" in layout else []
    for recurrence in recurrences:
        assert shared_equally(fresh(recurrence, None, layout=layout).state_dict(), base) == len(base)


def test_layouts_that_cut_the_same_layers_start_alike() -> None:
    vanilla, cut = (
        fresh("base", None, layout="4").state_dict(),
        fresh("mesh", None, layout="1+2+1").state_dict(),
    )
    assert shared_equally(cut, vanilla) == len(vanilla)


@pytest.mark.parametrize("slots", [3, 7])
def test_routers_start_alike_with_any_number_of_slots_or_boundaries_that_keeps_their_shape(
    slots: int,
) -> None:
    two, three = (fresh("mesh", slots, layout=layout) for layout in ("1+2R2+1", "1+2R3+1"))
    alike = shared_equally(stack_of(two).recurrence.state_dict(), stack_of(three).recurrence.state_dict())
    assert alike == 3 * 2 * 2  # weight and bias of two routers at the three boundaries that both have
    weights = [w for name, w in stack_of(three).recurrence.named_parameters() if name.endswith("weight")]
    assert len({weight.flatten()[0].item() for weight in weights}) == len(weights), "each its own numbers"


def test_routers_follow_the_seed() -> None:
    first = stack_of(fresh("mesh", None)).recurrence.state_dict()
    torch.manual_seed(12)
    other = AutoModelForCausalLM.from_config(tiny_config("1+2R3+1", "mesh"))
    name = "write_routers.0.weight"
    assert not torch.equal(first[name], stack_of(other).recurrence.state_dict()[name])


class Drawing(loopway.Recurrence):
    """A plugin's recurrence that draws its values, and more, from torch's stream."""

    def __init__(self, options: loopway.RecurrenceOptions) -> None:
        super().__init__(options)
        self.gate = nn.Linear(options.hidden_size, 1)

    def reset_parameters(self) -> None:
        torch.rand(3)
        nn.init.normal_(self.gate.weight)

    def start(self, embeddings: Any) -> None:
        return None

    def advance(self, state: None, step: int, stage_input: Any, stage_output: Any) -> tuple[Any, None]:
        return stage_output * self.gate(stage_input).sigmoid(), None


def test_layers_start_alike_beside_a_recurrence_of_ones_own() -> None:
    loopway.register_recurrence("drawing", Drawing)
    base = fresh("base", None).state_dict()
    model = fresh("drawing", None)
    assert shared_equally(model.state_dict(), base) == len(base)
    again = fresh("drawing", None)
    assert shared_equally(model.state_dict(), again.state_dict()) == len(model.state_dict())


def test_a_recurrence_with_parameters_must_say_how_they_start() -> None:
    class Forgetful(Drawing):
        reset_parameters = loopway.Recurrence.reset_parameters

    loopway.register_recurrence("forgetful", Forgetful)
    with pytest.raises(NotImplementedError, match=r"Forgetful has parameters: define reset_parameters"):
        fresh("forgetful", None)


INITIAL_VALUES = json.loads(Path(__file__).with_name("initial_values.json").read_text(encoding="utf-8"))


BEGINNINGS = [
    (key, name)
    for key in INITIAL_VALUES
    for name in ("base", "residual", "anchor")
    if name == "base" or "R" in key
]


@pytest.mark.parametrize(("key", "recurrence"), BEGINNINGS)
def test_layers_start_as_in_the_first_release(key: str, recurrence: str) -> None:
    """First and last value of every random tensor at seed 0, as stored runs began with them."""
    family, layout = key.split()
    torch.manual_seed(0)
    state = AutoModelForCausalLM.from_config(tiny_config(layout, recurrence, family)).state_dict()
    for name, ends in INITIAL_VALUES[key].items():
        values = state[name].flatten()
        assert [values[0].item(), values[-1].item()] == pytest.approx(ends, abs=2e-6), name
