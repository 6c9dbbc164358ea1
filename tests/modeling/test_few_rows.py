"""Few rows go to oneDNN while a model generates; numbers stay, and so does everything that isn't a plain map."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import random_ids, tiny_model
from torch import nn

from loopway.modeling import few_rows

needs_onednn = pytest.mark.skipif(not few_rows._has_onednn(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of these tests have no others."""
    monkeypatch.setattr(few_rows, "_SMALL", 0)


@needs_onednn
def test_a_small_map_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows, "_SMALL", 64)
    small, large = nn.Linear(9, 7), nn.Linear(8, 8)
    with few_rows.fast_few_rows(nn.ModuleList([small, large])):
        assert (type(small), type(large)) == (nn.Linear, few_rows.FewRowsLinear)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4, 1), (3, 7), (40, 10), (0, 3)])
@torch.no_grad()
def test_products_are_those_of_a_linear_map(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 17, bias=bias)
    given = torch.randn(*shape, 24)
    expected = linear(given)
    with few_rows.fast_few_rows(linear):
        assert type(linear) is few_rows.FewRowsLinear
        torch.testing.assert_close(linear(given), expected, rtol=1e-5, atol=1e-6)
    assert type(linear) is nn.Linear


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 24), (2, 1, 24)])
@torch.no_grad()
def test_what_compiled_code_calls_is_that_product(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 17, bias=bias)
    given = (torch.randn(*shape), linear.weight, linear.bias)
    product = torch.ops.loopway.few_rows_linear
    torch.testing.assert_close(product(*given), linear(given[0]), rtol=1e-5, atol=1e-6)
    torch.library.opcheck(product.default, given, test_utils=("test_schema", "test_faketensor"))


@needs_onednn
def test_the_last_of_several_threads_puts_the_maps_back() -> None:
    linear = nn.Linear(8, 8)
    with few_rows.fast_few_rows(linear):
        with few_rows.fast_few_rows(linear):
            pass
        assert type(linear) is few_rows.FewRowsLinear
    assert type(linear) is nn.Linear and not few_rows._users


@torch.no_grad()
def test_onednn_turned_off_stays_off() -> None:
    linear = nn.Linear(8, 8)
    with torch.backends.mkldnn.flags(enabled=False), few_rows.fast_few_rows(linear):
        assert type(linear) is nn.Linear


def test_gradients_and_other_precisions_are_left_to_the_linear_map() -> None:
    linear, double = nn.Linear(8, 8), nn.Linear(8, 8).double()
    given = torch.randn(2, 8, requires_grad=True)
    with few_rows.fast_few_rows(nn.ModuleList([linear, double])):
        assert type(double) is nn.Linear
        linear(given).sum().backward()
    assert given.grad is not None and linear.weight.grad is not None


@needs_onednn
@torch.no_grad()
def test_generation_gives_its_products_to_onednn_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.float32)
    seen = []
    forward = few_rows.FewRowsLinear.forward

    def watched(self: few_rows.FewRowsLinear, input: torch.Tensor) -> torch.Tensor:
        seen.append(self)
        return forward(self, input)

    monkeypatch.setattr(few_rows.FewRowsLinear, "forward", watched)
    ids = random_ids(1, 5)
    logits = model(ids).logits
    assert not seen
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, eos_token_id=None
    )
    linears = {module for module in model.modules() if isinstance(module, nn.Linear)}
    assert set(seen) == linears
    assert all(type(module) is nn.Linear for module in linears)
    assert torch.equal(model(ids).logits, logits)
    with few_rows.fast_few_rows(model):
        torch.testing.assert_close(model(ids).logits, logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_generation_under_autocast_stays_autocasts_own() -> None:
    model = tiny_model(dtype=torch.float32)
    ids = random_ids(1, 5)
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    options |= {"attention_mask": torch.ones_like(ids), "output_logits": True}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.generate(ids, **options)
        expected = model(ids).logits[:, -1]
    torch.testing.assert_close(found.logits[0], expected.float(), rtol=0.0, atol=0.0)


@torch.no_grad()
def test_an_adapted_model_generates_through_its_adapters() -> None:
    model = tiny_model("1+1R2+1", dtype=torch.float32)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["dense", "lm_head"], task_type="CAUSAL_LM")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.5)
    ids = random_ids(1, 5)
    expected = ids
    for _ in range(4):
        following = adapted(input_ids=expected).logits[:, -1:].argmax(-1)
        expected = torch.cat([expected, following], dim=1)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    found = adapted.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(found, expected)
