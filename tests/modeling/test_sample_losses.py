"""One loss per sample: those of all logits, under any model's own head, in the memory of training or less."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_models import FAMILIES, SIZES, family_config, tiny_model
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, PreTrainedConfig

from loopway.modeling.loss import sample_losses_from_hidden
from loopway.modeling.sample_losses import losses_of_samples

LENGTH = 24
OWN_HEADS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Cohere": {"logit_scale": 0.3},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 1.5},
    "Granite": {"logits_scaling": 3.0},
    "Phi": {},  # whose head has a bias
    "GPT2": {"n_embd": 32, "n_head": 4},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # whose forward asks a part of its base model
}


def batch(vocabulary: int, samples: int = 3, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (samples, length), generator=generator)
    targets = torch.roll(ids, -1, 1)
    targets[:, -1] = targets[0, :5] = -100
    return ids, targets


def expected(logits: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return losses.view(targets.shape).sum(1)


def check(model: Any) -> None:
    ids, targets = batch(SIZES["vocab_size"])
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    sums, counts = losses_of_samples(model, {"input_ids": ids}, targets)
    torch.testing.assert_close(sums, expected(logits, targets), rtol=1e-12, atol=1e-12)
    assert counts.tolist() == [LENGTH - 6, LENGTH - 1, LENGTH - 1] and not sums.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recursive_model_s_losses_are_those_of_its_logits(family: str) -> None:
    check(tiny_model(family=family))


@pytest.mark.parametrize("family", OWN_HEADS)
def test_a_plain_model_s_losses_are_those_of_its_own_head(family: str) -> None:
    config: PreTrainedConfig = getattr(transformers, f"{family}Config")(
        **(SIZES | {"num_hidden_layers": 2} | OWN_HEADS[family])
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    check(model)
    assert "forward" not in model.base_model.__dict__


def test_a_wrapped_head_is_called() -> None:
    model = tiny_model()
    rows = []
    model.lm_head.register_forward_hook(
        lambda _, inputs, output: rows.append(output.shape[:-1].numel()) or 2 * output
    )
    check(model)
    assert sum(rows) == 2 * 3 * LENGTH  # the batch whole, then in rows


def test_chunks_of_rows_are_one_loss_per_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 300, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(50, (3, 300), generator=generator)
    targets[1, ::7] = -100
    sizes = []

    def head(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows @ weight.T

    losses = sample_losses_from_hidden(hidden, head, targets)
    torch.testing.assert_close(losses, expected(hidden @ weight.T, targets), rtol=1e-12, atol=1e-12)
    assert sum(sizes) == 900 and max(sizes) < 300


@pytest.mark.parametrize("autocast", [True, False])
def test_losses_of_half_precision_logits_are_float32(autocast: bool) -> None:
    model = tiny_model(dtype=torch.float32 if autocast else torch.bfloat16)
    ids, targets = batch(SIZES["vocab_size"])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.no_grad():
        sums, _ = losses_of_samples(model, {"input_ids": ids}, targets)
        logits = model(ids, use_cache=False).logits
    assert sums.dtype == torch.float32 and logits.dtype == torch.bfloat16
    torch.testing.assert_close(sums, expected(logits.float(), targets), rtol=1e-5, atol=1e-5)


def peak_bytes(act: Callable[[], Any]) -> int:
    """The most that is allocated at once while something is done, counted at the allocator."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    events: Any = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_evaluation_takes_no_more_memory_than_training_at_the_same_batch(plain: bool, autocast: bool) -> None:
    vocabulary, samples, length = 20_000, 8, 256
    options: dict[str, Any] = {"vocab_size": vocabulary, "max_position_embeddings": length}
    model = tiny_model("1+1R2+1", dtype=torch.float32, **options).train()
    ids, targets = batch(vocabulary, samples, length)

    def train() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(ids, shift_labels=targets, use_cache=False, skip_logits=True).loss
        loss.backward()
        model.zero_grad()

    def evaluate() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses_of_samples(evaluated, {"input_ids": ids}, targets)

    training = peak_bytes(train)
    evaluated = model.eval()
    if plain:
        config = family_config("llama", num_hidden_layers=4, **options)
        evaluated = AutoModelForCausalLM.from_config(config).eval()
    all_logits = samples * length * vocabulary * 4
    assert training < all_logits  # or the comparison says nothing
    assert peak_bytes(evaluate) < 1.1 * training
