"""vLLM's greedy tokens and log-probabilities are `generate`'s."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.serving.trained import FAMILIES, VARIANTS, Trained, answers_of, assert_same

pytest.importorskip("vllm")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sixteen_prompts_at_once_get_the_tokens_of_generate(
    trained: dict[tuple[str, str], Trained], serve: Callable[..., Any], family: str, variant: str
) -> None:
    model = trained[family, variant]
    engine = serve(model.folder)
    for answer, got in zip(model.answers, answers_of(engine, [a.prompt for a in model.answers]), strict=True):
        logprobs = [next(iter(step.values())).logprob for step in got.logprobs]
        assert_same(answer, list(got.token_ids), logprobs)
