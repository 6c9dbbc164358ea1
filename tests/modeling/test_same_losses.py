"""What makes training lean or fast changes no loss, over 50 steps of it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import random_ids, stack_of, tiny_config
from transformers import AutoModelForCausalLM

import loopway
from loopway.modeling import loss as loss_module
from loopway.modeling.recompute import RECOMPUTE_LEVELS
from tests.recurrence.buffer_mesh import BufferMeSH

STEPS = 50


def losses(model: Any, **options: Any) -> torch.Tensor:
    """Of every step, on batches that come again."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for step in range(STEPS):
        ids = random_ids(2, 24, seed=step % 5)
        loss = model(ids, labels=ids, use_cache=False, **{"skip_logits": True, **options}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(scope="module")
def start() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config("1+2R3+1", "mesh"), dtype=torch.float32).train()


@pytest.fixture(scope="module")
def expected(start: Any) -> torch.Tensor:
    found = losses(copy.deepcopy(start))
    assert found[-1] < 0.97 * found[0]
    return found


@pytest.mark.parametrize("level", RECOMPUTE_LEVELS[1:])
def test_recomputation_changes_no_bit(start: Any, expected: torch.Tensor, level: str) -> None:
    model = copy.deepcopy(start)
    loopway.set_recompute(model, level)
    assert torch.equal(losses(model), expected)


def with_a_buffer(model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    stack = stack_of(model)
    buffer = BufferMeSH(stack.layout, model.config.hidden_size, stack.recurrence.num_slots)  # type: ignore[arg-type]
    buffer.load_state_dict(stack.recurrence.state_dict())
    stack.recurrence = buffer  # type: ignore[assignment]
    return {}


def with_chunks(model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(loss_module, "_LOGITS_HELD", 0)
    monkeypatch.setattr(loss_module, "_CHUNK_ROWS", 7)
    return {}


def with_all_logits(model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"skip_logits": False}


@pytest.mark.parametrize("change", [with_a_buffer, with_chunks, with_all_logits])
def test_another_order_of_sums_changes_losses_by_rounding_alone(
    start: Any,
    expected: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any, pytest.MonkeyPatch], dict[str, Any]],
) -> None:
    model = copy.deepcopy(start)
    options = change(model, monkeypatch)
    torch.testing.assert_close(losses(model, **options), expected, rtol=1e-5, atol=0.0)
