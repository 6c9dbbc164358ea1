"""A random model so small that it answers at once, in a folder with its tokenizer."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

import loopway
from loopway.data.tokenizer import train_tokenizer
from loopway.inference.trained_model import open_model

TEXT = "the cat sees the red house and then the dog runs slowly over a tree under the blue house"
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CONTEXT = 192


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in float32, whose tokenizer has no chat template."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer([TEXT], 300)
    tokenizer.model_max_length = CONTEXT
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,  # larger than usual: texts differ
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    recursive = loopway.recursive_config(config, layout="1+1R2+1", recurrence="mesh")
    AutoModelForCausalLM.from_config(recursive).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def opened(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return open_model(folder)
