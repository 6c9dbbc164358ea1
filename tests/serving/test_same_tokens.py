"""vLLM's greedy tokens and log-probabilities are `generate`'s."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.trained import FAMILIES, VARIANTS, Trained, assert_serves

pytest.importorskip("vllm")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sixteen_prompts_at_once_get_the_tokens_of_generate(
    trained: dict[tuple[str, str], Trained], serve: Callable[..., Any], family: str, variant: str
) -> None:
    model = trained[family, variant]
    assert_serves(serve(model.folder), model.answers)


@pytest.mark.slow
def test_compiled_engine(
    trained: dict[tuple[str, str], Trained],
    serve: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the correction in `serving/inductor.py`, the compiled MeSH gives wrong tokens."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    model = trained["gpt_neox", "mesh"]
    assert_serves(serve(model.folder, enforce_eager=False), model.answers)
