"""What doesn't fit is refused before any weight is read, with what would."""

import pytest
import torch
from pretrained import pretrained
from transformers import BertConfig, LlamaConfig, Qwen3Config

import loopway
from loopway.layout import Layout
from loopway.retrofit.suitability import check_fits, fitting_layouts
from tests.modeling.tiny_models import tiny_model

MIXED = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize("depth", range(1, 100))
def test_layouts_that_are_suggested_fit(depth: int) -> None:
    suggested = fitting_layouts(depth, {})
    assert [Layout.parse(layout).compute_depth for layout in suggested] == [depth] * len(suggested)
    for layout in suggested:
        check_fits(LlamaConfig(num_hidden_layers=depth), Layout.parse(layout))


def test_the_suggestion_for_thirty_layers_shares_a_third() -> None:
    assert fitting_layouts(30, {}) == ["6+9R2+6", "6+6R3+6", "30"]


def test_a_layout_of_another_depth_is_refused_with_some_that_fit() -> None:
    with pytest.raises(loopway.LoopwayError) as raised:
        loopway.retrofit_model(pretrained(depth=6), layout="2+4R2+2")
    assert str(raised.value) == (
        "layout 2+4R2+2 computes 12 layers and the model has 6; these would fit: 2+1R2+2, 1+1R3+2, 6"
    )


def test_layers_of_differing_attention_types_are_not_folded() -> None:
    config = Qwen3Config(num_hidden_layers=6, layer_types=MIXED * 3, use_sliding_window=True)
    with pytest.raises(loopway.LoopwayError, match=r"fold layers 1 \(sliding_attention\) and 2 \(full_atten"):
        check_fits(config, Layout.parse("1+1R4+1"))
    for layout in ("1+2R2+1", "6"):  # each fold is of one type
        check_fits(config, Layout.parse(layout))


def test_layouts_that_are_suggested_fold_layers_of_one_kind() -> None:
    config = Qwen3Config(num_hidden_layers=12, layer_types=MIXED * 6, use_sliding_window=True)
    with pytest.raises(loopway.LoopwayError, match=r"these would fit: 4\+2R2\+4, 3\+2R3\+3, 12$"):
        check_fits(config, Layout.parse("1+1R2+1"))
    for layout in ("4+2R2+4", "3+2R3+3"):
        check_fits(config, Layout.parse(layout))


def test_an_unsupported_family_is_refused_with_those_that_fit() -> None:
    with pytest.raises(loopway.LoopwayError, match=r"'bert' is not supported.*gpt_neox, llama, qwen3"):
        check_fits(BertConfig(), Layout.parse("12"))


@pytest.mark.parametrize(
    "quantization",
    [{"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes", "load_in_4bit": True}],
)
def test_quantised_weights_are_refused(quantization: dict) -> None:
    config = LlamaConfig(num_hidden_layers=6)
    config.quantization_config = quantization  # type: ignore[attr-defined]
    with pytest.raises(
        loopway.LoopwayError, match=f"quantised \\({quantization['quant_method']}\\).*float32"
    ):
        check_fits(config, Layout.parse("6"))


def test_a_recursive_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(loopway.LoopwayError, match=r"recursive already, of layout 1.2R3.1.*loopway export"):
        loopway.retrofit_model(tiny_model("1+2R3+1", dtype=torch.float32), layout="1+2R3+1")
