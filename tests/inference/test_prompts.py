import io
import sys
from pathlib import Path
from typing import Any

import pytest

from loopway.errors import LoopwayError
from loopway.inference.prompts import Prompt, read_prompts, read_template
from loopway.options import GenerationOptions


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def read(*arguments: str, **options: Any) -> list[str]:
    return [prompt.text for prompt in read_prompts(arguments, GenerationOptions(**options))]


def test_prompts_come_from_arguments_files_and_json_lines_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"piped\n")
    (tmp_path / "one.txt").write_bytes("two\nlines é\r\n".encode())
    (tmp_path / "many.jsonl").write_text('{"prompt": "a\\n"}\n\n{"prompt": "", "id": 3}\n')
    given = {"prompt_file": [tmp_path / "one.txt"], "prompts_jsonl": [tmp_path / "many.jsonl"]}
    assert read("first", "-", **given) == ["first", "piped", "two\nlines é", "a\n", ""]


def test_piped_input_is_the_prompt_if_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"one\n\n")
    assert read() == ["one\n"]
    pipe(monkeypatch, b'{"prompt": "x"}\n')
    assert read(prompts_jsonl=[Path("-")]) == ["x"]
    pipe(monkeypatch, b"not read")
    assert read("a") == ["a"]
    pipe(monkeypatch, b"")
    assert read() == [""]


def test_at_a_terminal_no_prompt_begins_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"typed")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert read_prompts([], GenerationOptions()) == [Prompt("")]


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"prompt": "a"}\n{"prompt": }\n', "bad.jsonl, line 2: not valid JSON"),
        (
            b'{"prompt": "a"}\n\n{"text": "b"}\n',
            "bad.jsonl, line 3: got {'text': 'b'}, expected an object with",
        ),
        (b'"a"\n', "bad.jsonl, line 1: got 'a', expected an object with a text"),
        (b'{"prompt": 3}\n', "bad.jsonl, line 1: got"),
        (b'{"prompt": "a\\ud800"}\n', "bad.jsonl, line 1 isn't UTF-8 text, from character 2 on"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "bad.jsonl, line 2: byte 0xff is not valid UTF-8"),
        (b"\n", "bad.jsonl: holds no prompts"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(LoopwayError) as raised:
        read(prompts_jsonl=[tmp_path / "bad.jsonl"])
    assert message in str(raised.value)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoopwayError, match=r"no file gone\.txt; give a text file"):
        read(prompt_file=[Path("gone.txt")])
    with pytest.raises(LoopwayError, match="is a folder; give a text file"):
        read(prompt_file=[tmp_path])
    with pytest.raises(LoopwayError, match="prompt 2 isn't UTF-8 text, from character 1 on"):
        read("a", "\udcff")
    with pytest.raises(LoopwayError, match="the prompt isn't UTF-8 text, from character 1 on"):
        read("\udcff")
    pipe(monkeypatch, b"ab\n\xff")
    with pytest.raises(LoopwayError, match="standard input, line 2: byte 0xff"):
        read("-")
    with pytest.raises(LoopwayError, match="standard input can be read only once"):
        read("-", prompt_file=[Path("-")])
    pipe(monkeypatch, b"\n")
    with pytest.raises(LoopwayError, match="standard input is empty: with --chat, give a message"):
        read(chat=True, prompt_file=[Path("-")])


def test_a_template_is_the_text_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}\n")
    assert read_template(tmp_path / "chat.jinja") == "{{ messages }}\n"
    assert read_template(None) is None
    (tmp_path / "chat.jinja").write_text("\n")
    with pytest.raises(LoopwayError, match="is empty; give a file with a Jinja template"):
        read_template(tmp_path / "chat.jinja")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"system": "Be brief."}, "--system needs --chat: add it"),
        ({"chat_template": Path("x")}, "--chat-template needs --chat: add it"),
        ({"num_return_sequences": 2, "greedy": True}, "--num-return-sequences: got 2, but without sampling"),
        ({"greedy": True, "do_sample": True}, "--greedy and --do-sample exclude each other"),
        ({"stop_strings": ["a", ""]}, "--stop-strings: got '', expected text of one character or more"),
        (
            {"temperature": 0.0},
            "--temperature: got 0.0, expected at least 1e-05; for the likeliest tokens use",
        ),
        ({"repetition_penalty": 0.0}, "--repetition-penalty: got 0.0, expected more than 0"),
        ({"min_p": 1.5}, "--min-p: got 1.5, expected at most 1"),
        ({"batch_size": 0}, "--batch-size: got 0, expected at least 1"),
        ({"seed": 2**32}, "--seed: got 4294967296"),
    ],
)
def test_options_that_make_no_sense_are_errors(options: dict, message: str) -> None:
    with pytest.raises(LoopwayError) as raised:
        GenerationOptions(**options)
    assert message in str(raised.value)
