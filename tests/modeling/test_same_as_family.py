"""One segment with plain options is the family's own model, bit for bit."""

import pytest
import torch
from tiny_models import FAMILIES, family_config, random_ids, randomize, tiny_config
from transformers import AutoModelForCausalLM

INSIDE = ".layers.0.layers."


def pair(family: str, dtype: torch.dtype, attention: str):
    """The family's own model, and ours with the same weights."""
    own_config = family_config(family, num_hidden_layers=3)
    own = AutoModelForCausalLM.from_config(own_config, attn_implementation=attention).to(dtype).eval()
    randomize(own)
    config = tiny_config("3", "base", family, scale_embeddings=False)
    ours = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()
    # A unique layer's weights keep the family's names; only where the layers are differs.
    ours.load_state_dict({name.replace(".layers.", INSIDE): w for name, w in own.state_dict().items()})
    return own, ours


# transformers' eager attention gives NaN for padding in float64, in the family's own model as well.
KINDS = [
    (torch.float64, "sdpa"),
    *((t, a) for t in (torch.float32, torch.bfloat16) for a in ("eager", "sdpa")),
]


@pytest.mark.parametrize(("dtype", "attention"), KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_segment_gives_the_familys_logits_bit_for_bit(
    family: str, dtype: torch.dtype, attention: str
) -> None:
    own, ours = pair(family, dtype, attention)
    ids = random_ids()
    padding = torch.ones_like(ids)
    padding[0, :4] = 0
    for mask in (None, padding):
        with torch.no_grad():
            expected, actual = (model(ids, attention_mask=mask, labels=ids) for model in (own, ours))
        assert torch.equal(actual.logits, expected.logits)
        torch.testing.assert_close(actual.loss, expected.loss, check_dtype=False, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_segment_gives_the_familys_gradients(family: str) -> None:
    own, ours = pair(family, torch.float64, "eager")
    ids = random_ids()
    for model in (own, ours):
        model(ids).logits.logsumexp(-1).sum().backward()
    expected = {name.replace(".layers.", INSIDE): p.grad for name, p in own.named_parameters()}
    actual = {name: p.grad for name, p in ours.named_parameters()}
    assert actual.keys() == expected.keys()
    for name, grad in actual.items():
        assert torch.equal(grad, expected[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_one_segment_generates_what_the_family_generates(family: str) -> None:
    own, ours = pair(family, torch.float64, "eager")
    ids = random_ids(length=5)
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(ours.generate(ids, **options), own.generate(ids, **options))
