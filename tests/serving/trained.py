# pyright: reportMissingImports=false
"""Trained models and what `generate` makes of their prompts, to compare with an engine's tokens.

The tests of engines need an environment of their own: `make test-serving`. Elsewhere they are skipped.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loopway.training.config.run_config import RunConfig
from loopway.training.run import train

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
#: The page that is held out in training, and begins the prompts.
PROMPTED = DOCS / "data.md"


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

    @classmethod
    def read(cls, run: Path) -> "Trained":
        """The model of a run and its answers, as :func:`main` left them."""
        found = json.loads((run / "answers.json").read_text(encoding="utf-8"))
        return cls(run / "model", [Answer(*answer) for answer in found["answers"]], found["prompts"])


def main(folder: Path, family: str, variant: str) -> None:
    """Train a model on Loopway's own documentation, in the run folder `FAMILY/VARIANT`, and write its answers there."""
    text = folder / "text"
    text.mkdir(exist_ok=True)
    for page in sorted(DOCS.glob("*.md")):
        (text / f"{page.stem}.txt").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    held_out = folder / "held-out.txt"
    (text / f"{PROMPTED.stem}.txt").replace(held_out)
    config = {
        "model": {"family": family, "max_position_embeddings": 256, **FAMILIES[family], **VARIANTS[variant]},
        "data": {
            "train": f"{text}/*.txt",
            "validation": str(held_out),
            "vocab_size": 512,
            "sequence_length": 64,
        },
        "training": {
            "max_steps": 60,
            "global_batch_size": 16,
            "per_device_train_batch_size": 16,
            "learning_rate": 3e-3,
            "bf16": False,
        },
    }
    path = folder / f"{family}-{variant}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    run = folder / family / variant
    train(RunConfig.load(path), run, data_folder=folder / "data")
    model = answered(run / "model")
    found = {"answers": model.answers, "prompts": model.prompts}
    (run / "answers.json").write_text(json.dumps(found), encoding="utf-8")


def answered(folder: Path) -> Trained:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = PROMPTED.read_text(encoding="utf-8")
    prompts = [text[500 * number : 500 * number + 10 + 17 * number] for number in range(16)]
    ids = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Trained(folder, [answer_of(model, prompt) for prompt in ids], prompts)


def answer_of(model: Any, prompt: list[int], new_tokens: int = NEW_TOKENS) -> Answer:
    """What the model generates greedily."""
    whole = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    two = logprobs_of(model, whole[0].tolist())[len(prompt) - 1 :].topk(2).values
    leads = two[:, 0] - two[:, 1]
    return Answer(prompt, whole[0, len(prompt) :].tolist(), two[:, 0].tolist(), leads.tolist())


def logprobs_of(model: Any, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of every token after the first, over the vocabulary: ``[tokens - 1, vocab]``."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, :-1].float().log_softmax(-1)


def assert_same(answer: Answer, tokens: list[int], logprobs: list[float] | None = None) -> None:
    """The engine's greedy tokens are `generate`'s up to the first tie, and as probable."""
    same = next(
        (n for n, pair in enumerate(zip(answer.tokens, tokens, strict=True)) if len(set(pair)) > 1), None
    )
    if same is not None:
        assert answer.leads[same] < TIE, f"token {same} differs: {tokens} instead of {answer.tokens}"
    if logprobs is not None:
        assert logprobs[:same] == pytest.approx(answer.logprobs[:same], abs=1e-4)


def assert_serves(engine: Any, answers: list[Answer], **options: Any) -> list[Any]:
    """The engine's greedy completions of all prompts at once are `generate`'s; returns its outputs."""
    new_tokens = len(answers[0].tokens)
    outputs = outputs_of(engine, [answer.prompt for answer in answers], max_tokens=new_tokens, **options)
    for answer, output in zip(answers, outputs, strict=True):
        got = output.outputs[0]
        assert_same(answer, list(got.token_ids), [step[token].logprob for step, token in steps_of(got)])
    return outputs


def steps_of(completion: Any) -> list[tuple[dict[int, Any], int]]:
    """A completion's log-probabilities by token, and its token, for each step."""
    return list(zip(completion.logprobs, completion.token_ids, strict=True))


def outputs_of(engine: Any, prompts: list[list[int]], **options: Any) -> list[Any]:
    """The engine's outputs for all prompts at once, greedy by default; ``options`` are vLLM's sampling parameters."""
    from vllm import SamplingParams

    options = {"temperature": 0, "max_tokens": NEW_TOKENS, "ignore_eos": True, "logprobs": 0, **options}
    given = [{"prompt_token_ids": prompt} for prompt in prompts]
    return engine.generate(given, SamplingParams(**options), use_tqdm=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
