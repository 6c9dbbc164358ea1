"""Generate text with a trained model: one text or many, in batches.

Knows nothing of how the model was trained, nor where prompts come from.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    TextStreamer,
    set_seed,
)

from loopway.data.beginnings import beginning_of
from loopway.errors import ConfigError
from loopway.inference.continuation import Continuation, Continuing
from loopway.inference.prompts import check_text
from loopway.options import Sampling

_MAX_NEW_TOKENS = 200  # if neither the options nor the model's settings have a limit


@dataclass(frozen=True)
class Completion:
    """A text that continues a prompt.

    Attributes:
        prompt_index: number of the prompt, from 0.
        sequence_index: number of the text among those of the prompt, from 0.
        text: without the prompt and without special tokens; it ends before the first stop string.
        prompt_tokens: tokens that the model read.
        completion_tokens: tokens that it generated, including the end token or those of the stop string.
        finish_reason: `stop` after an end token or a stop string; `length` at the limit of tokens.
    """

    prompt_index: int
    sequence_index: int
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    sampling: Sampling | None = None,
    *,
    streamer: TextStreamer | None = None,
) -> str:
    """Return the prompt and its continuation, up to the model's context; an empty prompt begins a document.

    The tokenizer puts the same special tokens before the prompt as before documents in training.

    Args:
        streamer: receives the tokens as they are generated; ``TextStreamer(tokenizer)`` prints them. It knows nothing of
            stop strings.

    Raises:
        ConfigError: the prompt fills the context, isn't valid text or has tokens outside the model's vocabulary; or it
            is empty, and no token begins a document.
    """
    ids = prompt_ids(tokenizer, prompt, model.config)
    sampling = sampling or Sampling()
    set_seed(sampling.seed)
    (row,), _ = continue_batch(model, tokenizer, [ids], sampling, streamer=streamer)
    return prompt + row.text


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    *,
    num_return_sequences: int = 1,
    batch_size: int = 8,
    write: Callable[[str], None] | None = None,
) -> Iterator[Completion]:
    """Yield the texts that continue prompts, in the order of the prompts.

    Without sampling, each prompt gets the same text as alone, up to rounding. With sampling, the texts depend on the
    seed, on all prompts and on the batch size.

    Args:
        prompts: their tokens, as :func:`prompt_ids` returns them.
        num_return_sequences: texts for each prompt.
        batch_size: prompts at a time.
        write: receives the characters of a single text as it is generated.

    Raises:
        ConfigError: several texts a prompt without sampling.
    """
    sampling = sampling or Sampling()
    set_seed(sampling.seed)
    limits = [token_limit(model, sampling, len(ids)) for ids in prompts]
    for batch in _batches(prompts, limits, batch_size, _context(model.config)):
        given = [prompts[index] for index in batch]
        rows, _ = continue_batch(
            model, tokenizer, given, sampling, sequences=num_return_sequences, write=write
        )
        for number, row in enumerate(rows):
            place, sequence = divmod(number, num_return_sequences)
            yield Completion(
                prompt_index=batch[place],
                sequence_index=sequence,
                text=row.text,
                prompt_tokens=len(given[place]),
                completion_tokens=len(row.tokens),
                finish_reason=row.finish_reason or "length",
            )


def _batches(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], size: int, context: int
) -> Iterator[list[int]]:
    """Yield the numbers of the prompts of each batch.

    A batch's longest prompt and longest text fit the context together. Otherwise a padded short prompt would run past
    the model's last position.
    """
    batch: list[int] = []
    for number in range(len(prompts)):
        wider = [*batch, number]
        room = context - max(len(prompts[each]) for each in wider) - max(limits[each] for each in wider)
        if batch and (len(batch) == size or room < 0):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def continue_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    sequences: int = 1,
    write: Callable[[str], None] | None = None,
    streamer: TextStreamer | None = None,
    cache: Any = None,
) -> tuple[list[Continuation], Any]:
    """Return the ended texts of one batch, `sequences` a prompt, and the cache of keys and values.

    Shorter prompts are padded on the left. The caller sets the seed.

    Args:
        cache: of an earlier call, whose tokens the prompt begins with.

    Raises:
        ConfigError: several texts a prompt without sampling.
    """
    settings = model.generation_config or GenerationConfig()
    choice = _choice(sampling, settings)
    _check_settings(settings, sampling, choice)
    if sequences > 1 and not choice["do_sample"]:
        raise ConfigError(
            f"--num-return-sequences: got {sequences}, but the model's generation_config.json says do_sample: false, "
            "which makes all texts of a prompt equal: add --do-sample"
        )
    limits = [token_limit(model, sampling, len(ids)) for ids in prompts]
    end = settings.eos_token_id
    stops = [settings.stop_strings] if isinstance(settings.stop_strings, str) else settings.stop_strings or []
    rows = [
        Continuation(
            tokenizer,
            ids,
            limit,
            sampling.stop_strings or stops,
            end if isinstance(end, list) else [] if end is None else [end],
            write,
        )
        for ids, limit in zip(prompts, limits, strict=True)
        for _ in range(sequences)
    ]
    width = max(map(len, prompts))
    padding = next((each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0)
    ids = torch.tensor([[padding] * (width - len(each)) + list(each) for each in prompts])
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
    with _token_by_token(settings):
        output = model.generate(  # type: ignore[operator]
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=None,
            max_length=width + max(limits),
            pad_token_id=padding,
            streamer=streamer,
            num_beams=1,
            num_return_sequences=sequences,
            stopping_criteria=StoppingCriteriaList([Continuing(rows, width)]),
            return_dict_in_generate=True,
            **({} if cache is None else {"past_key_values": cache}),
            **choice,
        )
    return rows, output.past_key_values


@contextmanager
def _token_by_token(settings: GenerationConfig) -> Iterator[None]:
    """Take out of a model's settings, within the block, what doesn't fit texts that grow one token at a time.

    Stop strings are ours, drafts leave rejected tokens in the cache, and a chat continues its own cache.
    """
    names = ("stop_strings", "prompt_lookup_num_tokens", "cache_implementation")
    given = {name: getattr(settings, name, None) for name in names}
    for name in names:
        setattr(settings, name, None)
    try:
        yield
    finally:
        for name, value in given.items():
            setattr(settings, name, value)


def token_limit(model: PreTrainedModel, sampling: Sampling, prompt_tokens: int) -> int:
    """Return how many tokens may follow a prompt: as the options say, else the model's settings, within the context."""
    settings = model.generation_config or GenerationConfig()
    limit = sampling.max_new_tokens or settings.max_new_tokens
    if limit is None and settings.max_length is not None:
        limit = max(1, settings.max_length - prompt_tokens)
    return min(limit or _MAX_NEW_TOKENS, _context(model.config) - prompt_tokens)


def _choice(sampling: Sampling, settings: GenerationConfig) -> dict[str, Any]:
    """Return the arguments of ``model.generate`` that choose tokens; omitted ones default to the model's settings."""
    choice: dict[str, Any] = {}
    if sampling.repetition_penalty is not None:
        choice["repetition_penalty"] = sampling.repetition_penalty
    warpers = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None}
    wants_sampling = any(getattr(sampling, name) is not None for name in warpers)
    is_greedy = sampling.do_sample is False or (
        sampling.do_sample is None and not wants_sampling and settings.do_sample is False
    )
    if sampling.greedy or is_greedy:
        return choice | {"do_sample": False}
    for name, ours in warpers.items():
        given, of_model = getattr(sampling, name), getattr(settings, name)
        choice[name] = given if given is not None else of_model if of_model is not None else ours
    return choice | {"do_sample": True}


def _check_settings(settings: GenerationConfig, sampling: Sampling, choice: dict[str, Any]) -> None:
    """Validate the model's own values that a call uses, as options are.

    Raises:
        ConfigError: a value is out of range or of another type.
    """
    names = [name for name in ("temperature", "top_k", "top_p", "min_p") if name in choice]
    names += ["repetition_penalty", "max_new_tokens"]
    used = {name: getattr(settings, name) for name in names if getattr(sampling, name) is None}
    try:
        Sampling(**{name: value for name, value in used.items() if value is not None})
    except ConfigError as error:
        raise ConfigError(f"generation_config.json: {error}") from None


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, config: PreTrainedConfig, source: str = "the prompt"
) -> list[int]:
    """Return a prompt's tokens, after the special tokens that documents begin with in training.

    Raises:
        ConfigError: as :func:`generate`; the message names the prompt's `source`.
    """
    check_text(prompt, source)
    ids = [*beginning_of(tokenizer), *tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids]
    # In training, the end-of-text token of the previous document comes before a document.
    ids = ids or [tokenizer.eos_token_id]
    if None in ids:
        raise ConfigError(
            f"{source} is empty, and the tokenizer has no token that begins a text: give a prompt"
        )
    return checked_ids(ids, config, source)


def checked_ids(ids: list[int], config: PreTrainedConfig, source: str = "the prompt") -> list[int]:
    """Return a prompt's tokens if the model can read them.

    Raises:
        ConfigError: they fill the context, or are outside the model's vocabulary; the message names their `source`.
    """
    if len(ids) >= (longest := _context(config)):
        raise ConfigError(
            f"{source} has {len(ids)} tokens and the model reads {longest} at most: shorten the prompt"
        )
    if max(ids) >= (size := int(config.vocab_size)):  # type: ignore[attr-defined]
        raise ConfigError(
            f"the tokenizer gives token {max(ids)}, but the model's vocabulary has {size}: use the model's tokenizer"
        )
    return ids


def _context(config: PreTrainedConfig) -> int:
    return int(config.max_position_embeddings)  # type: ignore[attr-defined]
