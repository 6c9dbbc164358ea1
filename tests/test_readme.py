"""Runs what README.md and pages of docs/ show: their Python blocks and their command lines, made small.

Adding a command: if its verb is new, give it a row in SMALL; if it reads a file, show that file in a yaml or jinja
block whose first line is `# <file name>` or `{# <file name> #}`. What can't be run here (`git clone ...`) goes into
NOT_RUN; a block that begins with "bash network" is only checked for its verbs and options, and one that begins with
"python network" is compiled. `loopway ... < FILE` reads a file that exists in the test's folder.
Knows nothing of what the commands should print; each part of the package has tests of that.
"""

import io
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.main import get_command

from loopway.cli import app
from tests.command_line import run_main, train_here

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
COMPARE = ROOT / "docs" / "compare.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
EVALUATION = ROOT / "docs" / "evaluation.md"
DATA = ROOT / "docs" / "data.md"
GENERATION = ROOT / "docs" / "generation.md"
DEPTH = ROOT / "docs" / "depth.md"
PROBING = ROOT / "docs" / "probing.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
RETROFIT = ROOT / "docs" / "retrofit.md"
PUBLISHING = ROOT / "docs" / "publishing.md"
STUDIES = ROOT / "docs" / "studies.md"
LIBRARIES = ROOT / "docs" / "libraries.md"
SERVING = ROOT / "docs" / "serving.md"

# The verb -> what is appended to every `loopway <verb> ...` so that it takes seconds.
# The text is two files that the test writes into the folder in which everything runs, and into texts/ there.
SMALL_DATA = ["data.train=[first.txt,second.txt]", "data.validation_fraction=0.5"]
SMALL_DATA += ["data.sequence_length=32", "data.vocab_size=300"]
SMALL_TRAINING = [
    "training.max_steps=2",
    "training.global_batch_size=2",
    "training.per_device_train_batch_size=2",
]
SMALL: dict[str, list[str]] = {
    "chat": ["--max-new-tokens", "4"],
    "check": SMALL_DATA + SMALL_TRAINING,
    "compare": [*SMALL_DATA, *SMALL_TRAINING, "seeds=[0]"],
    "evaluate": [],
    "export": [],
    "generate": ["--max-new-tokens", "4"],
    "params": [],
    "prepare": ["--vocab-size", "300", "--validation-fraction", "0.5"],
    "probe": ["--samples", "3", "--loop-samples", "2"],
    "retrofit": ["--calibration-tokens", "512"],
    "runs": [],
    "train": SMALL_DATA + SMALL_TRAINING,
}
SMALL_ON_PRETRAINED = SMALL | {"train": SMALL_TRAINING, "compare": SMALL_TRAINING}
SMALL_ON_TOKENS = SMALL | {"train": ["data.sequence_length=32", *SMALL_TRAINING]}
# Text of a Python block -> what stands in its place here.
SMALL_PYTHON = {'("14m", layout="2+4R2+2"': '("14m", layout="1+1R2+1"'}
# Beginnings of command lines that are not run.
NOT_RUN = ("cd ", "git clone ", "pip install ")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("bash", "bash network"), its text and the line of the file on which that starts."""

    language: str
    text: str
    line: int


def fenced_blocks(markdown: str) -> list[Block]:
    """The fenced blocks that name a language, in order."""
    return [
        Block(token.info.strip(), token.content, token.map[0] + 2)
        for token in MarkdownIt().parse(markdown)
        if token.type == "fence" and token.info and token.map
    ]


def command_lines(block: Block) -> list[str]:
    """The commands of a bash block: continuation lines joined, comments and blank lines left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def shrunk(command: str, small: dict[str, list[str]] = SMALL) -> list[str] | None:
    """The words of a command line made small, without the leading `loopway`; None if it is not to be run.

    Raises AssertionError for a line that this file doesn't know how to check.
    """
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        missing = [word for word in words[1:] if "=" not in word and word not in make_targets()]
        assert not missing, f"the Makefile has no target {missing} (README: {command})"
        return None
    if command.startswith(NOT_RUN):
        return None
    assert words[0] == "loopway", f"add how to check {command!r} to {Path(__file__).name}"
    if words[1].startswith("--"):
        return words[1:]
    assert words[1] in small, f"add how to make `loopway {words[1]}` small to SMALL in {Path(__file__).name}"
    return words[1:] + small[words[1]]


def run_command(command: str, small: dict[str, list[str]]) -> None:
    """Runs a line of a bash block as `loopway` does, in this process, whose imports are done."""
    arguments = shrunk(command, small)
    if arguments is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        if "<" in arguments:
            at = arguments.index("<")
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(arguments[at + 1]).read_bytes())))
            arguments[at : at + 2] = []
        assert run_main(patch, *arguments) == 0, f"{command}\nrun as: {arguments}"


def check_options(command: str) -> None:
    """Of a command line that needs the network: its verb and its options exist."""
    words = shlex.split(command, comments=True)
    if words[0] != "loopway":
        return
    verb = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    known = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, command


def run_python(block: Block, namespace: dict[str, object], page: Path) -> None:
    """Executes a Python block; a traceback names the page's own line."""
    text = block.text
    for long, short in SMALL_PYTHON.items():
        text = text.replace(long, short)
    exec(compile("\n" * (block.line - 1) + text, str(page), "exec"), namespace)


def write_file(block: Block, folder: Path) -> None:
    """Writes a yaml or jinja block that opens with its file name as a comment; others are only illustrations."""
    if name := re.match(r"\{?# *([\w.-]+\.(?:ya?ml|jinja))\b", block.text):
        (folder / name[1]).write_text(block.text)


PAGES = {
    "README": (README, SMALL),
    "compare": (COMPARE, SMALL),
    "configuration": (CONFIGURATION, SMALL),
    "evaluation": (EVALUATION, SMALL),
    "data": (DATA, SMALL_ON_TOKENS),
    "generation": (GENERATION, SMALL),
    "depth": (DEPTH, SMALL),
    "probing": (PROBING, SMALL),
    "performance": (PERFORMANCE, SMALL),
    "retrofit": (RETROFIT, SMALL_ON_PRETRAINED),
    "publishing": (PUBLISHING, SMALL),
    "studies": (STUDIES, SMALL),
    "libraries": (LIBRARIES, SMALL),
    "serving": (SERVING, SMALL),
}


@pytest.mark.parametrize("page, small", PAGES.values(), ids=PAGES.keys())
def test_everything_that_a_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path, small: dict[str, list[str]]
) -> None:
    blocks = fenced_blocks(page.read_text())
    languages = {block.language.partition(" ")[0] for block in blocks}
    assert {"bash", "python"} & languages, f"{page} shows neither a command nor Python"
    sentence = "The state of a loop is what one pass hands to the next, and a highway carries it. "
    (tmp_path / "texts").mkdir()
    for name in ("first.txt", "second.txt", "texts/first.txt", "texts/second.txt"):
        (tmp_path / name).write_text("".join(f"{name} {number}: {sentence}\n" for number in range(60)))
    for name in ("prompt.txt", "messages.txt"):
        (tmp_path / name).write_text(sentence)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("loopway.comparison.planned._run_in_process", train_here)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block.language in ("yaml", "jinja"):
            write_file(block, tmp_path)
        elif block.language == "python":
            run_python(block, namespace, page)
        elif block.language == "bash":
            for command in command_lines(block):
                run_command(command, small)
        elif block.language == "python network":
            compile(block.text, str(page), "exec")
        elif block.language == "bash network":
            for command in command_lines(block):
                check_options(command)


def test_the_recurrence_and_the_family_that_contributing_shows_make_a_model() -> None:
    shown = [
        block.text
        for block in fenced_blocks((ROOT / "CONTRIBUTING.md").read_text())
        if block.language == "python" and re.search(r"register_(recurrence|family)", block.text)
    ]
    assert len(shown) == 2
    use = """
import torch
from transformers import AutoModelForCausalLM, StableLmConfig

tiny = StableLmConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2)
config = loopway.recursive_config(tiny, layout="1+1R2+1", recurrence="half-anchor")
model = AutoModelForCausalLM.from_config(config)
assert type(model).__name__ == "RecursiveStableLmForCausalLM"
with torch.no_grad(), loopway.trace_stages(model) as records:
    model(torch.tensor([[1, 2, 3]]))
first, second = records[1], records[2]
assert torch.allclose(second.input, first.output + records[0].input / 2)
"""
    done = subprocess.run([sys.executable, "-c", "\n".join([*shown, use])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_extra_that_the_readme_installs_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"(?:loopway|'\.)\[([\w,-]+)\]", README.read_text())
    assert named and {extra for names in named for extra in names.split(",")} <= set(extras)


@pytest.mark.parametrize(
    "command", ["loopway lopp x", "make demmo", "make demo tset", "curl x", "python x.py"]
)
def test_a_command_that_nobody_taught_this_test_fails_it(command: str) -> None:
    with pytest.raises(AssertionError):
        shrunk(command)


def test_blocks_are_read_as_a_reader_sees_them() -> None:
    bash, yaml, python = fenced_blocks(
        "# T\n\n```bash\n# why\nmake demo  # two\nloopway params 160m \\\n    --layout 4\n```\n"
        "```yaml\n# run.yaml\nmodel: {}\n```\n1. x\n   ```python\n   a = 1\n   ```\n```\nno language\n```\n"
    )
    assert command_lines(bash) == ["make demo  # two", "loopway params 160m      --layout 4"]
    assert [shrunk(command) for command in command_lines(bash)] == [None, ["params", "160m", "--layout", "4"]]
    assert (yaml.language, python.text, python.line) == ("yaml", "a = 1\n", 15)
