"""How fast are tokens generated, beside Hugging Face, litgpt and what the memory's speed allows?

    python benchmarks/decode.py [--new-tokens 33] [--rounds 7] [--long-rounds 3]

The models are of Pythia-160M's size, in float32; but for MeSH, which has its own, all have the same random weights.
Without litgpt its figures are null. The last line is JSON.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import common
import torch
from torch import Tensor, nn
from train_step import QUICK_SIZE, Size, build, copy_weights, loopway_config
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

import loopway
from loopway.modeling.stack import find_stack

VARIANTS = ("vanilla", "vanilla_compiled", "mesh", "mesh_compiled", "hugging_face", "litgpt")
CASES = [(batch, prompt) for prompt in (32, 1024) for batch in (1, 4, 16)]
_LONG = 16 * 1024  # prompt tokens of all sequences; from here on there are fewer rounds
_WARM_UP_PROMPT, _WARM_UP_TOKENS = 16, 3
_READS = 3  # of each kind and round; the fastest is the machine's speed

#: Given prompts ``[batch, seq]`` and how many tokens should follow each: the moments at which they were there.
Generate = Callable[[Tensor, int], list[float]]


class Clock(BaseStreamer):
    """The moment of each token; the prompt, which comes first, is left out."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, value: Tensor) -> None:
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        del self.moments[0]


def transformers_generate(model: PreTrainedModel, prompts: Tensor, new: int, **options: Any) -> list[float]:
    """Ours and Hugging Face's own."""
    clock = Clock()
    model.generate(  # type: ignore[operator]
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=new,
        do_sample=False,
        streamer=clock,
        **options,
    )
    return clock.moments


def litgpt_generate(model: Any, prompts: Tensor, new: int) -> list[float]:
    """As it generates from one prompt or from several."""
    from litgpt.generate.base import (  # type: ignore[import-not-found]
        batched_generate_fn,
        generate_fn,
    )

    end = prompts.shape[1] + new
    sampling = {"temperature": 0.0, "top_k": None}
    whole = {"max_returned_tokens": end, "include_prompt": False, "include_eos": True}
    if len(prompts) == 1:
        tokens = generate_fn(model, prompts[0], **whole, **sampling)
    else:
        tokens = batched_generate_fn(model, prompts, **whole, sample_args=sampling)
    return [time.perf_counter() for _ in tokens]


def with_litgpt_cache(model: Any, batch: int, length: int) -> None:
    """Room for so many tokens and no more, so that no empty ones are read."""
    model.clear_kv_cache()
    model.max_seq_length = length
    model.set_kv_cache(batch)


def build_models(size: Size) -> dict[str, Any]:
    """By variant, without litgpt where it isn't installed."""
    own = [variant for variant in VARIANTS if not variant.endswith("_compiled")]
    built = {variant: build(variant, size) for variant in own}
    models: dict[str, Any] = {variant: model.eval() for variant, model in built.items() if model is not None}
    for variant, model in models.items():
        if variant in ("vanilla", "litgpt"):
            copy_weights(models["hugging_face"], model)
        if variant != "litgpt":
            model.generation_config.eos_token_id = None  # all tokens that are asked for
    return models


def generators(models: dict[str, Any], *, compiled: bool) -> dict[str, Generate]:
    generate: dict[str, Generate] = {
        variant: partial(litgpt_generate if variant == "litgpt" else transformers_generate, model)
        for variant, model in models.items()
    }
    if compiled:
        for variant in ("vanilla", "mesh"):
            model = models[variant]
            options = loopway.compiled_decoding(model)
            generate[f"{variant}_compiled"] = partial(transformers_generate, model, **options)
    return generate


def bytes_a_step(variant: str, size: Size, batch: int, length: float) -> float:
    """Weights as often as a layer runs, and keys and values of `length` tokens in each of the sequences."""
    config = loopway_config(variant, size)  # of the others: the vanilla model's
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stack = find_stack(model)
    weights = sum(
        config.parsed_layout.uses_of_layer(index) * _linear_parameters(layer)
        for index, layer in enumerate(stack.layers)
    )
    weights += _linear_parameters(stack.recurrence) + _linear_parameters(model.get_output_embeddings())
    weights += batch * config.hidden_size  # embeddings
    in_half_precision = loopway.parameter_report(config).kv_cache_bytes
    return weights * torch.float32.itemsize + 2 * in_half_precision * length * batch


def _linear_parameters(module: nn.Module) -> int:
    parts = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def read_speed(memory: Tensor) -> float:
    """Bytes/s of the fastest way to read much more than fits into caches."""
    taken = []
    for read in (torch.sum, torch.amax):
        for _ in range(_READS):
            started = time.perf_counter()
            read(memory)
            taken.append(time.perf_counter() - started)
    return memory.nbytes / min(taken)


def timed_rounds(
    generate: dict[str, Generate], prompts: Tensor, new: int, rounds: int, memory: Tensor
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Of each variant and round: seconds to the first token, and between two of the others; and bytes/s of reading."""
    first, between = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    speeds: list[float] = []

    def timed(variant: str) -> None:
        started = time.perf_counter()
        moments = generate[variant](prompts, new)
        assert len(moments) == new, f"{variant}: {len(moments)} tokens"
        first[variant].append(moments[0] - started)
        gaps = [after - before for before, after in pairwise(moments)]
        between[variant].append(statistics.median(gaps))

    variants: dict[str, Callable[[], Any]] = {"memory": lambda: speeds.append(read_speed(memory))}
    common.measure(variants | {variant: partial(timed, variant) for variant in generate}, rounds)
    return first, between, speeds


def figures(batch: int, first: dict[str, list[float]], between: dict[str, list[float]]) -> dict[str, Any]:
    def of_each(figure: Callable[[str], float], *without: str) -> dict[str, float | None]:
        return {
            variant: figure(variant) if variant in between else None
            for variant in VARIANTS
            if variant not in without
        }

    def faster_than(baseline: str) -> dict[str, float | None]:
        if baseline not in between:
            return {variant: None for variant in VARIANTS if variant != baseline}
        return of_each(lambda variant: common.times_as_fast(between[variant], between[baseline]), baseline)

    return {
        "tokens_per_second": of_each(
            lambda variant: common.middle(batch / taken for taken in between[variant])
        ),
        "times_as_fast_as_hugging_face": faster_than("hugging_face"),
        "times_as_fast_as_litgpt": faster_than("litgpt"),
        "seconds_to_first_token": of_each(lambda variant: common.middle(first[variant])),
    }


def case(
    models: dict[str, Any],
    size: Size,
    batch: int,
    prompt: int,
    new: int,
    rounds: int,
    memory: Tensor,
) -> dict[str, Any]:
    """So many prompts of so many tokens, all variants."""
    prompts = random_prompts(models, batch, prompt)
    if "litgpt" in models:
        with_litgpt_cache(models["litgpt"], batch, prompt + new)
    # Every shape is compiled anew, so only single prompts are, and none in a quick run.
    generate = generators(models, compiled=batch == 1 and not size.fields)
    for variant, warm_up in generate.items():
        if variant.endswith("_compiled"):
            warm_up(prompts, new)  # for this length
        else:
            warm_up(prompts[:, :_WARM_UP_PROMPT], _WARM_UP_TOKENS)
    first, between, speeds = timed_rounds(generate, prompts, new, rounds, memory)
    touched = {variant: bytes_a_step(variant, size, batch, prompt + new / 2) for variant in VARIANTS}
    shares = {
        variant: common.middle(
            touched[variant] / taken / speed for taken, speed in zip(between[variant], speeds, strict=True)
        )
        if variant in between
        else None
        for variant in VARIANTS
    }
    return {
        "rounds": rounds,
        **figures(batch, first, between),
        "share_of_limit": shares,
        "megabytes_a_step": {variant: round(count / common.MB, 1) for variant, count in touched.items()},
        "read_gb_per_second": common.middle(speed / common.GB for speed in speeds),
    }


def random_prompts(models: dict[str, Any], batch: int, length: int) -> Tensor:
    vocabulary = models["hugging_face"].config.vocab_size
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--new-tokens", type=int, default=33, help="the first of them comes from the prompt")
    parser.add_argument("--long-rounds", type=int, default=3, help="of 16 prompts of 1,024 tokens")
    chosen = parser.parse_args()
    new, rounds, long_rounds = chosen.new_tokens, chosen.rounds, chosen.long_rounds
    size = Size()
    megabytes = 512
    if chosen.quick:
        new, rounds, long_rounds, size, megabytes = 4, 1, 1, QUICK_SIZE, 16
    models = build_models(size)
    memory = torch.ones(megabytes * common.MB // 4)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        f"batch_{batch}_prompt_{prompt}": partial(
            case,
            models,
            size,
            batch,
            prompt,
            new,
            min(rounds, long_rounds) if batch * prompt >= _LONG else rounds,
            memory,
        )
        for batch, prompt in CASES
    }
    common.report(parts)


if __name__ == "__main__":
    main()
