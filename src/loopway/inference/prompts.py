"""Prompts of the command line: from arguments, files and standard input.

Imports nothing heavy, so that a wrong file is an error at once. Knows nothing of models.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopway.checks import wrong_value
from loopway.data.preparation.documents import not_utf8, parsed
from loopway.errors import ConfigError, DataError
from loopway.options import GenerationOptions

_STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Prompt:
    """A text to continue.

    Attributes:
        source: how errors name it: "the prompt", or "prompts.jsonl, line 3".
    """

    text: str
    source: str = "the prompt"


def read_prompts(arguments: Sequence[str], options: GenerationOptions) -> list[Prompt]:
    """Return the prompts of a command line: those of its arguments, then of ``prompt_file``, then of ``prompts_jsonl``.

    ``-`` is standard input, which is also read if no prompt is given and it isn't a terminal; an empty one begins a
    document. The last line break of a file and of standard input doesn't belong to the prompt.

    Raises:
        ConfigError: a prompt or a line has the wrong form, or standard input is named twice.
        DataError: a file is missing, isn't UTF-8 or isn't JSON lines.
    """
    places = [*arguments, *map(str, options.prompt_file), *map(str, options.prompts_jsonl)]
    if places.count(_STANDARD_INPUT) > 1:
        raise ConfigError("standard input can be read only once: give - once")
    if not places:
        arguments = [""] if sys.stdin is None or sys.stdin.isatty() else [_STANDARD_INPUT]
    prompts = [
        _whole(_STANDARD_INPUT) if text == _STANDARD_INPUT else Prompt(text, f"prompt {number}")
        for number, text in enumerate(arguments, start=1)
    ]
    prompts += [_whole(str(path)) for path in options.prompt_file]
    prompts += [prompt for path in options.prompts_jsonl for prompt in _lines(str(path))]
    if len(arguments) == len(prompts) == 1:
        prompts = [Prompt(prompts[0].text)]
    for prompt in prompts:
        check_text(prompt.text, prompt.source)
        if options.chat and not prompt.text:
            raise ConfigError(f"{prompt.source} is empty: with --chat, give a message")
    return prompts


def read_template(path: Path | None) -> str | None:
    """Return the chat template in a file; None if no file is given.

    Raises:
        ConfigError: it is empty.
        DataError: it is missing or isn't UTF-8.
    """
    if path is None:
        return None
    text = _read(str(path))
    if not text.strip():
        raise ConfigError(f"--chat-template: {path} is empty; give a file with a Jinja template")
    return text


def check_text(text: str, source: str = "the prompt") -> None:
    """Validate that a prompt is text: undecodable bytes of a command line aren't.

    Raises:
        ConfigError: it isn't; the message names ``source``.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{source} isn't UTF-8 text, from character {error.start + 1} on") from None


def decoded(content: bytes, name: str, first_line: int = 1) -> str:
    """Return the text in ``content``.

    Raises:
        DataError: it isn't UTF-8; the message names ``name`` and the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error, first_line) from None


def _whole(place: str) -> Prompt:
    text = _read(place)
    return Prompt(text.removesuffix("\n").removesuffix("\r"), _name(place))


def _lines(place: str) -> Iterator[Prompt]:
    name, count = _name(place), 0
    for number, line in enumerate(_read(place).split("\n"), start=1):
        if not line.strip():
            continue
        source = f"{name}, line {number}"
        content = parsed(line, source)
        if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
            raise wrong_value(source, content, 'an object with a text "prompt"')
        yield Prompt(content["prompt"], source)
        count += 1
    if not count:
        raise DataError(f'{name}: holds no prompts; give one object a line, such as {{"prompt": "Once"}}')


def _read(place: str) -> str:
    if place == _STANDARD_INPUT:
        return decoded(sys.stdin.buffer.read(), _name(place))
    path = Path(place).expanduser()
    if not path.exists():
        raise DataError(f"no file {path}; give a text file")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a text file")
    return decoded(path.read_bytes(), _name(place))


def _name(place: str) -> str:
    return "standard input" if place == _STANDARD_INPUT else place
