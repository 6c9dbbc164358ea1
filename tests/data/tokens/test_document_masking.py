"""With ``mask_documents`` attention stops at a document's end, in the models that train on the samples."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import loopway
from loopway.data import Source, TokenSamples, write_token_file

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
MODELS = {
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "recursive_llama": lambda: AutoModelForCausalLM.from_config(
        loopway.recursive_config(LlamaConfig(**SIZES), layout="1+1R2+1", recurrence="mesh")
    ),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", MODELS)
def test_a_document_does_not_see_the_one_before_it(tmp_path, family, attention):
    torch.manual_seed(0)
    model = MODELS[family]().double().eval()
    model.set_attn_implementation(attention)
    tokens = np.array([4, 9, 2, 7, 0, 5, 3, 8, 6, 1, 0, 2, 2, 4, 9, 0, 7])
    changed = tokens.copy()
    changed[:4] = [11, 12, 13, 14]  # of the first document, whose 5 tokens end with 0

    def logits(stream, mask_documents):
        documents = [document.tolist() for document in np.split(stream, [5, 11])]
        file = write_token_file(tmp_path / "x", documents, SIZES["vocab_size"])
        samples = TokenSamples([Source([file])], 8, mask_documents=mask_documents)
        batch = torch.utils.data.default_collate([samples[0], samples[1]])
        batch.pop("shift_labels")
        with torch.no_grad():
            return model(**batch, use_cache=False).logits

    for mask_documents in (False, True):
        same = torch.isclose(
            logits(tokens, mask_documents), logits(changed, mask_documents), rtol=0, atol=1e-12
        )
        seen = ~same.all(dim=-1)
        assert seen[0, :4].all()  # the change itself is seen
        assert seen[0, 5:].any().item() is not mask_documents
        assert not seen[1].any()
