"""What a forward pass hands back: hidden states, attentions, traces; the same with every attention backend."""

import shutil
from typing import Any

import pytest
import torch
from tiny_models import (
    FAMILIES,
    family_config,
    random_ids,
    randomize,
    stack_of,
    tiny_config,
    tiny_model,
)
from transformers import AutoModel, AutoModelForCausalLM

import loopway
from loopway.modeling.as_vanilla import as_vanilla


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_are_the_scaled_embeddings_and_one_state_for_every_unrolled_layer(family: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    ids = random_ids()
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1 == 9
    scale = {"gemma3_text": 1.0, "granite": 4.0}  # they multiply embeddings themselves
    embeddings = model.get_input_embeddings()(ids) * scale.get(family, 32**0.5)
    torch.testing.assert_close(states[0], embeddings, rtol=0.0, atol=1e-12)
    # As in every family, the last is what the head reads: after the final norm.
    torch.testing.assert_close(model.head_logits(states[-1]), model(ids).logits, rtol=0.0, atol=1e-12)
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


@pytest.mark.parametrize(("multiplier", "factor"), [(12.0, 12.0), (1.0, 32**0.5)])
@torch.no_grad()
def test_a_familys_own_multiplier_of_embeddings_replaces_the_root(multiplier: float, factor: float) -> None:
    model = tiny_model(family="granite", embedding_multiplier=multiplier)
    ids = random_ids()
    with loopway.trace_stages(model) as records:
        model(ids)
    torch.testing.assert_close(records[0].input, model.get_input_embeddings()(ids) * factor)


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


@torch.no_grad()
def test_a_vanilla_model_is_traced_as_the_blocks_of_another_layout() -> None:
    model = tiny_model("6", "base")
    ids = random_ids()
    expected = model(ids, output_hidden_states=True)
    with loopway.trace_stages(model, cut="1+2R2+1") as records:
        actual = model(ids)
    assert torch.equal(actual.logits, expected.logits)
    assert [record.stage.name for record in records] == ["prelude", "core[0]", "core[1]", "coda"]
    for record, (first, end) in zip(records, ((0, 1), (1, 3), (3, 5), (5, 6)), strict=True):
        assert torch.equal(record.input, expected.hidden_states[first])
        if end < 6:
            assert torch.equal(record.output, expected.hidden_states[end])
    generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    with loopway.trace_stages(model, cut="1+2R2+1"):
        assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), generated)
    assert stack_of(model).stages_of() == model.config.parsed_layout.stages


@pytest.mark.parametrize(("layout", "cut"), [("6", "1+2R2+2"), ("1+2R2+1", "6"), ("1+4+1", "2+2R2")])
def test_a_model_is_cut_only_where_that_changes_nothing(layout: str, cut: str) -> None:
    model = tiny_model(layout, "base")
    with pytest.raises(loopway.LoopwayError, match="cut"), loopway.trace_stages(model, cut=cut):
        pass
    assert stack_of(model).trace is None


@torch.no_grad()
def test_a_trace_leaves_nothing_behind_even_after_an_error() -> None:
    model = tiny_model("6", "base")
    stack, ids = stack_of(model), random_ids()
    before = dict(vars(stack))
    with pytest.raises(ZeroDivisionError), loopway.trace_stages(model, cut="2+1R2+2"):
        model(ids)
        raise ZeroDivisionError
    with pytest.raises(IndexError), loopway.trace_stages(model):
        model(torch.full((1, 3), 10**6))
    assert vars(stack) == before
    hooks = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_traced_once_and_changes_no_trace(reentrant: bool) -> None:
    model = tiny_model("1+1R2+1", "mesh")
    ids = random_ids()
    with loopway.trace_stages(model) as expected:
        model(ids, labels=ids).loss.backward()
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    with loopway.trace_stages(model) as records:
        model(ids, labels=ids, use_cache=False).loss.backward()
    assert len(records) == len(expected) == 4
    for record, plain in zip(records, expected, strict=True):
        assert torch.equal(record.output, plain.output)


@torch.no_grad()
def test_generation_is_traced_step_by_step_and_bf16_as_it_is() -> None:
    model = tiny_model("1+1R2+1", "mesh", dtype=torch.bfloat16)
    ids = random_ids(1, 5)
    with loopway.trace_stages(model) as records:
        text = model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert [record.output.shape[1] for record in records] == [5] * 4 + [1] * 4 + [1] * 4
    assert {record.output.dtype for record in records} == {torch.bfloat16}
    with loopway.trace_stages(model) as whole:
        model(text[:, :-1])
    for stage in range(4):
        steps = torch.cat([record.output for record in records[stage::4]], dim=1)
        torch.testing.assert_close(steps, whole[stage].output, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_familys_own_model_becomes_the_vanilla_one_with_the_same_modules_and_bits(family: str) -> None:
    own = AutoModelForCausalLM.from_config(family_config(family, num_hidden_layers=4)).eval()
    randomize(own)
    ids = random_ids()
    expected = own(ids).logits
    vanilla = as_vanilla(own)
    assert not vanilla.training and {p.device.type for p in vanilla.parameters()} == {"cpu"}
    with loopway.trace_stages(vanilla, cut="1+1R2+1") as records:
        assert torch.equal(vanilla(ids).logits, expected)
    assert len(records) == 4
    assert {p.data_ptr() for p in vanilla.parameters()} == {p.data_ptr() for p in own.parameters()}
    assert torch.equal(own(ids).logits, expected)
