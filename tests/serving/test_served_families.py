# pyright: reportMissingImports=false
"""vLLM serves every family: its attention windows, scales, caps and experts, on random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modeling.tiny_models import FAMILIES, FAMILY_CONFIGS, VOCABULARY, tiny_model
from tests.serving.trained import answer_of, assert_serves

pytest.importorskip("vllm")

HEAD = 32  # vLLM's attention on CPUs needs heads of 32


def wide_model(family: str, **options: Any) -> Any:
    """A tiny model with heads of 32, whose random matrices are small enough for two clear candidates."""
    sizes = FAMILY_CONFIGS[family][1]
    wide = {
        "hidden_size": 4 * HEAD,
        "head_dim": HEAD,
        "query_pre_attn_scalar": HEAD,
        "attention_multiplier": HEAD**-0.5,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in wide.keys() & sizes.keys():
            patch.setitem(sizes, name, wide[name])
        model = tiny_model("1+2R3+1", "mesh", family, dtype=torch.float32, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.5)
    return model


def assert_family_served(
    serve: Callable[..., Any], folder: Path, family: str, options: dict[str, Any], **engine: Any
) -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = [
        torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in (3, 14, 22)
    ]
    model = wide_model(family, **options)
    model.save_pretrained(folder)
    answers = [answer_of(model, prompt, 24) for prompt in prompts]
    assert_serves(
        serve(folder, skip_tokenizer_init=True, max_model_len=64, **engine), answers, detokenize=False
    )


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, {}) for family in FAMILIES),
        # A dense layer among experts, outside the loop and in it.
        ("qwen3_moe", {"mlp_only_layers": [0, 2]}),
    ],
    ids=[*FAMILIES, "qwen3_moe_dense"],
)
def test_every_family(
    family: str, options: dict[str, Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    assert_family_served(serve, tmp_path, family, options)


@pytest.mark.slow
def test_compiled_layers_of_two_kinds(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    assert_family_served(serve, tmp_path, "gemma3_text", {}, enforce_eager=False)
