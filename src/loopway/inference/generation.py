"""Generate text with a trained model.

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
    """Return the prompt and its continuation, up to the model's context; an empty prompt begins a document.

    The tokenizer puts the same special tokens before the prompt as before documents in training.

    Args:
        streamer: receives the text as it is generated; ``TextStreamer(tokenizer)`` prints it.

    Raises:
        ConfigError: the prompt fills the context, isn't valid text or has tokens outside the model's vocabulary; or it
            is empty, and no token begins a document.
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
        num_beams=1,  # overrides the model's generation config: streaming needs one token at a time
        **choice,
    )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, config: PreTrainedConfig) -> list[int]:
    """Return a prompt's tokens, after the special tokens that documents begin with in training.

    Raises:
        ConfigError: as :func:`generate`.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the prompt isn't UTF-8 text, from character {error.start + 1} on") from None
    ids = [*beginning_of(tokenizer), *tokenizer(prompt, add_special_tokens=False).input_ids]
    # In training, the end-of-text token of the previous document comes before a document.
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
            f"the tokenizer gives token {max(ids)}, but the model's vocabulary has {size}: use the model's tokenizer"
        )
    return ids


def stream(
    path: Path | str,
    prompt: str,
    sampling: Sampling,
    plugins: Sequence[Path | str] = (),
) -> None:
    """Print the prompt and its continuation by the model in `path`, as it is generated.

    Raises:
        ConfigError: as :func:`open_model` and :func:`generate`.
    """
    model, tokenizer = open_model(path, plugins)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    generate(model, tokenizer, prompt, sampling, streamer=streamer)
