"""``loopway generate``: print texts that continue prompts, for people or as JSON lines.

Knows nothing of how prompts are read or texts are made.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loopway.inference.chat import messages_of, templated_ids, use_template
from loopway.inference.generation import Completion, complete, prompt_ids
from loopway.inference.prompts import Prompt
from loopway.inference.trained_model import check_dtype, open_model
from loopway.options import GenerationOptions


def generate_command(
    path: Path,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    template: str | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the prompts and their continuations by the model in ``path``; a single one as it is generated.

    Args:
        template: a chat template instead of the tokenizer's own.
        as_json: print a line of JSON for each text as soon as its batch has ended. With ``chat``, and in JSON, the
            prompt isn't part of the text.

    Raises:
        ConfigError: the model can't be opened, has no chat template for ``chat``, or can't read a prompt.
    """
    check_dtype(options.dtype)
    model, tokenizer = open_model(path, options.plugin, options.dtype, options.loops)
    if options.chat:
        use_template(tokenizer, template, path)
        ids = [
            templated_ids(tokenizer, messages_of(each.text, options.system), model.config, each.source)
            for each in prompts
        ]
    else:
        ids = [prompt_ids(tokenizer, each.text, model.config, each.source) for each in prompts]
    shown = ["" if options.chat else each.text for each in prompts]
    is_single = len(prompts) == options.num_return_sequences == 1
    streams = is_single and not as_json
    if streams:
        _write(shown[0])
    for completion in complete(
        model,
        tokenizer,
        ids,
        options,
        num_return_sequences=options.num_return_sequences,
        batch_size=options.batch_size,
        write=_write if streams else None,
    ):
        if as_json:
            print(_json_line(completion, prompts[completion.prompt_index].text), flush=True)
        elif is_single:
            print()
        else:
            title = _title(completion, len(prompts), options.num_return_sequences)
            print(f"{title}\n{shown[completion.prompt_index]}{completion.text}\n", flush=True)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _json_line(completion: Completion, prompt: str) -> str:
    numbers = asdict(completion)
    places = {name: numbers.pop(name) for name in ("prompt_index", "sequence_index")}
    return json.dumps(places | {"prompt": prompt} | numbers, ensure_ascii=False)


def _title(completion: Completion, prompts: int, sequences: int) -> str:
    """Return a line such as ``==> prompt 2 of 3, text 1 of 4 <==``."""
    parts = [f"prompt {completion.prompt_index + 1} of {prompts}"] if prompts > 1 else []
    parts += [f"text {completion.sequence_index + 1} of {sequences}"] if sequences > 1 else []
    return f"==> {', '.join(parts)} <=="
