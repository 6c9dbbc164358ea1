"""What a forward pass hands back: hidden states, attentions, traces; the same with every attention backend."""

import shutil
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, random_ids, randomize, stack_of, tiny_config, tiny_model
from transformers import AutoModel, AutoModelForCausalLM

import loopway


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_are_the_scaled_embeddings_and_one_state_for_every_unrolled_layer(family: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    ids = random_ids()
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1 == 9
    embeddings = model.get_input_embeddings()(ids) * 32**0.5
    torch.testing.assert_close(states[0], embeddings, rtol=0.0, atol=1e-12)
    # As in every family, the last is what the head reads: after the final norm.
    torch.testing.assert_close(model.lm_head(states[-1]), model(ids).logits, rtol=0.0, atol=1e-12)
    with loopway.trace_stages(model) as records:
        model(ids)
    ends = [record.stage.cache_offset + len(record.stage.layers) for record in records]
    for record, end in zip(records[:-1], ends, strict=False):
        assert torch.equal(states[end], record.output)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attentions_are_one_map_for_every_unrolled_layer(family: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family, dtype=torch.float32, attn_implementation="eager")
    attentions = model(random_ids(2, 6), output_attentions=True).attentions
    assert [attention.shape for attention in attentions] == [(2, 4, 6, 6)] * 8
    for attention in attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 6), rtol=0.0, atol=1e-5)
        assert (attention.triu(1) == 0).all()


# flex_attention is compiled, which takes long: one family stands for all.
BACKENDS = [*((family, "eager") for family in FAMILIES), ("llama", "flex_attention")]


@pytest.mark.parametrize(("family", "backend"), BACKENDS)
@torch.no_grad()
def test_attention_backends_agree(family: str, backend: str) -> None:
    if backend == "flex_attention" and not shutil.which("g++"):
        pytest.skip("flex_attention on a CPU needs a C++ compiler")
    model = tiny_model(family=family, dtype=torch.float32)
    ids = random_ids()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    expected = model(ids, attention_mask=mask).logits
    model.set_attn_implementation(backend)
    assert {
        module.config._attn_implementation for module in model.modules() if hasattr(module, "config")
    } == {backend}
    actual = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("layout", "recurrence"), [("1+2R3+1", "mesh"), ("1+1+1+1", "mesh"), ("2R3", "mesh")]
)
@torch.no_grad()
def test_a_trace_shows_every_stage_and_how_the_next_input_was_mixed(layout: str, recurrence: str) -> None:
    model = tiny_model(layout, recurrence)
    ids = random_ids(2, 5)
    with loopway.trace_stages(model) as records:
        model(ids)
    stages = model.config.parsed_layout.stages
    assert [record.stage for record in records] == list(stages)
    slots = stack_of(model).recurrence.num_slots
    states = [records[0].input]
    torch.testing.assert_close(states[0], model.get_input_embeddings()(ids) * 32**0.5)
    for number, record in enumerate(records):
        states.append(record.output)
        if number == len(records) - 1:
            assert record.write is record.read is record.weights is None
            break
        assert record.write is not None and record.read is not None and record.weights is not None
        assert record.write.shape == record.read.shape == (2, 5, slots)
        assert record.weights.shape == (2, 5, number + 2)  # h_emb and the outputs so far
        for routing in (record.write, record.read):
            assert (routing >= 0).all()
            torch.testing.assert_close(routing.sum(-1), torch.ones(2, 5, dtype=torch.float64))
        mixed = (torch.stack(states, dim=-1) * record.weights.unsqueeze(-2)).sum(-1)
        torch.testing.assert_close(records[number + 1].input, mixed, rtol=0.0, atol=1e-10)


@torch.no_grad()
def test_a_trace_without_routers_has_none_and_ends_with_its_block() -> None:
    model = tiny_model("1+1R2+1", "anchor")
    with loopway.trace_stages(model) as records:
        model(random_ids())
        model(random_ids())
    assert [record.stage.name for record in records] == ["prelude", "core[0]", "core[1]", "coda"] * 2
    assert all(record.write is record.read is record.weights is None for record in records)
    model(random_ids())
    assert len(records) == 8


def test_tracing_what_is_not_recursive_says_so() -> None:
    with (
        pytest.raises(TypeError, match="Linear is not a recursive model"),
        loopway.trace_stages(torch.nn.Linear(2, 2)),
    ):
        pass


@torch.no_grad()
def test_embeddings_are_scaled_by_the_root_of_the_hidden_size_unless_told_not_to() -> None:
    ids = random_ids()
    for scale, factor in ((True, 32**0.5), (False, 1.0)):
        model = tiny_model(scale_embeddings=scale)
        with loopway.trace_stages(model) as records:
            model(ids)
        torch.testing.assert_close(records[0].input, model.get_input_embeddings()(ids) * factor)
        from_embeddings = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
        torch.testing.assert_close(from_embeddings, model(ids).logits, rtol=0.0, atol=0.0)


@torch.no_grad()
def test_the_transition_routers_see_the_embeddings_or_the_preludes_output() -> None:
    ids = random_ids()
    for option in ("embedding", "prelude"):
        model = tiny_model("1+2R2+1", "mesh", transition_router_input=option)
        with loopway.trace_stages(model) as records:
            model(ids)
        seen = records[0].input if option == "embedding" else records[0].output
        router = stack_of(model).recurrence.get_submodule("write_routers.0")
        torch.testing.assert_close(records[0].write, router(seen).softmax(-1), rtol=0.0, atol=0.0)


def test_the_number_of_slots_follows_the_option() -> None:
    for num_slots, expected in ((None, 6), (2, 2), (11, 11)):
        model = tiny_model("1+2R3+1", "mesh", num_slots=num_slots)
        assert stack_of(model).recurrence.get_parameter("read_routers.3.weight").shape == (expected, 32)


@torch.no_grad()
def test_the_base_model_gives_the_final_hidden_state() -> None:
    config: Any = tiny_config()
    base = AutoModel.from_config(config).double().eval()
    full = AutoModelForCausalLM.from_config(config).double().eval()
    randomize(full)
    base.load_state_dict(
        {name.removeprefix("gpt_neox."): w for name, w in full.state_dict().items() if "lm_head" not in name}
    )
    ids = random_ids()
    assert torch.equal(full.lm_head(base(ids).last_hidden_state), full(ids).logits)
