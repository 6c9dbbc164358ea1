"""Tokens and log-probabilities stay `generate`'s, however vLLM schedules the requests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.serving.trained import Trained, answer_of, assert_serves, logprobs_of, outputs_of, steps_of

pytest.importorskip("vllm")

BLOCK = 32


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_prompts_in_chunks_and_requests_that_are_preempted(
    trained: dict[tuple[str, str], Trained], serve: Callable[..., Any], family: str
) -> None:
    """In a step of 24 tokens all prompts but two come in chunks, and 20 blocks hold about a third of all requests."""
    model = trained[family, "mesh"]
    engine = serve(
        model.folder,
        max_num_batched_tokens=24,
        block_size=BLOCK,
        num_gpu_blocks_override=20,
        disable_log_stats=False,
    )
    assert engine.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens == 24
    assert_serves(engine, model.answers)
    assert sum(metric.value for metric in engine.get_metrics() if metric.name == "vllm:num_preemptions") > 5


def test_cached_prefixes_and_log_probabilities(
    trained: dict[tuple[str, str], Trained], serve: Callable[..., Any]
) -> None:
    """Prompts that share four blocks take them from the cache, asked once and again."""
    folder = trained["llama", "mesh"].folder
    ours: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    long = max((answer.prompt for answer in trained["llama", "mesh"].answers), key=len)
    engine = serve(folder, block_size=BLOCK)

    shared = long[: 4 * BLOCK + 3]
    answers = [answer_of(ours, [*shared, *range(40, 40 + 9 * number)], 24) for number in range(1, 5)]
    outputs_of(engine, [shared], max_tokens=1)
    for _ in range(2):
        outputs = assert_serves(engine, answers)
        assert min(output.num_cached_tokens for output in outputs) >= 4 * BLOCK

    [output] = assert_serves(engine, answers[:1], logprobs=5, prompt_logprobs=5)
    completion = output.outputs[0]
    expected = logprobs_of(ours, [*output.prompt_token_ids, *completion.token_ids])
    got = [*output.prompt_logprobs[1:], *completion.logprobs]
    assert len(got) == len(expected) > 150
    for step, row in zip(got, expected, strict=True):
        assert len(step) >= 5
        assert [entry.logprob for entry in step.values()] == pytest.approx(row[list(step)].tolist(), abs=1e-4)

    sampled = [
        [output.outputs[0] for output in outputs_of(engine, [long] * 3, temperature=1, seed=seed)]
        for seed in (5, 5, 6)
    ]
    first, again, other = ([tuple(completion.token_ids) for completion in some] for some in sampled)
    assert first == again != other
    row = logprobs_of(ours, [*long, *first[0]])[len(long) - 1 :]
    chosen = row.gather(-1, torch.tensor(first[0])[:, None])[:, 0].tolist()
    assert [step[token].logprob for step, token in steps_of(sampled[0][0])] == pytest.approx(chosen, abs=1e-4)


def test_bfloat16(trained: dict[tuple[str, str], Trained], serve: Callable[..., Any]) -> None:
    """Log-probabilities of the engine's tokens are those of our model in bfloat16, up to its precision."""
    model = trained["gpt_neox", "mesh"]
    ours: Any = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.bfloat16).eval()
    engine = serve(model.folder, dtype="bfloat16")
    differences = []
    for output in outputs_of(engine, [answer.prompt for answer in model.answers]):
        prompt, completion = output.prompt_token_ids, output.outputs[0]
        expected = logprobs_of(ours, [*prompt, *completion.token_ids])[len(prompt) - 1 :]
        differences += [
            abs(step[token].logprob - row[token].item())
            for (step, token), row in zip(steps_of(completion), expected, strict=True)
        ]
    assert max(differences) < 0.1
    assert sum(differences) / len(differences) < 0.01
