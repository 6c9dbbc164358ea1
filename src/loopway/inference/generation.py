"""Text from a trained model.

Knows nothing of how the model was trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, set_seed

from loopway.data.beginnings import beginning_of
from loopway.errors import ConfigError
from loopway.inference.trained_model import open_model
from loopway.options import Sampling


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    sampling: Sampling | None = None,
    *,
    streamer: TextStreamer | None = None,
) -> str:
    """The prompt and what follows it, as far as the model's context goes; an empty prompt begins a document.

    Before the prompt stands what the tokenizer puts there, which is what documents begin with in training.

    Args:
        streamer: is given the text as it comes; ``TextStreamer(tokenizer)`` prints it.

    Raises:
        ConfigError: the prompt fills the context, is no text or has tokens that the model doesn't know; it is empty, and
            no token begins a document.
    """
    sampling = sampling or Sampling()
    ids = torch.tensor([prompt_ids(tokenizer, prompt, model.config)])
    room = model.config.max_position_embeddings - ids.shape[1]
    choice: dict[str, Any] = {"do_sample": False}
    if not sampling.greedy:
        choice = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        }
    set_seed(sampling.seed)
    ids = ids.to(model.device)
    output = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=min(sampling.max_new_tokens, room),
        pad_token_id=tokenizer.eos_token_id,
        streamer=streamer,
        num_beams=1,  # whatever the model's generation config says: a text comes token by token
        **choice,
    )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, config: PreTrainedConfig) -> list[int]:
    """Return a prompt's tokens, with what documents begin with in training. Raises as :func:`generate` does."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the prompt isn't UTF-8 text, from character {error.start + 1} on") from None
    ids = [*beginning_of(tokenizer), *tokenizer(prompt, add_special_tokens=False).input_ids]
    # Documents follow each other in training, so what comes before one is the end of another.
    ids = ids or [tokenizer.eos_token_id]
    longest, size = config.max_position_embeddings, config.vocab_size  # type: ignore[attr-defined]
    if None in ids:
        raise ConfigError(
            "the prompt is empty, and the tokenizer has no token that begins a text: give a prompt"
        )
    if len(ids) >= longest:
        raise ConfigError(
            f"the prompt has {len(ids)} tokens and the model reads {longest} at most: shorten the prompt"
        )
    if max(ids) >= size:
        raise ConfigError(
            f"the tokenizer gives token {max(ids)}, and the model knows {size}: they don't belong together"
        )
    return ids


def stream(
    path: Path | str,
    prompt: str,
    sampling: Sampling,
    plugins: Sequence[Path | str] = (),
) -> None:
    """Print the prompt and what the model in `path` makes of it, as it comes. Raises as :func:`open_model` does."""
    model, tokenizer = open_model(path, plugins)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    generate(model, tokenizer, prompt, sampling, streamer=streamer)
