"""What transformers and others need to know to spread a model over devices names modules where they are."""

import re
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, family_config, tiny_config, tiny_model
from transformers import AutoModel, DynamicCache

from loopway.modeling.cache import StageCache


def names_in(plan: Any) -> list[str]:
    """Every module name of a parallelism plan, whose keys are names or tuples of names."""
    if isinstance(plan, dict):
        return [name for key in plan for name in names_in(key)]
    return [plan] if isinstance(plan, str) else [name for part in plan for name in names_in(part)]


@pytest.mark.parametrize("kind", ["base_model_tp_plan", "base_model_fsdp_plan"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parallelism_plans_name_modules_that_are_there(family: str, kind: str) -> None:
    own = getattr(family_config(family), kind)
    config = tiny_config("1+2R3+1", "mesh", family)
    ours = getattr(config, kind)
    assert len(names_in(ours or {})) == len(names_in(own or {}))
    layers = [name for name in names_in(ours or {}) if name.startswith("layers.")]
    assert layers
    names = [name for name, _ in AutoModel.from_config(config).named_modules()]
    for layer in layers:
        pattern = re.escape(layer).replace(r"\*", "[0-9]+")
        assert sum(re.fullmatch(pattern, name) is not None for name in names) == 4, layer  # the unique layers


def test_pipeline_stages_are_not_offered_since_they_share_layers() -> None:
    assert all(tiny_config(family=family).base_model_pp_plan is None for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_map_must_not_cut_the_stack_in_two(family: str) -> None:
    assert "RecursiveStack" in tiny_model(family=family)._no_split_modules


@torch.no_grad()
def test_a_stages_view_of_the_cache_knows_its_own_entries_and_leaves_the_rest_to_the_cache() -> None:
    cache = DynamicCache()
    view = StageCache(cache, 3)
    view.update(torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8), 1)
    assert [cache.get_seq_length(index) for index in range(5)] == [0, 0, 0, 0, 5]
    assert (view.get_seq_length(1), view.get_seq_length(0)) == (5, 0)
    assert view.layers is cache.layers
