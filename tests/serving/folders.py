"""Model folders of every kind with their greedy answers, made in a process that knows nothing of vLLM.

`python -m tests.serving.folders FOLDER` writes them and `answers.json`. Small as they are, random weights make a wrong
layer, cache entry or router visible.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import loopway
from loopway.data.tokenizer import train_tokenizer
from loopway.publishing.publish import publish_command
from loopway.retrofit.export import export_model
from tests.modeling.tiny_models import MIXED, family_config, layer_kinds, randomize
from tests.retrofit.pretrained import TEXTS

PROMPTS = [[5, 17, 33, 4], [9, 8, 7, 6, 5, 4, 3, 2, 44, 61, 100, 7, 250]]
NEW_TOKENS = 12
PLUGIN = """
import loopway


class HalfAnchor(loopway.Recurrence):
    needs_loop = True

    def start(self, embeddings):
        return embeddings

    def advance(self, state, step, stage_input, stage_output):
        return stage_output + state / 2, state


loopway.register_recurrence("half-anchor", HalfAnchor)
"""
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
HEADS: dict[str, dict[str, Any]] = {
    family: {"hidden_size": 64, "head_dim": 32} for family in ("llama", "qwen3", "qwen3_moe", "gemma3_text")
}


def make(family: str, layout: str | None, recurrence: str = "base", **options: Any) -> Any:
    """A model with random weights; one of the family itself without a layout."""
    fields = SIZES | HEADS.get(family, {}) | options.pop("fields", {})
    depth = 4 if layout is None else loopway.Layout.parse(layout).parameter_depth
    kinds = layer_kinds(depth) if family in MIXED else {}
    config = family_config(family, **fields, **kinds, num_hidden_layers=depth)
    if layout is not None:
        config = loopway.recursive_config(config, layout=layout, recurrence=recurrence, **options)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return smaller(model)


def smaller(model: Any) -> Any:
    """Random weights that don't amplify rounding from loop to loop."""
    randomize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.4)
    return model


def save(model: Any, folder: Path, **options: Any) -> None:
    model.save_pretrained(folder, **options)
    train_tokenizer(TEXTS, 300).save_pretrained(folder)


def in_bfloat16(model: Any, folder: Path) -> None:
    save(model.to(torch.bfloat16), folder)


def in_shards(model: Any, folder: Path) -> None:
    save(model, folder, max_shard_size="300KB")
    assert len(list(folder.glob("*.safetensors"))) > 1


def self_contained(model: Any, folder: Path) -> None:
    save(model, folder.with_suffix(".original"))
    publish_command(str(folder.with_suffix(".original")), folder)


def saved_again(model: Any, folder: Path) -> None:
    """A self-contained folder, opened, changed as by fine-tuning, and saved."""
    self_contained(model, folder.with_suffix(".published"))
    model = AutoModelForCausalLM.from_pretrained(folder.with_suffix(".published"))
    randomize(model, seed=1)
    save(model, folder)


def retrofitted(model: Any, folder: Path) -> None:
    save(smaller(loopway.retrofit_model(model, layout="1+1R2+1", recurrence="mesh")), folder)


def exported(model: Any, folder: Path) -> None:
    save(export_model(model), folder)


class Case(NamedTuple):
    family: str
    layout: str | None
    recurrence: str = "base"
    options: Mapping[str, Any] = MappingProxyType({})
    saved: Callable[[Any, Path], None] = save


#: Every family, layout, recurrence and kind of folder, once each.
CASES = {
    "tied": Case("gpt_neox", "4", options={"fields": {"tie_word_embeddings": True}}),
    "self-contained": Case("llama", "2R3", "mesh", saved=self_contained),
    "shards": Case("qwen3", "1+1R2+1R3+1", "residual+anchor", saved=in_shards),
    "own-loops": Case("llama", "1+2R2+1", "mesh", options={"loops": 4, "shared_routers": True}),
    "bfloat16": Case("mistral", "1+2R1+1", "base", saved=in_bfloat16),
    "deep": Case("olmo2", "1+1R16+1", "mesh"),
    "without-bos": Case("qwen2", "1+2R2", "static", {"fields": {"bos_token_id": None}}),
    "three-slots": Case("phi3", "1+1R3+1", "mesh", {"num_slots": 3, "transition_router_input": "prelude"}),
    "saved-again": Case("granite", "1+2R2+1", "residual+anchor+anchor*", saved=saved_again),
    "no-scale": Case("smollm3", "1+2R2+1", "dynamic", {"scale_embeddings": False}),
    "sliding": Case("mistral_sliding", "2+2R2", "anchor*"),
    "two-kinds": Case("olmo3", "2+2R2+1", "residual"),
    "scaled": Case("gemma3_text", "2+2R2", "mesh"),
    "experts": Case("qwen3_moe", "1+1R2+1", "mesh"),
    "retrofitted": Case("llama", None, saved=retrofitted),
    # A plain GPT-NeoX would do, but vLLM changes its class, on which those of other tests rest.
    "exported": Case("qwen3", "3", saved=exported),
}


def answer(folder: Path) -> list[dict[str, list]]:
    """Greedy tokens of each prompt with their log-probabilities and leads, in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for prompt in PROMPTS:
        whole = model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )  # fmt: skip
        with torch.no_grad():
            logprobs = model(whole).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        two = logprobs.topk(2).values
        tokens = whole[0, len(prompt) :].tolist()
        answers.append(
            {
                "prompt": prompt,
                "tokens": tokens,
                "logprobs": two[:, 0].tolist(),
                "leads": (two[:, 0] - two[:, 1]).tolist(),
            }
        )
    return answers


def main(folder: Path) -> None:
    for name, case in CASES.items():
        case.saved(make(case.family, case.layout, case.recurrence, **case.options), folder / name)
    answers: dict[str, Any] = {name: answer(folder / name) for name in CASES}
    (folder / "half_anchor.py").write_text(PLUGIN, encoding="utf-8")
    exec(PLUGIN)
    save(make("llama", "1+2R2+1", "half-anchor"), folder / "plugin")
    answers["plugin"] = answer(folder / "plugin")
    config = make("llama", "1+2R2+1", "mesh").config
    config.num_labels, config.pad_token_id = 3, 0
    classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    save(smaller(classifier), folder / "classifier")
    with torch.no_grad():
        logits = classifier(torch.tensor(PROMPTS[:1])).logits
    answers["classifier"] = logits[0].softmax(-1).tolist()
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
