"""A model that is opened in another precision is the one that transformers opens in it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from loopway.data.tokenizer import train_tokenizer
from loopway.inference.trained_model import open_trained
from tests.modeling.tiny_models import random_ids, tiny_model


@pytest.mark.parametrize(("stored", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
@torch.no_grad()
def test_only_weights_are_rounded(family: str, stored: str, asked: str, tmp_path: Path) -> None:
    model = tiny_model("1+2R2+1", "mesh", family, dtype=getattr(torch, stored), vocab_size=300)
    model.save_pretrained(tmp_path)
    train_tokenizer(["hello world"], 257).save_pretrained(tmp_path)
    opened = open_trained(str(tmp_path), dtype=asked).model
    precision = getattr(torch, asked)
    assert {weight.dtype for weight in opened.parameters()} == {precision}
    frequencies = [value for name, value in opened.named_buffers() if name.endswith("inv_freq")]
    assert {value.dtype for value in frequencies} == {torch.float32}
    own = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=precision).eval()
    assert torch.equal(opened(random_ids()).logits, own(random_ids()).logits)
