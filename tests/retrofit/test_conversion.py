"""A retrofitted model computes what its layers compute, no more and no less."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import FAMILIES, cases, logits_of, plain_model, pretrained
from transformers import AutoModelForCausalLM, StableLmConfig

import loopway
from loopway.layout import Layout
from loopway.modeling import families
from loopway.modeling.weights import layers_of
from loopway.retrofit.filling import WAYS
from tests.modeling.tiny_models import random_ids


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_sharing_the_logits_are_the_originals_bit_for_bit(family: str, dtype: torch.dtype) -> None:
    model = pretrained(family, dtype=dtype)
    for layout in ("6", "2+2+2", "1+5"):
        recursive = loopway.retrofit_model(model, layout=layout)
        assert recursive.dtype == dtype and recursive.config.layout == layout
        assert torch.equal(logits_of(recursive, random_ids()), logits_of(model, random_ids()))


@pytest.mark.parametrize(("family", "layout"), cases("1+2R2+1", "2R3", "1+1R2+1+1R2"))
def test_with_base_recursion_it_is_the_plain_model_with_layers_repeated(family: str, layout: str) -> None:
    model = pretrained(family)
    recursive = loopway.retrofit_model(model, layout=layout, fill="average")
    unrolled = [layer for stage in Layout.parse(layout).stages for layer in stage.layers]
    plain = plain_model(model, unrolled, list(layers_of(recursive)))
    ids = random_ids()
    assert torch.equal(logits_of(recursive, ids), logits_of(plain, ids))
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(recursive.generate(ids, **options), plain.generate(ids, **options))  # type: ignore[operator]


@pytest.mark.parametrize("recurrence", ["static", "dynamic"])
def test_trained_scalars_start_at_what_the_layers_compute(recurrence: str) -> None:
    model = pretrained()
    base = loopway.retrofit_model(model, layout="1+2R2+1")
    other = loopway.retrofit_model(model, layout="1+2R2+1", recurrence=recurrence)
    assert torch.equal(logits_of(other, random_ids()), logits_of(base, random_ids()))


@pytest.mark.parametrize("recurrence", ["residual", "anchor*", "static", "dynamic", "mesh"])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_same_with_any_recurrence_and_so_is_what_is_drawn_next(
    family: str, recurrence: str
) -> None:
    def made(recurrence: str) -> tuple[dict[str, Any], torch.Tensor]:
        torch.manual_seed(5)
        model = loopway.retrofit_model(
            pretrained(family), layout="1+2R2+1", recurrence=recurrence, start_at_base=False
        )
        return model.state_dict(), torch.rand(3)

    (base, after_base), (other, after) = made("base"), made(recurrence)
    assert base.keys() <= other.keys() and torch.equal(after, after_base)
    assert all(torch.equal(other[name], weight) for name, weight in base.items())


def test_layers_that_are_not_shared_are_the_originals_own() -> None:
    model = pretrained(depth=8)
    recursive = loopway.retrofit_model(model, layout="1+1R2+2+1R2+1", fill="last")
    for unique, original in enumerate([0, 2, 3, 4, 6, 7]):
        expected = layers_of(model)[original].state_dict()
        for name, value in layers_of(recursive)[unique].state_dict().items():
            assert torch.equal(value, expected[name]), (unique, name)


def test_the_original_is_left_as_it_is_and_shares_nothing() -> None:
    model = pretrained().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for way in WAYS:
        recursive = loopway.retrofit_model(
            model, layout="1+2R2+1", recurrence="mesh", fill=way, calibration=random_ids()
        )
        assert not recursive.training and model.training
        with torch.no_grad():
            for parameter in recursive.parameters():
                parameter.zero_()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_tied_and_untied_embeddings_stay_what_they_are(family: str, tied: bool) -> None:
    model = pretrained(family, tie_word_embeddings=tied)
    recursive = loopway.retrofit_model(model, layout="1+2R2+1")
    embeddings, head = recursive.get_input_embeddings().weight, recursive.get_output_embeddings().weight  # type: ignore[union-attr]
    assert (embeddings is head) == tied
    assert torch.equal(embeddings, model.get_input_embeddings().weight)  # type: ignore[arg-type]


def test_generation_config_and_attention_backend_come_along() -> None:
    model = pretrained()
    model.generation_config.max_new_tokens = 3
    model.set_attn_implementation("eager")
    recursive = loopway.retrofit_model(model, layout="1+2R2+1")
    assert recursive.generation_config.max_new_tokens == 3  # type: ignore[union-attr]
    assert recursive.config._attn_implementation == "eager"


@pytest.mark.parametrize("recurrence", ["base", "mesh", "anchor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_gives_the_same_bits(dtype: torch.dtype, recurrence: str, tmp_path: Path) -> None:
    model = pretrained(dtype=dtype)
    recursive = loopway.retrofit_model(model, layout="1+2R2+1", recurrence=recurrence)
    recursive.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, random_ids()), logits_of(recursive, random_ids()))


@pytest.mark.parametrize("recurrence", ["base", "mesh"])
def test_it_trains(recurrence: str) -> None:
    recursive = loopway.retrofit_model(pretrained(), layout="1+2R2+1", recurrence=recurrence)
    ids = random_ids()
    recursive.train()(ids, labels=ids).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in recursive.parameters()
    )


def test_options_of_the_recursive_config_reach_it() -> None:
    recursive = loopway.retrofit_model(
        pretrained(), layout="1+2R2+1", recurrence="mesh", num_slots=9, transition_router_input="prelude"
    )
    assert (recursive.config.num_slots, recursive.config.transition_router_input) == (9, "prelude")
    with pytest.raises(loopway.LoopwayError, match="has no field 'num_slot'"):
        loopway.retrofit_model(pretrained(), layout="1+2R2+1", num_slot=9)


def test_a_family_of_the_users_own_is_retrofitted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "stablelm", loopway.Family("stablelm", "StableLm"))
    config = StableLmConfig(
        use_qkv_bias=True,
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=4,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for way in WAYS:  # with biases in some of its linear maps
        recursive = loopway.retrofit_model(model, layout="1+1R2+1", fill=way, calibration=random_ids())
        assert type(recursive).__name__ == "RecursiveStableLmForCausalLM"
        assert torch.isfinite(logits_of(recursive, random_ids())).all()


def test_layers_without_experts_stay_so_where_they_go_to_another_position() -> None:
    model = pretrained("qwen3_moe", 6, decoder_sparse_step=2, mlp_only_layers=[3])  # 1 and 5 have experts
    recursive = loopway.retrofit_model(model, layout="1+2R2+1", fill="spaced")  # of layers 0, 1, 4, 5
    assert [hasattr(layer.mlp, "experts") for layer in layers_of(recursive)] == [False, True, False, True]  # type: ignore[union-attr]
    plain = loopway.export_model(recursive)
    assert plain.config.mlp_only_layers == [0, 2, 4]  # type: ignore[attr-defined]
    assert torch.equal(logits_of(plain, random_ids()), logits_of(recursive, random_ids()))
    with pytest.raises(loopway.LoopwayError, match="experts in one, none in another"):
        loopway.retrofit_model(model, layout="1+2R2+1", fill="average")
    unshared = loopway.retrofit_model(model, layout="2+4")
    assert (unshared.config.decoder_sparse_step, unshared.config.mlp_only_layers) == (2, [3])
    assert torch.equal(logits_of(unshared, random_ids()), logits_of(model, random_ids()))


def test_a_layer_stays_of_its_kind_where_it_goes_to_another_position() -> None:
    sliding, full = "sliding_attention", "full_attention"
    kinds = [sliding, *[full, sliding, full] * 2, sliding]
    model = pretrained("olmo3", 8, layer_types=kinds)
    with pytest.raises(
        loopway.LoopwayError, match=r"fold layers 1 \(full_attention\) and 2 \(sliding_attention\)"
    ):
        loopway.retrofit_model(model, layout="1+1R6+1")
    # Layers 1, 3 and 6 are kept; the second stands where layers 2 and 5 were, which are sliding.
    recursive = loopway.retrofit_model(model, layout="1+3R2+1", fill="spaced")
    unique: Any = layers_of(recursive)
    assert [layer.self_attn.sliding_window for layer in unique] == [5, None, None, None, 5]
    assert recursive.config.layer_types == [sliding, *[full] * 6, sliding]
    average = loopway.retrofit_model(model, layout="1+3R2+1", fill="average")
    assert average.config.layer_types == kinds
