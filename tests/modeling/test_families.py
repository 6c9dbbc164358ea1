"""A family of one's own, registered from user code with one row, works as the built-in ones do."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_models import GROUPED, gradients, random_ids, randomize
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PhiConfig,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

import loopway
from loopway.errors import FamilyError
from loopway.modeling import families, family_check
from loopway.modeling import loss as loss_module


@pytest.fixture(autouse=True)
def clean_families() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(families.FAMILIES)
    yield
    families.FAMILIES.clear()
    families.FAMILIES.update(before)


ROWS = [
    (
        loopway.Family("starcoder2", "Starcoder2", residual_outputs=("self_attn.o_proj", "mlp.c_proj")),
        Starcoder2Config(**GROUPED),
    ),
    (loopway.Family("stablelm", "StableLm"), StableLmConfig(**GROUPED)),
    (loopway.Family("gemma", "Gemma"), GemmaConfig(**GROUPED, head_dim=8)),
    # Heads that do more than their linear map: a scale, a cap, a bias.
    (loopway.Family("cohere", "Cohere"), CohereConfig(**GROUPED, logit_scale=0.3)),
    (loopway.Family("gemma2", "Gemma2"), Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=1.5)),
    (
        loopway.Family("phi", "Phi", residual_outputs=("self_attn.dense", "mlp.fc2")),
        PhiConfig(**GROUPED),
    ),
]


@pytest.mark.parametrize(("family", "own_config"), ROWS, ids=lambda value: getattr(value, "model_type", None))
@torch.no_grad()
def test_a_registered_family_works_from_end_to_end(
    family: loopway.Family, own_config: Any, tmp_path: Path
) -> None:
    with pytest.raises(FamilyError, match=f"family '{family.model_type}' is not supported"):
        loopway.recursive_config(own_config, layout="1+2R2+1")
    loopway.register_family(family)
    loopway.register_family(family)  # the same row again: a notebook cell or a plugin that runs twice
    with pytest.raises(FamilyError, match="is registered already"):
        loopway.register_family(replace(family, residual_outputs=()))

    config = loopway.recursive_config(own_config, layout="1+2R3+1", recurrence="mesh")
    model: Any = AutoModelForCausalLM.from_config(config).double().eval()
    assert type(model) is getattr(loopway, f"Recursive{family.prefix}ForCausalLM")
    randomize(model)
    ids = random_ids()
    logits = model(ids).logits
    cache = model(ids[:, :7], use_cache=True).past_key_values
    cached = model(ids[:, 7:], past_key_values=cache).logits
    torch.testing.assert_close(cached, logits[:, 7:], rtol=0.0, atol=1e-9)

    model.float().save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == f"Recursive{family.prefix}Model"


@pytest.mark.parametrize(("family", "own_config"), ROWS, ids=lambda value: getattr(value, "model_type", None))
@torch.no_grad()
def test_one_segment_of_a_registered_family_is_the_familys_own_model(
    family: loopway.Family, own_config: Any
) -> None:
    loopway.register_family(family)
    own_config = type(own_config)(**{**own_config.to_dict(), "num_hidden_layers": 3, "layer_types": None})
    own = AutoModelForCausalLM.from_config(own_config).eval()
    randomize(own)
    config = loopway.recursive_config(own_config, layout="3", scale_embeddings=False)
    ours = AutoModelForCausalLM.from_config(config).eval()
    renamed = {name.replace(".layers.", ".layers.0.layers."): w for name, w in own.state_dict().items()}
    ours.load_state_dict(renamed)
    ids = random_ids()
    expected, found = own(ids, labels=ids), ours(ids, labels=ids)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(ours(ids, logits_to_keep=2).logits, expected.logits[:, -2:])
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize(("family", "own_config"), ROWS, ids=lambda value: getattr(value, "model_type", None))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_lean_loss_of_a_registered_family_has_its_heads_value_and_gradients(
    dtype: torch.dtype, family: loopway.Family, own_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopway.register_family(family)
    config = loopway.recursive_config(own_config, layout="1+1R2", recurrence="mesh")
    model: Any = AutoModelForCausalLM.from_config(config).to(dtype).train()
    randomize(model)
    ids = random_ids(2, 24)
    plain = model(ids, labels=ids)
    plain.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    monkeypatch.setattr(loss_module, "_LOGITS_HELD", 0)
    monkeypatch.setattr(loss_module, "_CHUNK_ROWS", 16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        lean = model(ids, labels=ids, skip_logits=True)
    assert not any(
        shape[-1:] == (config.vocab_size,) and shape.numel() > 16 * config.vocab_size for shape in kept
    )  # type: ignore[attr-defined]
    lean.loss.backward()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(lean.loss, plain.loss, rtol=tolerance, atol=0.0)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = max(expected[name].abs().max().item(), 1e-6)
        torch.testing.assert_close(gradient / scale, expected[name] / scale, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_finished_head_trains_in_one_graph(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    family, own_config = next(row for row in ROWS if row[0].model_type == "gemma2")
    loopway.register_family(family)
    if chunked:
        monkeypatch.setattr(loss_module, "_LOGITS_HELD", 0)
        monkeypatch.setattr(loss_module, "_CHUNK_ROWS", 16)
    model: Any = AutoModelForCausalLM.from_config(loopway.recursive_config(own_config, layout="1R2")).double()
    ids = random_ids()
    expected = model.train()(ids, labels=ids, skip_logits=True).loss
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = compiled(ids, labels=ids, skip_logits=True).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0.0, atol=1e-10)


def test_a_wrapped_head_of_a_family_is_called_and_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    family, own_config = next(row for row in ROWS if row[0].model_type == "gemma2")
    loopway.register_family(family)
    monkeypatch.setattr(loss_module, "_LOGITS_HELD", 0)
    model: Any = AutoModelForCausalLM.from_config(loopway.recursive_config(own_config, layout="1R2")).double()
    ids = random_ids()
    model.lm_head.register_forward_hook(lambda _, inputs, output: 20 * output)
    loss = model(ids, labels=ids, skip_logits=True).loss
    logits = model(ids).logits
    assert logits.abs().max() <= 1.5
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("model_type", ["gpt_neox", "llama"])
def test_a_built_in_family_is_not_replaced(model_type: str) -> None:
    with pytest.raises(FamilyError, match="is registered already"):
        loopway.register_family(loopway.Family(model_type, "Gemma"))


def test_a_prefix_that_transformers_does_not_have_is_named() -> None:
    with pytest.raises(
        FamilyError, match="has no BananaConfig, BananaModel, BananaForCausalLM; check the prefix 'Banana'"
    ):
        loopway.register_family(loopway.Family("banana", "Banana"))
    assert "banana" not in families.FAMILIES


class SquashedConfig(LlamaConfig):
    model_type = "squashed"


class SquashedForCausalLM(LlamaForCausalLM):
    """Squashes hidden states before the head, which no family of transformers does."""

    def __init__(self, config: Any) -> None:
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Any = None, labels: Any = None, logits_to_keep: Any = 0, **given: Any
    ) -> Any:
        hidden = self.model(input_ids, use_cache=False).last_hidden_state
        logits = self.lm_head(hidden.tanh())
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits)


REFUSED = [
    (
        loopway.Family("squashed", "Squashed"),
        "differs in loss with skip_logits=True from SquashedForCausalLM",
    ),
    (loopway.Family("phi", "Phi"), r"no 'self_attn.o_proj'; .* from mlp.fc1, mlp.fc2, self_attn.dense, "),
    (loopway.Family("ministral", "Mistral"), "MistralConfig is of model type 'mistral'; give that"),
    (
        loopway.Family("bloom", "Bloom"),
        "has no attribute 'layers'; the family.s base model needs a list",
    ),
]


@pytest.mark.parametrize(("family", "message"), REFUSED, ids=lambda value: getattr(value, "model_type", None))
def test_a_family_that_would_compute_something_else_is_refused(
    family: loopway.Family, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("Config", SquashedConfig),
        ("Model", LlamaModel),
        ("ForCausalLM", SquashedForCausalLM),
    ):
        for module in {transformers, families.transformers, family_check.transformers}:  # imported twice
            monkeypatch.setattr(module, f"Squashed{name}", value, raising=False)
    before = torch.random.get_rng_state()
    with pytest.raises(FamilyError, match=message):
        loopway.register_family(family)
    assert family.model_type not in families.FAMILIES
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_misspelt_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(FamilyError, match=r"'lama' is not supported \(did you mean 'llama'\?\)"):
        families.family_named("lama")
