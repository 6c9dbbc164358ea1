"""Mixtures of experts: routers of every loop are seen, and the auxiliary loss counts each loop once."""

from typing import Any

import pytest
import torch
from tiny_models import gradients, random_ids, tiny_model
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from loopway.modeling import loss as loss_module

WEIGHT = 0.5


def routed_model(layout: str = "1+2R3+1", **options: Any) -> Any:
    return tiny_model(layout, "mesh", "qwen3_moe", router_aux_loss_coef=WEIGHT, **options)


def test_the_auxiliary_loss_counts_every_loop_of_a_layer_once() -> None:
    model, ids = routed_model(mlp_only_layers=[1]), random_ids()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    plain = model(ids, attention_mask=mask, labels=ids)
    routed = model(ids, attention_mask=mask, labels=ids, output_router_logits=True)
    # Layer 1 is dense, layer 2 runs three times.
    assert [logits.shape for logits in routed.router_logits] == [(24, 4)] * 5
    expected = load_balancing_loss_func(routed.router_logits, 4, 2, mask)
    torch.testing.assert_close(routed.aux_loss, expected, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(routed.loss, plain.loss + WEIGHT * expected, rtol=0.0, atol=1e-6)
    assert torch.equal(routed.logits, plain.logits)
    assert plain.get("aux_loss") is None and plain.get("router_logits") is None


@pytest.mark.parametrize("chunked", [False, True])
def test_without_logits_the_auxiliary_loss_is_the_same(
    chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = routed_model(output_router_logits=True).train(), random_ids()
    expected = model(ids, labels=ids)
    expected.loss.backward()
    wanted = gradients(model)
    model.zero_grad()
    if chunked:
        monkeypatch.setattr(loss_module, "_LOGITS_HELD", 0)
    found = model(ids, labels=ids, skip_logits=True)
    found.loss.backward()
    assert found.logits is None
    torch.testing.assert_close(found.loss, expected.loss, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(gradients(model), wanted, rtol=0.0, atol=1e-10)


def test_evaluation_leaves_the_auxiliary_loss_out() -> None:
    model, ids = routed_model(output_router_logits=True), random_ids()
    found = model(ids, labels=ids, loss_per_sample=True).loss
    torch.testing.assert_close(found.sum() / 22, model(ids, labels=ids, output_router_logits=False).loss)


def test_experts_are_computed_the_same_by_grouped_products() -> None:
    model, ids = routed_model(dtype=torch.float32), random_ids()
    expected = model(ids).logits
    model.set_experts_implementation("batched_mm")
    assert model.config._experts_implementation == "batched_mm"
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
