"""Programs of torch.export, saved and loaded, give what the model gives: forward passes, and decoding with a cache."""

import io
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch.export import Dim, ExportedProgram
from transformers import DynamicCache, GenerationConfig
from transformers.exporters.configs import DynamoConfig
from transformers.exporters.exporter_dynamo import DynamoExporter
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

from tests.modeling.tiny_models import FAMILIES, MIXED, random_ids, tiny_model

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-9}
GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None}
NEW_TOKENS = 8


def model_to_export(family: str, recurrence: str = "mesh") -> Any:
    layout = "1+1R2" if recurrence != "mesh" or family in MIXED else "1R2"
    model = tiny_model(layout, recurrence, family)
    if "moe" in family:  # the experts' loop depends on the tokens, which torch.export can't trace
        model.set_experts_implementation("batched_mm")
    return model


def loaded(program: ExportedProgram) -> ExportedProgram:
    program.example_inputs = None  # torch unpickles caches in them with a warning that can't be formatted
    file = io.BytesIO()
    torch.export.save(program, file)
    return torch.export.load(io.BytesIO(file.getvalue()))


def check_decoding_step(model: Any, strict: bool) -> None:
    """Compare a step whose program holds the static cache with ``generate``, by tokens and logits."""
    ids = random_ids(1, 4)
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **GREEDY)
    model.generation_config.cache_implementation = "static"
    step = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=16)
    program = step.export(ids[:, :1], cache_position=torch.tensor([0]), strict=strict)
    program = loaded(program)
    assert len(program.state_dict) == len(model.state_dict())  # shared layers are stored once
    decode = program.module()
    for _ in range(2):  # a second text begins anew, at position 0
        tokens, logits = ids, []
        for position in range(expected.shape[1] - 1):
            seen: Any = decode(
                input_ids=tokens[:, position : position + 1], cache_position=torch.tensor([position])
            )
            logits.append(seen)
            if position >= ids.shape[1] - 1:
                tokens = torch.cat([tokens, seen.argmax(-1)], dim=1)
        assert torch.equal(tokens, expected)
        torch.testing.assert_close(torch.cat(logits, dim=1), model(expected).logits[:, :-1], **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_exported_step_decodes_as_the_model_of_every_family(family: str) -> None:
    check_decoding_step(model_to_export(family), strict=False)


@pytest.mark.parametrize("recurrence", ["base", "residual+anchor+anchor*", "static", "dynamic"])
@torch.no_grad()
def test_an_exported_step_decodes_as_the_model_of_every_recurrence(recurrence: str) -> None:
    check_decoding_step(model_to_export("llama", recurrence), strict=False)


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
@torch.no_grad()
def test_a_strictly_exported_step_decodes_as_the_model(family: str) -> None:
    check_decoding_step(model_to_export(family), strict=True)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma3_text"])
@torch.no_grad()
def test_an_exported_forward_takes_any_batch_and_length(family: str) -> None:
    model = model_to_export(family)
    ids = random_ids(2, 6)
    any_size = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    program = torch.export.export(
        model,
        (),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False},
        dynamic_shapes={"input_ids": any_size, "attention_mask": any_size, "use_cache": None},
    )
    forward = loaded(program).module()
    for batch, length in ((3, 9), (1, 5), (2, 30)):
        ids = random_ids(batch, length)
        mask = torch.ones_like(ids)
        mask[0, :2] = 0
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        seen = mask.bool()
        torch.testing.assert_close(forward(**given).logits[seen], model(**given).logits[seen], **EXACT)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.11"), reason="transformers' exporter needs torch 2.11"
)
@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
@torch.no_grad()
def test_a_step_exported_by_transformers_exporter_takes_transformers_own_cache(family: str) -> None:
    model = model_to_export(family)
    ids = random_ids(2, 5)
    exported: Any = DynamoExporter().export_for_generation(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        DynamoConfig(dynamic=True),
        generation_config=GenerationConfig(**GREEDY),
        multi_token_decode=True,
    )
    component = getattr(exported, "components", exported)["decode"]  # a dictionary of programs until 5.18
    program = loaded(getattr(component, "program", component))
    names = program.call_spec.in_spec.child(1).context  # type: ignore[union-attr]
    decode = program.module()
    ids = random_ids(3, 7)
    cache, tokens = DynamicCache(config=model.config), ids
    model(ids[:, :4], past_key_values=cache)
    for _ in range(NEW_TOKENS):
        known = cache.get_seq_length()
        given = {
            "input_ids": tokens[:, known:],
            "attention_mask": torch.ones_like(tokens),
            "position_ids": torch.arange(known, tokens.shape[1]).expand(3, -1),
            "past_key_values": cache,
        }
        output = decode(**{name: given[name] for name in names})
        cache = output.past_key_values
        tokens = torch.cat([tokens, output.logits[:, -1:].argmax(-1)], dim=1)
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **GREEDY)
    assert torch.equal(tokens, expected)
