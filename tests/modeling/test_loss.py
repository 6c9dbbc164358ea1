"""The loss: exact, shifted as in every Hugging Face model, and without all logits where that pays."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import FAMILIES, gradients, random_ids, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainingArguments, default_data_collator

from loopway.modeling import loss as loss_module


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_targets_in_nats(family: str) -> None:
    model = tiny_model(family=family)
    ids = random_ids()
    labels = ids.clone()
    labels[0, :5] = -100
    logits = model(ids).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    evaluated = model(ids, labels=labels)
    trained = model.train()(ids, labels=labels)
    for output in (evaluated, trained):
        assert output.loss.dtype == torch.float64
        torch.testing.assert_close(output.loss, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_left_out_only_where_that_is_asked_for(training: bool) -> None:
    model = tiny_model().train(training)
    ids = random_ids()
    logits = model(ids).logits
    with_logits = model(ids, labels=ids)
    assert torch.equal(with_logits.logits, logits)
    assert torch.equal(model(ids, shift_labels=ids).logits, logits)
    without = model(ids, labels=ids, skip_logits=True)
    assert without.logits is None
    torch.testing.assert_close(without.loss, with_logits.loss, rtol=0.0, atol=1e-12)
    loss, first = model(ids, labels=ids, return_dict=False)[:2]
    assert loss.ndim == 0 and torch.equal(first, logits)


class Accuracy(Trainer):
    """Reads logits in training, as metrics, penalties of entropy and distillation do."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        found: Any = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss, outputs = found
        assert outputs.logits.shape == (*inputs["labels"].shape, model.config.vocab_size)
        return (loss, outputs) if return_outputs else loss


def test_a_trainer_that_reads_logits_trains(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, report_to="none", save_strategy="no", use_cpu=True
    )
    samples: Any = [{"input_ids": row, "labels": row} for row in random_ids(8)]
    Accuracy(model, arguments, train_dataset=samples, data_collator=default_data_collator).train()


@pytest.mark.parametrize("training", [True, False])
def test_shift_labels_are_labels_already_shifted(training: bool) -> None:
    model = tiny_model().train(training)
    ids = random_ids()
    shifted = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    expected = model(ids, labels=ids).loss
    torch.testing.assert_close(model(ids, shift_labels=shifted).loss, expected, rtol=0.0, atol=0.0)
    both = model(
        ids, labels=torch.zeros_like(ids), shift_labels=shifted
    ).loss  # as the Trainer's packing gives them
    torch.testing.assert_close(both, expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_num_items_in_batch_divides_the_sum(training: bool, as_tensor: bool) -> None:
    model = tiny_model().train(training)
    ids = random_ids()  # 2 rows of 11 targets
    mean = model(ids, labels=ids).loss
    items = torch.tensor(40) if as_tensor else 40
    torch.testing.assert_close(model(ids, labels=ids, num_items_in_batch=items).loss, mean * 22 / 40)


@pytest.mark.parametrize("num_items", [None, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_chunked_loss_has_the_plain_ones_value_and_gradients(
    dtype: torch.dtype, num_items: int | None
) -> None:
    vocabulary, tokens = 12_000, 1_500
    assert vocabulary * tokens > 2**24  # chunked in training, all logits at once in evaluation
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, 8, generator=generator, dtype=dtype)
    weight = torch.randn(vocabulary, 8, generator=generator, dtype=dtype)
    targets = torch.randint(vocabulary, (1, tokens), generator=generator)
    targets[0, ::7] = -100
    results = []
    for chunked in (True, False):
        leaves = (hidden.clone().requires_grad_(), weight.clone().requires_grad_())
        if chunked:
            value = loss_module.loss_from_hidden(*leaves, targets, num_items)
        else:
            value = loss_module.loss_from_logits(F.linear(*leaves), targets, num_items)
        value.backward()
        results.append([value, *(leaf.grad for leaf in leaves)])
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_long_batch_trains_without_ever_holding_all_logits() -> None:
    vocabulary, tokens = 140_000, 128
    assert vocabulary * tokens > 2**24
    model = tiny_model(
        "1+1R2+1", vocab_size=vocabulary, max_position_embeddings=256, dtype=torch.float32
    ).train()
    ids = random_ids(1, tokens)
    sizes = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids, labels=ids, skip_logits=True).loss
    assert max(sizes) < vocabulary * tokens
    loss.backward()
    chunked = gradients(model)
    model.zero_grad()
    plain = model(ids, labels=ids)
    plain.loss.backward()
    torch.testing.assert_close(loss, plain.loss, rtol=1e-5, atol=1e-5)
    for name, grad in gradients(model).items():
        scale = grad.abs().max().item()
        torch.testing.assert_close(chunked[name] / scale, grad / scale, rtol=0.0, atol=1e-4)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    ids = random_ids()
    logits = model(ids).logits.float()
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    for training in (True, False):
        loss = model.train(training)(ids, labels=ids).loss
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("autocast", [True, False])
def test_a_long_batch_in_half_precision_keeps_a_float32_loss_and_no_more_logits_than_a_chunk(
    autocast: bool,
) -> None:
    vocabulary, tokens = 12_000, 1_500
    assert vocabulary * tokens > 2**24
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if autocast else torch.bfloat16
    hidden = torch.randn(1, tokens, 8, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, 8, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (1, tokens), generator=generator)
    targets[0, ::7] = -100
    kept = []
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        loss = loss_module.loss_from_hidden(hidden, weight, targets)
        plain = F.cross_entropy(F.linear(hidden, weight).float()[0].detach(), targets[0])
    assert max(kept) < vocabulary * 512
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0.0)
    loss.backward()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    loss_module.loss_from_logits(F.linear(*exact), targets).backward()
    for ours, true in zip((hidden, weight), exact, strict=True):
        assert ours.grad is not None and true.grad is not None
        assert (ours.grad.double() - true.grad).norm() < 0.02 * true.grad.norm()


@pytest.mark.parametrize("tokens", [4096, 32768])
def test_the_heads_gradient_in_half_precision_is_as_exact_as_without_chunks_at_any_length(
    tokens: int,
) -> None:
    vocabulary, hidden_size = 4200, 32
    assert vocabulary * tokens > 2**24
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, hidden_size, generator=generator)
    weight = 0.2 * torch.randn(vocabulary, hidden_size, generator=generator)
    targets = torch.randint(vocabulary, (1, tokens), generator=generator)

    def gradients_of(loss: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
            value = loss(*leaves)
        return [gradient.double() for gradient in torch.autograd.grad(value, leaves)]

    def whole(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return loss_module.loss_from_logits(F.linear(hidden, weight), targets)

    true = gradients_of(whole, torch.float64)
    ours = gradients_of(lambda h, w: loss_module.loss_from_hidden(h, w, targets), torch.float32)
    plain = gradients_of(whole, torch.float32)
    for chunked, unchunked, exact in zip(ours, plain, true, strict=True):
        assert (chunked - exact).norm() <= 1.2 * (unchunked - exact).norm()


def test_a_frozen_head_gets_no_gradient_and_the_states_get_theirs() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 1500, 8, generator=generator, requires_grad=True)
    weight = torch.randn(12_000, 8, generator=generator)
    targets = torch.randint(12_000, (1, 1500), generator=generator)
    chunked = torch.autograd.grad(loss_module.loss_from_hidden(hidden, weight, targets), hidden)
    plain = torch.autograd.grad(loss_module.loss_from_logits(F.linear(hidden, weight), targets), hidden)
    torch.testing.assert_close(chunked, plain, rtol=2e-5, atol=2e-5)


class Products(TorchDispatchMode):
    """Counts matrix products, and notes the shapes of what is allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.count += func.overloadpacket._qualified_op_name in ("aten::mm", "aten::addmm", "aten::addmm_")
        if isinstance(found, torch.Tensor):
            self.shapes.append(found.shape)
        return found


@pytest.mark.parametrize("finish", [None, torch.tanh])
@pytest.mark.parametrize(
    ("grad_enabled", "trained", "products"),
    [
        (False, ("hidden", "weight"), 1),
        (True, (), 1),
        (True, ("hidden",), 2),
        (True, ("weight",), 2),
        (True, ("hidden", "weight"), 3),
    ],
)
def test_a_chunk_makes_only_the_gradients_that_are_wanted(
    grad_enabled: bool, trained: tuple[str, ...], products: int, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "_LOGITS_HELD", 0)
    monkeypatch.setattr(loss_module, "_CHUNK_ROWS", 32)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 64, 12, generator=generator, requires_grad="hidden" in trained)
    weight = torch.randn(50, 12, generator=generator, requires_grad="weight" in trained)
    targets = torch.randint(50, (1, 64), generator=generator)
    with torch.set_grad_enabled(grad_enabled), Products() as seen:
        loss = loss_module.loss_from_hidden(hidden, weight, targets, finish=finish)
    logits = F.linear(hidden, weight)
    expected = loss_module.loss_from_logits(logits if finish is None else finish(logits), targets)
    torch.testing.assert_close(loss, expected.detach() if products == 1 else expected)
    assert seen.count == products * (2 if finish is None else 8)
    assert (weight.shape in seen.shapes) == (grad_enabled and "weight" in trained)
    leaves = [leaf for leaf in (hidden, weight) if leaf.requires_grad and grad_enabled]
    if leaves:
        found, wanted = (torch.autograd.grad(value, leaves) for value in (loss, expected))
        torch.testing.assert_close(found, wanted)


def test_the_graph_of_a_chunked_loss_can_be_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12_000, 8, generator=generator, requires_grad=True)
    hidden, targets = torch.randn(1, 1500, 8, generator=generator), torch.randint(12_000, (1, 1500))
    loss = loss_module.loss_from_hidden(hidden, weight, targets)
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and not first.is_set_to(second)
