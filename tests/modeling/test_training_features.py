"""What people do to a model in training: checkpointing, compiling, adapters, mixed precision."""

import copy
import shutil
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import FAMILIES, FIRST, MIXED, gradients, random_ids, stack_of, tiny_model

import loopway


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize(
    ("family", "recurrence"), [*((f, "mesh") for f in FAMILIES), *((f, "anchor") for f in FIRST)]
)
def test_gradient_checkpointing_gives_the_same_gradients(
    family: str, recurrence: str, use_reentrant: bool
) -> None:
    model = tiny_model("1+2R3+1", recurrence, family).train()
    ids = random_ids()
    plain_loss = model(ids, labels=ids).loss
    plain_loss.backward()
    expected = gradients(model)
    model.zero_grad()

    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})  # its name in every tested release
    calls = []
    for layer in stack_of(model).layers:
        layer.mlp.register_forward_pre_hook(lambda module, args: calls.append(module))  # type: ignore[union-attr]
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert len(calls) == 2 * model.config.num_hidden_layers  # once forward, once again in backward
    assert torch.equal(loss, plain_loss)
    actual = gradients(model)
    assert actual.keys() == expected.keys()
    for name, grad in actual.items():
        torch.testing.assert_close(grad, expected[name], rtol=0.0, atol=1e-12)


# The first families with MeSH, a head that scales, two kinds of layers and experts; and every kind of recurrence once:
# tracing takes seconds.
COMPILED = [
    *((family, "mesh") for family in (*FIRST, "granite", "gemma3_text", "qwen3_moe")),
    ("llama", "dynamic"),
]


@pytest.mark.parametrize(("family", "recurrence"), COMPILED)
def test_the_whole_forward_and_backward_is_one_graph(family: str, recurrence: str) -> None:
    torch.compiler.reset()
    # Two unique layers where they are of two kinds.
    eager = tiny_model("2R2" if family in MIXED else "1R2", recurrence, family).train()
    if family == "qwen3_moe":
        eager.set_experts_implementation("batched_mm")  # one after the other, experts are no graph
    compiled = copy.deepcopy(eager)
    step: Any = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    ids = random_ids()
    outputs = [model(ids, labels=ids) for model in (step, eager)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=0.0, atol=1e-10)
    losses = [output.loss for output in outputs]
    torch.testing.assert_close(*losses, rtol=0.0, atol=1e-10)
    for loss in losses:
        loss.backward()
    actual, expected = gradients(compiled), gradients(eager)
    assert actual.keys() == expected.keys()
    for name, grad in actual.items():
        torch.testing.assert_close(grad, expected[name], rtol=0.0, atol=1e-10)


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs a C++ compiler")
def test_inductor_compiles_the_chunked_loss_and_mesh_into_one_graph() -> None:
    torch.compiler.reset()
    vocabulary = 140_000  # times 128 tokens: more logits than are ever held at once
    model = tiny_model("1R2", vocab_size=vocabulary, max_position_embeddings=256, dtype=torch.float32).train()
    ids = random_ids(1, 128)
    expected = model(ids, labels=ids, skip_logits=True).loss
    compiled: Any = torch.compile(model, fullgraph=True)
    loss = compiled(ids, labels=ids, skip_logits=True).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "targets", ["all-linear", ["dense", "lm_head"], ["query_key_value", "dense_4h_to_h"]]
)
def test_lora_trains_the_adapter_alone_and_merges_into_the_same_logits(targets: Any) -> None:
    model = tiny_model("1+2R3+1", "mesh")
    ids = random_ids(2, 16)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    adapted.train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5

    adapted.eval()
    logits = adapted(input_ids=ids).logits
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-6, atol=1e-6)
    adapted_weights = 0
    for name, parameter in merged.named_parameters():
        adapted_weights += not torch.equal(parameter, before[name])
        if name.endswith("bias"):
            assert torch.equal(parameter, before[name]), name
    assert adapted_weights > 0


def test_the_training_loss_goes_through_an_adapter_on_the_head() -> None:
    model = tiny_model("1+1R2+1", "mesh")
    ids = random_ids()
    adapted: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    evaluated = adapted.eval()(input_ids=ids, labels=ids).loss
    trained = adapted.train()(input_ids=ids, labels=ids, skip_logits=True)
    torch.testing.assert_close(trained.loss, evaluated, rtol=0.0, atol=1e-10)
    assert trained.logits is None
    trained.loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in adapted.named_parameters() if "lora_" in n
    )


def test_a_wrapped_model_is_traced_through_its_wrapper() -> None:
    model = tiny_model("1+1R2+1", "mesh")
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["dense"], task_type="CAUSAL_LM"))
    with torch.no_grad(), loopway.trace_stages(adapted) as records:
        adapted(input_ids=random_ids())
    assert [record.stage.name for record in records] == ["prelude", "core[0]", "core[1]", "coda"]


# Every family with MeSH, and the first ones with every kind of recurrence.
RECURRENCES = ("static", "dynamic", "residual+anchor+anchor*")
PRECISIONS = [
    *((family, "mesh") for family in FAMILIES),
    *((family, recurrence) for family in FIRST for recurrence in RECURRENCES),
]


@pytest.mark.parametrize(("family", "recurrence"), PRECISIONS)
def test_bf16_models_and_bf16_autocast_give_what_float32_gives_roughly(family: str, recurrence: str) -> None:
    reference = tiny_model("1+1R2+1", recurrence, family, dtype=torch.float32)
    ids = random_ids()
    expected = reference(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = reference.train()(ids, labels=ids)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in reference.parameters())
    low = tiny_model("1+1R2+1", recurrence, family, dtype=torch.bfloat16)
    logits = low(ids).logits
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - expected).norm() / expected.norm()
    assert error < 0.15


def test_deep_copies_are_independent_and_equal() -> None:
    model = tiny_model("1+2R3+1", "mesh")
    ids = random_ids()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(ids).logits, model(ids).logits)
    assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    with torch.no_grad():
        stack_of(twin).layers[1].get_parameter("attention.dense.weight").zero_()
    assert not torch.equal(twin(ids).logits, model(ids).logits)
