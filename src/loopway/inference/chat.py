"""``loopway chat``: a conversation with a model that has a chat template.

Knows nothing of how tokens are chosen.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from loopway.checks import one_line
from loopway.console import say, screen
from loopway.errors import ConfigError, LoopwayError
from loopway.inference.generation import checked_ids, continue_batch
from loopway.inference.prompts import check_text, decoded
from loopway.inference.trained_model import check_dtype, open_model
from loopway.options import ChatOptions

Message = dict[str, str]


class Conversation:
    """Messages of a user and replies of a model. Keys and values of earlier turns are computed once.

    Args:
        tokenizer: has a chat template.
        options: of the replies; ``system`` is the first message.

    Attributes:
        messages: the conversation so far.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ChatOptions | None = None
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._options = options or ChatOptions()
        self.clear()

    def clear(self) -> None:
        """Forget all messages; the system's message stays."""
        self.messages: list[Message] = messages_of(None, self._options.system)
        self._cache: Any = None
        self._cached: list[int] = []  # the tokens that the cache holds

    def reply(self, text: str, write: Callable[[str], None] | None = None) -> str:
        """Return the model's answer to a message. After an error, the conversation is as before the message.

        Args:
            write: receives the answer's characters as they are generated.

        Raises:
            ConfigError: the message isn't valid text, the template refuses it, or the conversation fills the model's
                context.
        """
        check_text(text, "the message")
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = templated_ids(self._tokenizer, messages, self._model.config, "the conversation")
        if ids[: len(self._cached)] != self._cached or len(ids) == len(self._cached):
            # The template changes earlier turns, for example by omitting their reasoning.
            self._cache = None
        # An interrupted call leaves a partly filled cache.
        cache, self._cache, self._cached = self._cache, None, []
        (row,), self._cache = continue_batch(
            self._model, self._tokenizer, [ids], self._options, write=write, cache=cache
        )
        self._cached = [*ids, *row.tokens[:-1]]  # the last token was chosen and not yet read
        self.messages = [*messages, {"role": "assistant", "content": row.text}]
        return row.text


def chat_command(path: Path, options: ChatOptions, template: str | None = None) -> None:
    """Chat with the model in ``path``: each line of standard input is a message, each answer is printed as it comes.

    ``/clear`` forgets the conversation; ``/exit`` and the end of input end it. At a terminal, a message that can't be
    answered is an error on standard error, and the conversation continues.

    Args:
        template: a chat template instead of the tokenizer's own.

    Raises:
        ConfigError: the model can't be opened or has no chat template; or a piped message can't be answered.
        DataError: a piped line isn't UTF-8.
    """
    check_dtype(options.dtype)
    model, tokenizer = open_model(path, options.plugin, options.dtype, options.loops)
    use_template(tokenizer, template, path)
    set_seed(options.seed)
    conversation = Conversation(model, tokenizer, options)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        say(screen(stderr=True), "/clear forgets the conversation; /exit or Ctrl-D ends it.")
    for line in _typed_lines() if at_terminal else _piped_lines():
        match line.strip():
            case "":
                continue
            case "/exit":
                return
            case "/clear":
                conversation.clear()
                continue
        try:
            conversation.reply(line, lambda text: print(text, end="", flush=True))
        except LoopwayError as error:
            if not at_terminal:
                raise
            say(screen(stderr=True), f"loopway: {one_line(error)}")
        else:
            print(flush=True)


def use_template(tokenizer: PreTrainedTokenizerBase, template: str | None, path: Path) -> None:
    """Give the tokenizer of the model in ``path`` a chat template; None keeps its own.

    Raises:
        ConfigError: it has none.
    """
    if template is not None:
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{path}: its tokenizer has no chat template; give one with --chat-template FILE, or continue plain text "
            f"with `loopway generate {path}` without --chat"
        )


def messages_of(text: str | None, system: str | None) -> list[Message]:
    """Return the messages of a conversation's start: the system's and a user's, if given."""
    given = {"system": system, "user": text}
    return [{"role": role, "content": content} for role, content in given.items() if content is not None]


def templated_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], config: PreTrainedConfig, source: str
) -> list[int]:
    """Return the tokens of a conversation, up to where the model's answer begins.

    Raises:
        ConfigError: the template is invalid or refuses the messages, or the model can't read the tokens; the message
            names their ``source``.
    """
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program: it may raise anything
        raise ConfigError(f"the chat template fails for {source}: {one_line(error)}") from error
    check_text(str(text), source)
    ids = list(tokenizer(str(text), add_special_tokens=False, verbose=False).input_ids)
    if not ids:
        raise ConfigError(f"the chat template makes no text of {source}: give another with --chat-template")
    return checked_ids(ids, config, source)


def _typed_lines() -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (editing and history of what is typed)
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")
    print()


def _piped_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield decoded(line, "standard input", number).removesuffix("\n").removesuffix("\r")
