from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import GPTNeoXConfig, TextStreamer

from loopway.errors import ConfigError
from loopway.inference.command import generate_command
from loopway.inference.generation import generate, prompt_ids
from loopway.inference.prompts import Prompt
from loopway.inference.trained_model import open_model
from loopway.options import GenerationOptions, Sampling
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train


@pytest.fixture
def run(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> Path:
    train(tiny_config(), tmp_path / "run")
    return tmp_path / "run"


def test_a_run_its_model_and_its_checkpoints_continue_a_text(run: Path) -> None:
    for folder in (run, run / "model", run / "checkpoints" / "checkpoint-4"):
        model, tokenizer = open_model(folder)
        text = generate(model, tokenizer, "the cat", Sampling(max_new_tokens=8))
        assert text.startswith("the cat") and len(text) > len("the cat")


def test_the_seed_decides_the_text(run: Path) -> None:
    model, tokenizer = open_model(run)
    texts = [generate(model, tokenizer, "the", Sampling(max_new_tokens=20, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_is_the_narrowest_sampling(run: Path) -> None:
    model, tokenizer = open_model(run)
    greedy = generate(model, tokenizer, "the", Sampling(max_new_tokens=20, greedy=True))
    assert greedy == generate(model, tokenizer, "the", Sampling(max_new_tokens=20, top_k=1, seed=5))


def test_an_empty_prompt_begins_a_document(run: Path) -> None:
    model, tokenizer = open_model(run)
    assert generate(model, tokenizer, "", Sampling(max_new_tokens=20))


def test_a_text_ends_with_the_model_s_context(run: Path) -> None:
    model, tokenizer = open_model(run)
    model.config.max_position_embeddings = 16
    longer = generate(model, tokenizer, "the", Sampling(max_new_tokens=200))
    prompt_tokens = len(tokenizer("the").input_ids)
    assert longer == generate(model, tokenizer, "the", Sampling(max_new_tokens=16 - prompt_tokens))
    with pytest.raises(ConfigError, match="reads 16 at most"):
        generate(model, tokenizer, "the cat " * 16)


def test_text_is_printed_as_it_comes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_command(run, [Prompt("the cat")], GenerationOptions(max_new_tokens=8))
    model, tokenizer = open_model(run)
    assert (
        capsys.readouterr().out.strip()
        == generate(model, tokenizer, "the cat", Sampling(max_new_tokens=8)).strip()
    )


def test_what_is_no_prompt_of_the_model_is_an_error(run: Path) -> None:
    model, tokenizer = open_model(run)
    with pytest.raises(ConfigError, match="isn't UTF-8 text, from character 3 on"):
        generate(model, tokenizer, "ab\udcff")
    with pytest.raises(
        ConfigError, match=f"token {tokenizer.eos_token_id}, but the model's vocabulary has 0"
    ):
        prompt_ids(tokenizer, "", GPTNeoXConfig(vocab_size=0))
    tokenizer.eos_token = tokenizer.bos_token = None
    with pytest.raises(ConfigError, match="the prompt is empty"):
        generate(model, tokenizer, "")


def test_a_text_comes_token_by_token_whatever_the_model_s_settings_say(run: Path) -> None:
    model, tokenizer = open_model(run)
    plain = generate(model, tokenizer, "the", Sampling(max_new_tokens=8))
    model.generation_config.num_beams = 4  # type: ignore[union-attr]
    streamer = TextStreamer(tokenizer)
    assert generate(model, tokenizer, "the", Sampling(max_new_tokens=8), streamer=streamer) == plain


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"top_p": 0.0},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"seed": -1},
    ],
)
def test_a_sampling_that_is_no_distribution_is_an_error(options: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options)).replace('_', '-')}: got"):
        Sampling(**options)


def test_where_there_is_no_model_the_error_says_what_to_give(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        open_model(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no model \(no config.json\)"):
        open_model(tmp_path / "empty")
    (run / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"isn't finished.*checkpoint-8"):
        open_model(run)


@pytest.mark.parametrize(
    "template", ["$A", "<|endoftext|> $A", "<|endoftext|> $A <|endoftext|>", "$A <|endoftext|>"]
)
def test_a_prompt_begins_as_the_tokenizer_begins_a_text(run: Path, template: str) -> None:
    model, tokenizer = open_model(run)
    end = int(str(tokenizer.eos_token_id))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore
        single=template, special_tokens=[("<|endoftext|>", end)]
    )
    read: list[list[int]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    generate(model, tokenizer, "the", Sampling(max_new_tokens=1, greedy=True))
    before = [end] if template.startswith("<") else []
    assert read == [before + tokenizer("the", add_special_tokens=False).input_ids]
    generate(model, tokenizer, "", Sampling(max_new_tokens=1, greedy=True))
    assert read[1] == [end]


def test_no_code_of_a_folder_is_run_unasked(run: Path) -> None:
    (run / "plugins").mkdir()
    (run / "plugins" / "mine.py").write_text("raise SystemExit('was run')")
    open_model(run)
    open_model(run / "model")
    with pytest.raises(ConfigError, match="SystemExit: was run"):
        open_model(run, [run / "plugins" / "mine.py"])


def test_a_folder_without_weights_is_one_line(run: Path) -> None:
    (run / "model" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model can't be opened: .*model.safetensors") as error:
        open_model(run)
    assert "\n" not in str(error.value)
