"""`loopway generate` and `loopway chat` as their users run them."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import run_main
from tests.inference.conftest import TEMPLATE

GREEDY = ("--max-new-tokens", "6", "--greedy")


@pytest.fixture
def here(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the model `plain`, and the model `chatting` that has a chat template."""
    for name in ("plain", "chatting"):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / "chatting" / "chat_template.jinja").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class Loopway:
    """Runs `loopway ARGUMENTS` with bytes on standard input; returns what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        code, printed, error = self.ended(*arguments, stdin=stdin)
        assert code == 0, error
        return printed

    def fails(self, *arguments: str, stdin: bytes = b"") -> str:
        code, _, error = self.ended(*arguments, stdin=stdin)
        (line,) = error.splitlines()
        assert code == 2 and line.startswith("loopway: "), error
        return line.removeprefix("loopway: ")

    def ended(
        self, *arguments: str, stdin: bytes = b"", kind: type[io.TextIOWrapper] = io.TextIOWrapper
    ) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "stdin", kind(io.BytesIO(stdin)))
        code = run_main(self.monkeypatch, *arguments)
        captured = self.capfd.readouterr()
        return code, captured.out, captured.err


@pytest.fixture
def loopway(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Loopway:
    return Loopway(monkeypatch, capfd)


def rows(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.split("\n")[:-1]]


def test_a_prompt_is_the_same_wherever_it_comes_from(loopway: Loopway, here: Path) -> None:
    printed = loopway("generate", "plain", "the cat\nruns", *GREEDY)
    assert (
        printed.startswith("the cat\nruns")
        and printed.endswith("\n")
        and len(printed) > len("the cat\nruns\n")
    )
    (here / "prompt.txt").write_text("the cat\nruns\n")
    assert loopway("generate", "plain", *GREEDY, stdin=b"the cat\nruns\n") == printed
    assert loopway("generate", "plain", "-", *GREEDY, stdin=b"the cat\nruns") == printed
    assert loopway("generate", "plain", "--prompt-file", "prompt.txt", *GREEDY) == printed


def test_several_prompts_are_printed_with_their_numbers(loopway: Loopway) -> None:
    printed = loopway("generate", "plain", "the", "dog", *GREEDY)
    alone = [loopway("generate", "plain", prompt, *GREEDY) for prompt in ("the", "dog")]
    assert printed == f"==> prompt 1 of 2 <==\n{alone[0]}\n==> prompt 2 of 2 <==\n{alone[1]}\n"
    several = loopway("generate", "plain", "the", "--num-return-sequences", "2", "--max-new-tokens", "3")
    assert several.startswith("==> text 1 of 2 <==\nthe") and "==> text 2 of 2 <==\nthe" in several


def test_json_lines_in_and_out(loopway: Loopway, here: Path) -> None:
    (here / "many.jsonl").write_text('{"prompt": "the"}\n{"prompt": "a dog"}\n')
    given = ("generate", "plain", "--prompts-jsonl", "many.jsonl", "--json", "--max-new-tokens", "5")
    found = rows(loopway(*given, "--num-return-sequences", "2"))
    assert [(each["prompt_index"], each["sequence_index"], each["prompt"]) for each in found] == [
        (0, 0, "the"),
        (0, 1, "the"),
        (1, 0, "a dog"),
        (1, 1, "a dog"),
    ]
    names = ["prompt_index", "sequence_index", "prompt", "text"]
    assert [*found[0]] == [*names, "prompt_tokens", "completion_tokens", "finish_reason"]
    (row,) = rows(loopway("generate", "plain", "the", "--json", *GREEDY))
    assert (row["completion_tokens"], row["finish_reason"]) == (6, "length")
    assert "the" + row["text"] + "\n" == loopway("generate", "plain", "the", *GREEDY)
    stop = ("--stop-strings", "nowhere", "--stop-strings", row["text"][3])
    (cut,) = rows(loopway("generate", "plain", "the", "--json", *GREEDY, *stop))
    assert (cut["text"], cut["finish_reason"]) == (row["text"][: row["text"].index(row["text"][3])], "stop")
    assert loopway("generate", "plain", "the", *GREEDY, *stop) == f"the{cut['text']}\n"


def test_equal_commands_print_equal_texts(loopway: Loopway) -> None:
    given = (
        "generate",
        "plain",
        "the",
        "a",
        "--temperature",
        "1.5",
        "--top-p",
        "0.9",
        "--max-new-tokens",
        "9",
    )
    assert loopway(*given, "--seed", "3") == loopway(*given, "--seed", "3") != loopway(*given, "--seed", "4")


def test_a_prompt_in_the_chat_template_gets_the_answer_of_a_chat(loopway: Loopway, here: Path) -> None:
    system = ("--system", "be brief")
    answer = loopway("generate", "chatting", "the cat", "--chat", *system, *GREEDY)
    assert loopway("chat", "chatting", *system, *GREEDY, stdin=b"the cat\n") == answer
    (row,) = rows(loopway("generate", "chatting", "the cat", "--chat", *system, "--json", *GREEDY))
    assert (row["prompt"], row["text"] + "\n") == ("the cat", answer)
    assert loopway("generate", "chatting", "the cat", "--chat", *GREEDY) != answer
    (here / "mine.jinja").write_text(TEMPLATE)
    template = ("--chat-template", "mine.jinja")
    assert loopway("generate", "plain", "the cat", "--chat", *template, *system, *GREEDY) == answer
    assert loopway("chat", "plain", *template, *system, *GREEDY, stdin=b"the cat\n") == answer


def test_each_piped_line_is_a_turn_until_exit(loopway: Loopway) -> None:
    told = loopway(
        "chat", "chatting", *GREEDY, stdin=b"the cat\r\n\nthe cat\n/clear\nthe cat\n/exit\nthe cat\n"
    )
    once = loopway("chat", "chatting", *GREEDY, stdin=b"the cat")
    twice = loopway("chat", "chatting", *GREEDY, stdin=b"the cat\nthe cat\n")
    assert twice.startswith(once) and twice != once + once
    assert told == twice + once


def test_at_a_terminal_a_message_that_fails_ends_nothing(
    loopway: Loopway, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = loopway("chat", "chatting", *GREEDY, stdin=b"the cat")
    typed = iter(["the cat " * 99, "the cat"])

    def ask(prompt: str) -> str:
        for line in typed:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", ask)
    code, printed, told = loopway.ended("chat", "chatting", *GREEDY, kind=Terminal)
    assert (code, printed) == (0, once + "\n")
    assert "Ctrl-D ends it" in told and "loopway: the conversation has" in told


@pytest.mark.parametrize(
    "arguments, stdin, message",
    [
        (
            ["generate", "plain", "the", "--chat"],
            b"",
            "plain: its tokenizer has no chat template; give one with",
        ),
        (["chat", "plain"], b"hello\n", "plain: its tokenizer has no chat template; give one with"),
        (["chat", "chatting"], b"the\n\xff\n", "standard input, line 2: byte 0xff is not valid UTF-8"),
        (["chat", "chatting"], b"the cat " * 99, "the conversation has"),
        (["generate", "plain", "the", "the cat " * 99], b"", "prompt 2 has"),
        (["generate", "plain", "the", "--dtype", "int3"], b"", "--dtype: got 'int3'"),
        (["generate", "gone", "the"], b"", "no folder gone; give a run folder"),
    ],
)
def test_a_mistake_is_one_line(loopway: Loopway, arguments: list[str], stdin: bytes, message: str) -> None:
    arguments = [*arguments, "--max-new-tokens", "1"]
    assert message in loopway.fails(*arguments, stdin=stdin)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generate", "run", "--prompts-jsonl", "bad.jsonl"], "bad.jsonl, line 2: not valid JSON"),
        (["generate", "run", "the", "--top-p", "1.5"], "--top-p: got 1.5, expected at most 1"),
        (["generate", "run", "--chat", "the", "--chat-template", "gone.jinja"], "no file gone.jinja"),
        (["chat", "run", "--temperature", "0"], "--temperature: got 0.0"),
        (["chat", "run", "--chat-template", "gone.jinja"], "no file gone.jinja"),
    ],
)
def test_a_mistake_is_told_before_anything_heavy_is_loaded(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{\n')
    code = (
        "import sys; from loopway.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers', 'numpy', 'datasets'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, input="")
    assert (result.returncode, result.stdout) == (2, "set()\n")
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_loops_are_those_of_every_call(here: Path, loopway: Loopway) -> None:
    def text(*loops: str) -> str:
        return loopway("generate", "plain", "the cat", *GREEDY, *loops)

    assert text("--loops", "2") == text()
    assert text("--loops", "7") != text()


@pytest.mark.parametrize(
    ("loops", "message"),
    [
        ("0", "loops is 0; a count must be a whole number from 1"),
        ("2+3", "loops is [2, 3], and layout 1+1R2+1 has 1 looped segment"),
        ("many", "loops is 'many': write a whole number, or one for each looped segment, as in 2+3"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "probe", "evaluate"])
def test_impossible_loops_are_one_line(
    here: Path, loopway: Loopway, verb: str, loops: str, message: str
) -> None:
    assert message in loopway.fails(verb, "plain", "--loops", loops)
