"""Text from a trained model.

Knows nothing of how the model was trained.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer, set_seed

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
        ConfigError: the prompt fills the context.
    """
    sampling = sampling or Sampling()
    begun = [*beginning_of(tokenizer), *tokenizer(prompt, add_special_tokens=False).input_ids]
    # Documents follow each other in training, so what comes before one is the end of another.
    ids = torch.tensor([begun or [tokenizer.eos_token_id]])
    room = model.config.max_position_embeddings - ids.shape[1]
    if room < 1:
        raise ConfigError(
            f"the prompt has {ids.shape[1]} tokens and the model reads {model.config.max_position_embeddings} at most: "
            f"shorten the prompt"
        )
    choice = {"do_sample": False}
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
        **choice,
    )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


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
