"""transformers spreads a recursive model over workers and devices by its own functions, and it computes the same.

Two workers open every family by tensor parallelism and by FSDP2, with the plans that the classes name.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from parallel_worker import backward, computed, opened, whole_gradients
from tiny_models import FAMILIES, family_config, random_ids, tiny_config, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from loopway.modeling import families
from loopway.modeling.cache import StageCache
from tests.processes import Processes

ROWS = [name for name in FAMILIES if name in families.FAMILIES]  # a family once
#: torch 2.11 can't gather a tensor of two weights side by side, each sharded, which is how experts are stored.
SPREAD = [name for name in ROWS if name != "qwen3_moe" or Version(torch.__version__) >= Version("2.13")]
LAYOUT = "1+2R2+1"
SIZES: dict[str, Any] = {"vocab_size": 64}  # even: older releases of transformers shard no other head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every family the model itself with as many layers, a recursive one, and one whose head is tied."""
    folder = tmp_path_factory.mktemp("parallel")
    for family in SPREAD:
        own = family_config(family, num_hidden_layers=4, tie_word_embeddings=False, **SIZES)
        AutoModelForCausalLM.from_config(own).save_pretrained(folder / family / "own")
        for kind, tied in (("untied", False), ("tied", True)):
            model = tiny_model(LAYOUT, "mesh", family, tie_word_embeddings=tied, **SIZES)
            model.save_pretrained(folder / family / kind)
    return folder


@pytest.fixture(scope="module")
def spread(folder: Path, processes: Processes) -> dict[str, dict[str, Any]]:
    """What two workers found, by ``family/kind``."""
    script = Path(__file__).with_name("parallel_worker.py")
    processes.run_workers(2, folder, script=script, logs=folder)
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("family", SPREAD)
def test_tensor_parallelism_shards_what_the_family_shards_and_the_embedding(
    family: str, spread: dict[str, dict[str, Any]]
) -> None:
    expected = {name.replace("layers.", "layers.0.layers.") for name in spread[f"{family}/own"]["sharded"]}
    model: Any = AutoModelForCausalLM.from_config(tiny_config(LAYOUT, "mesh", family, **SIZES))
    embedding = model.get_input_embeddings()
    (name,) = (name for name, module in model.named_modules() if module is embedding)
    assert any(".layers.0.layers.2." in name for name in expected)
    assert spread[f"{family}/untied"]["sharded"] == expected | {f"{name}.weight"}


@pytest.mark.parametrize("kind", ["untied", "tied"])
@pytest.mark.parametrize("family", SPREAD)
def test_under_tensor_parallelism_a_model_computes_generates_learns_and_saves_the_same(
    family: str, kind: str, folder: Path, spread: dict[str, dict[str, Any]]
) -> None:
    expected, found = computed(opened(folder / family / kind)), spread[f"{family}/{kind}"]
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=0.0, atol=1e-10)
    assert torch.equal(found["generated"], expected["generated"])
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=0.0, atol=1e-10)
    assert_equal(found["gradients"], expected["gradients"], family)
    assert_equal(found["weights"], expected["weights"], family)
    saved = opened(folder / "saved" / family / kind)
    assert_equal(dict(saved.named_parameters()), found["weights"], family)


@pytest.mark.parametrize("family", SPREAD)
def test_under_transformers_own_fsdp_every_layer_is_a_unit_and_gradients_are_the_same(
    family: str, folder: Path, spread: dict[str, dict[str, Any]]
) -> None:
    model, found = opened(folder / family / "tied"), spread[f"{family}/tied"]["fsdp"]
    layers = {f"{model.base_model_prefix}.layers.0.layers.{index}" for index in range(4)}
    assert layers <= found["units"]
    torch.testing.assert_close(found["loss"], backward(model, random_ids(4)), rtol=0.0, atol=1e-10)
    assert_equal(found["gradients"], whole_gradients(model), family)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], family: str) -> None:
    """Raises at the first tensor that differs; the message names it."""
    rounding = 1e-6 if family == "gemma3_text" else 1e-10  # its norms compute in float32
    assert found.keys() == expected.keys()
    differences = {name: (found[name] - value).abs().max().item() for name, value in expected.items()}
    assert max(differences.values()) < rounding, max(differences.items(), key=lambda item: item[1])


@pytest.mark.parametrize("family", ROWS)
def test_pipeline_stages_are_not_offered_since_they_share_layers(family: str) -> None:
    assert not tiny_model(LAYOUT, family=family).supports_pp_plan


@pytest.mark.parametrize("family", ROWS)
@torch.no_grad()
def test_a_device_map_does_not_cut_the_stack_in_two(family: str, tmp_path: Path) -> None:
    model = tiny_model(LAYOUT, "mesh", family, dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    memory = sum(weight.nbytes for weight in model.parameters()) * 99 // 100  # for all but some of the layers
    split: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": memory},
        offload_folder=tmp_path / "offloaded",
    )
    assert set(split.hf_device_map.values()) == {"cpu", "disk"}
    assert not any(".layers.0." in name for name in split.hf_device_map)
    assert torch.equal(split(random_ids()).logits, model(random_ids()).logits)


@torch.no_grad()
def test_a_stages_view_of_the_cache_knows_its_own_entries_and_leaves_the_rest_to_the_cache() -> None:
    cache = DynamicCache()
    view = StageCache(cache, 3)
    view.update(torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8), 1)
    assert [cache.get_seq_length(index) for index in range(5)] == [0, 0, 0, 0, 5]
    assert (view.get_seq_length(1), view.get_seq_length(0)) == (5, 0)
    assert view.layers is cache.layers
