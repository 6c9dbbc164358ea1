from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.errors import ConfigError
from loopway.inference.chat import Conversation, messages_of, templated_ids
from loopway.inference.generation import complete
from loopway.options import ChatOptions
from tests.inference.conftest import TEMPLATE

Opened = tuple[PreTrainedModel, PreTrainedTokenizerBase]
OPTIONS = ChatOptions(max_new_tokens=10, greedy=True, system="be brief")


@pytest.fixture
def chatting(opened: Opened) -> Opened:
    opened[1].chat_template = TEMPLATE
    return opened


def answer_from_the_start(chatting: Opened, messages: list[dict[str, str]]) -> str:
    model, tokenizer = chatting
    ids = templated_ids(tokenizer, messages, model.config, "the conversation")
    return next(complete(model, tokenizer, [ids], OPTIONS)).text


def test_an_answer_follows_all_earlier_messages(chatting: Opened) -> None:
    conversation = Conversation(*chatting, OPTIONS)
    written: list[str] = []
    for text in ("the cat", "a dog", "the tree"):
        answer = conversation.reply(text, written.append)
        assert answer == answer_from_the_start(chatting, conversation.messages[:-1])
    assert [each["role"] for each in conversation.messages] == ["system", *["user", "assistant"] * 3]
    assert "".join(written) == "".join(each["content"] for each in conversation.messages[2::2])


def test_a_turn_reads_only_what_is_new(chatting: Opened) -> None:
    model, tokenizer = chatting
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    # An end token is what the template puts after an answer: the next prompt begins with all that was read.
    ids = templated_ids(tokenizer, messages_of("the cat", None), model.config, "the conversation")
    conversation = Conversation(model, tokenizer, ChatOptions(max_new_tokens=1, greedy=True))
    conversation.reply("the cat")
    assert read == [len(ids)]
    conversation.reply("dog")
    whole = templated_ids(tokenizer, conversation.messages[:-1], model.config, "the conversation")
    assert read[1:] == [len(whole) - len(ids)]


def test_a_template_that_changes_earlier_turns_is_followed(chatting: Opened) -> None:
    chatting[1].chat_template = "{{ messages | length }} {{ messages[-1].content }}"
    conversation = Conversation(*chatting, OPTIONS)
    for text in ("the cat", "a dog"):
        assert conversation.reply(text) == answer_from_the_start(chatting, conversation.messages[:-1])


def test_a_cleared_conversation_begins_anew(chatting: Opened) -> None:
    conversation = Conversation(*chatting, OPTIONS)
    first = conversation.reply("the cat")
    assert conversation.reply("the cat") != first
    conversation.clear()
    assert conversation.messages == [{"role": "system", "content": "be brief"}]
    assert conversation.reply("the cat") == first


def test_a_message_that_cannot_be_answered_leaves_the_conversation_as_it_was(chatting: Opened) -> None:
    conversation = Conversation(*chatting, OPTIONS)
    conversation.reply("the cat")
    before = [*conversation.messages]
    with pytest.raises(ConfigError, match=r"the conversation has \d+ tokens and the model reads 192 at most"):
        conversation.reply("the cat " * 99)
    with pytest.raises(ConfigError, match="the message isn't UTF-8 text"):
        conversation.reply("\udcff")
    assert conversation.messages == before
    assert conversation.reply("a dog") == answer_from_the_start(chatting, conversation.messages[:-1])


@pytest.mark.parametrize(
    "template, message",
    [
        (
            "{{ raise_exception('no system message') }}",
            "the chat template fails for the conversation: no system message",
        ),
        ("{% if %}", "the chat template fails for the conversation: "),
        ("{{ messages[9].content.x }}", "the chat template fails for the conversation: "),
        ("{# nothing #}", "the chat template makes no text of the conversation"),
    ],
)
def test_a_template_that_fails_is_one_error(chatting: Opened, template: str, message: str) -> None:
    chatting[1].chat_template = template
    with pytest.raises(ConfigError, match=message):
        Conversation(*chatting, OPTIONS).reply("the cat")


@pytest.mark.parametrize(
    "settings", [{"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}, {"stop_strings": "xyz"}]
)
def test_settings_of_a_model_that_fit_no_chat_change_no_answer(
    chatting: Opened, settings: dict[str, Any]
) -> None:
    def answers() -> list[str]:
        conversation = Conversation(*chatting, OPTIONS)
        return [conversation.reply(message) for message in ("the cat", "the dog", "the house")]

    expected = answers()
    of_model: Any = chatting[0].generation_config
    of_model.update(**settings)
    assert answers() == expected
    assert all(getattr(of_model, name) == value for name, value in settings.items())
