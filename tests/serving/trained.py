# pyright: reportMissingImports=false
"""Trained models and what `generate` makes of their prompts, to compare with an engine's tokens.

The tests of engines need an environment of their own: `make test-serving`. Elsewhere they are skipped.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 64
#: Two candidates nearer than this may change places.
TIE = 1e-4
VARIANTS = {
    "vanilla": {"layout": "6"},
    "base": {"layout": "1+2R2+1", "recurrence": "base"},
    "anchor": {"layout": "1+2R2+1", "recurrence": "anchor"},
    "mesh": {"layout": "1+2R2+1", "recurrence": "mesh"},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neox": {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
    "llama": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 128,
    },
}
DOCS = Path(__file__).parents[2] / "docs"


class Answer(NamedTuple):
    """Greedy tokens of a prompt, each with its log-probability and its lead over the next candidate's."""

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    leads: list[float]


class Trained(NamedTuple):
    """A model that was trained here."""

    folder: Path
    answers: list[Answer]
    prompts: list[str]


def answered(folder: Path) -> Trained:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    prompts = [text[500 * number : 500 * number + 10 + 17 * number] for number in range(16)]
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        whole = model.generate(
            torch.tensor([ids]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        with torch.no_grad():
            logprobs = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        two = logprobs.topk(2).values
        answers.append(
            Answer(ids, whole[0, len(ids) :].tolist(), two[:, 0].tolist(), (two[:, 0] - two[:, 1]).tolist())
        )
    return Trained(folder, answers, prompts)


def assert_same(answer: Answer, tokens: list[int], logprobs: list[float] | None = None) -> None:
    """The engine's greedy tokens are `generate`'s up to the first tie, and as probable."""
    same = next(
        (n for n, pair in enumerate(zip(answer.tokens, tokens, strict=True)) if len(set(pair)) > 1), None
    )
    if same is not None:
        assert answer.leads[same] < TIE, f"token {same} differs: {tokens} instead of {answer.tokens}"
    if logprobs is not None:
        assert logprobs[:same] == pytest.approx(answer.logprobs[:same], abs=1e-4)


def answers_of(engine: Any, prompts: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[Any]:
    """The engine's greedy completions of all prompts at once."""
    from vllm import SamplingParams

    wanted = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, logprobs=0)
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], wanted, use_tqdm=False)
    return [output.outputs[0] for output in outputs]
