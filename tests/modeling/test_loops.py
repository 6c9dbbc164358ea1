"""`loops=` runs a model as one that was built with that layout, with caches, decoding and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

import loopway
from loopway.errors import ConfigError, LayoutError, RecurrenceError
from tests.modeling.tiny_models import FAMILIES, gradients, random_ids, stack_of, tiny_config, tiny_model

#: Whose rule is defined for any number of loops.
DEFINED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("base", "residual", "anchor", "anchor*", "residual+anchor+anchor*")),
    *((name, {"shared_routers": True, "num_slots": 6}) for name in ("static", "dynamic", "mesh")),
]


def with_weights_of(
    model: Any, layout: str, recurrence: str, family: str = "gpt_neox", **options: Any
) -> Any:
    """A model that is built with another layout and has the same weights."""
    built = tiny_model(layout, recurrence, family, **options)
    built.load_state_dict(model.state_dict())
    return built


@pytest.mark.parametrize(("recurrence", "options"), DEFINED)
@pytest.mark.parametrize("loops", [2, 3, 6])
def test_loops_give_the_logits_of_a_model_built_with_them(
    recurrence: str, options: dict[str, Any], loops: int
) -> None:
    model = tiny_model("1+2R4+1", recurrence, **options)
    built = with_weights_of(model, f"1+2R{loops}+1", recurrence, **options)
    ids = random_ids()
    assert torch.equal(model(ids, loops=loops).logits, built(ids).logits)


@pytest.mark.parametrize("layout", ["2R4", "1+1R4", "2R4+1"])
def test_a_loop_may_begin_or_end_the_model(layout: str) -> None:
    model = tiny_model(layout, "anchor")
    built = with_weights_of(model, layout.replace("R4", "R6"), "anchor")
    assert torch.equal(model(random_ids(), loops=6).logits, built(random_ids()).logits)


def test_several_loops_take_a_number_each_or_one_for_all() -> None:
    model = tiny_model("1R2+1R3+1", "residual")
    built = with_weights_of(model, "1R4+1R2+1", "residual")
    assert torch.equal(model(random_ids(), loops=[4, 2]).logits, built(random_ids()).logits)
    twice = with_weights_of(model, "1R2+1R2+1", "residual")
    assert torch.equal(model(random_ids(), loops=2).logits, twice(random_ids()).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loops", [1, 5])
def test_decoding_with_a_cache_gives_the_tokens_of_decoding_without(family: str, loops: int) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    ids = random_ids(length=7)
    given = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "loops": loops}
    plain = model.generate(ids, use_cache=False, **given)
    assert torch.equal(model.generate(ids, **given), plain)
    assert torch.equal(model.generate(ids, cache_implementation="static", **given), plain)
    # By hand, with a cache that the model makes itself, and one that was made for other loops and is empty.
    for cache in (None, DynamicCache(), DynamicCache(config=model.config)):
        first = model(ids, use_cache=True, past_key_values=cache, loops=loops)
        assert len(first.past_key_values.layers) == 2 + 2 * loops
        second = model(plain[:, 7:8], past_key_values=first.past_key_values, loops=loops)
        torch.testing.assert_close(
            second.logits[:, -1], model(plain[:, :8], loops=loops).logits[:, -1], rtol=0, atol=1e-9
        )


def test_left_padding_changes_nothing() -> None:
    model, ids = tiny_model("1+2R3+1", "mesh"), random_ids(1, 6)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    given = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "loops": 5}
    alone = model.generate(ids, **given)[:, 6:]
    together = model.generate(padded, attention_mask=(padded > 0).long(), **given)[:, 9:]
    assert torch.equal(alone, together)


def test_a_cache_of_other_loops_is_an_error() -> None:
    model, ids = tiny_model("1+2R3+1", "mesh"), random_ids()
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ConfigError, match=r"entries for 8 layers and this call runs 6: .*with_loops"):
        model(ids[:, :1], past_key_values=cache, loops=2)
    with pytest.raises(ConfigError, match="entries for 8 layers"):
        model.generate(ids, past_key_values=cache, loops=4, max_new_tokens=2)
    fixed = StaticCache(config=model.config, max_cache_len=32)
    with pytest.raises(ConfigError, match="entries for 8 layers"):
        model(ids, past_key_values=fixed, loops=2)
    model(ids, past_key_values=StaticCache(config=model.config.with_loops(2), max_cache_len=32), loops=2)


def test_a_cache_of_other_loops_at_equal_depth_is_an_error() -> None:
    model, ids = tiny_model("1R2+1R3", "base"), random_ids()
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(ConfigError, match=r"a call with loops \[2, 3\] and this call has \[3, 2\]"):
        model(ids[:, :1], past_key_values=cache, loops=[3, 2])
    with pytest.raises(ConfigError, match=r"\[4, 1\]"):
        model(ids[:, :1], past_key_values=cache, loops=[4, 1])


def test_a_cache_that_is_emptied_takes_other_loops() -> None:
    model, ids = tiny_model("1R2+1R3", "base"), random_ids()
    fixed = StaticCache(config=model.config, max_cache_len=32)
    model(ids, past_key_values=fixed, loops=[2, 3])
    fixed.reset()
    cached = model(ids, past_key_values=fixed, loops=[3, 2]).logits
    torch.testing.assert_close(cached, model(ids, loops=[3, 2]).logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loops", [2, 5])
def test_an_empty_cache_fits_the_loops_of_the_config(loops: int) -> None:
    model, ids = tiny_model("1+2R3+1", "mesh"), random_ids()
    model.config.loops = loops
    cache = DynamicCache(config=model.config.with_loops(3))
    model(ids[:, :-1], past_key_values=cache)
    last = model(ids[:, -1:], past_key_values=cache).logits
    torch.testing.assert_close(last[:, -1], model(ids).logits[:, -1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("assistant", ["plain", "looped"])
def test_a_drafting_model_has_its_own_loops(assistant: str) -> None:
    model, ids = tiny_model("1+2R3+1", "mesh"), random_ids(1)
    draft = tiny_model("2", "base") if assistant == "plain" else tiny_model("1R2+1R2", "anchor")
    given = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "loops": 5}
    assert torch.equal(model.generate(ids, assistant_model=draft, **given), model.generate(ids, **given))


def test_a_config_made_from_another_keeps_its_shared_routers() -> None:
    config = tiny_config("1+2R3+1", "mesh", shared_routers=True, loops=5)
    again = loopway.recursive_config(config, layout="1+2R4+1", recurrence="mesh")
    assert (again.shared_routers, again.loops) == (True, None)


def test_a_config_with_other_loops_shares_nothing() -> None:
    config = tiny_config("1+2R3+1", "mesh", "llama")
    config.with_loops(2).rope_parameters["rope_theta"] = 1.0
    assert config.rope_parameters["rope_theta"] != 1.0


@pytest.mark.parametrize("family", ["gpt_neox", "gemma3_text", "qwen3_moe"])
def test_a_config_names_the_loops_of_calls_that_name_none(family: str, tmp_path: Path) -> None:
    model = tiny_model("1+2R3+1", "mesh", family)
    expected = model(random_ids(), loops=5).logits
    model.config.loops = 5
    assert model.config.num_hidden_layers == 12
    assert torch.equal(model(random_ids()).logits, expected)
    model.save_pretrained(tmp_path)
    opened: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert (opened.config.loops, opened.config.num_hidden_layers, opened.config.layout) == (5, 12, "1+2R3+1")
    assert torch.equal(opened(random_ids()).logits, expected)
    assert torch.equal(
        opened(random_ids(), loops=3).logits, tiny_model("1+2R3+1", "mesh", family)(random_ids()).logits
    )
    given = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    assert torch.equal(
        opened.generate(random_ids(), **given), opened.generate(random_ids(), loops=5, **given)
    )


@pytest.mark.parametrize(
    ("recurrence", "options"), [("anchor", {}), ("mesh", {"shared_routers": True, "num_slots": 6})]
)
def test_a_report_counts_what_the_loops_run(recurrence: str, options: dict[str, Any]) -> None:
    here = loopway.parameter_report(tiny_config("1+2R3+1", recurrence, loops=5, **options))
    there = loopway.parameter_report(tiny_config("1+2R5+1", recurrence, **options))
    assert (here.total, here.router) == (there.total, there.router)
    assert (here.compute_depth, here.kv_cache_bytes, here.forward_flops) == (
        there.compute_depth,
        there.kv_cache_bytes,
        there.forward_flops,
    )


@pytest.mark.parametrize("level", ["none", "selective", "layer", "stage"])
def test_gradients_are_those_of_a_model_built_with_the_loops(level: str) -> None:
    model = tiny_model("1+2R2+1", "anchor").train()
    built = with_weights_of(model, "1+2R4+1", "anchor").train()
    loopway.set_recompute(model, level)
    ids = random_ids()
    model(ids, labels=ids, loops=4).loss.backward()
    built(ids, labels=ids).loss.backward()
    expected = gradients(built)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model).items())


def test_a_trace_holds_the_stages_of_the_call() -> None:
    model = tiny_model("1+2R2+1", "mesh")
    with torch.no_grad(), loopway.trace_stages(model) as records:
        model(random_ids(), loops=3)
    assert [record.stage.name for record in records] == ["prelude", "core[0]", "core[1]", "core[2]", "coda"]
    assert [record.stage.step for record in records[:-1]] == [0, 1, 2, 2]


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_compiled_model_has_one_graph_a_count(family: str) -> None:
    model, ids = tiny_model("1+2R2+1", "mesh", family), random_ids()
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=False)
    for loops in (1, 3, 1, 3):
        assert torch.equal(compiled(ids, use_cache=False, loops=loops).logits, model(ids, loops=loops).logits)
    assert len(graphs) == 2


def test_a_report_counts_a_router_as_often_as_it_runs() -> None:
    own = loopway.parameter_report(tiny_config("1+2R5+1", "mesh"))
    shared = loopway.parameter_report(tiny_config("1+2R5+1", "mesh", shared_routers=True))
    assert shared.router == own.router / 6 * 3
    assert shared.forward_flops == own.forward_flops


def test_shared_routers_are_three_whatever_the_loops() -> None:
    mesh: Any = stack_of(tiny_model("1+2R6+1", "mesh", shared_routers=True)).recurrence
    static: Any = stack_of(tiny_model("1+2R6+1", "static", shared_routers=True)).recurrence
    assert (len(mesh.write_routers), len(mesh.read_routers), len(static.coefficients)) == (3, 3, 2)


def test_shared_routers_need_parameters_and_boundaries() -> None:
    with pytest.raises(RecurrenceError, match="'anchor' has no parameters per boundary"):
        tiny_config("1+2R3+1", "anchor", shared_routers=True)
    for layout in ("2R3", "1R3+1", "1+1R3", "1+1+1"):
        with pytest.raises(LayoutError, match="a loop between an unlooped first and last segment"):
            tiny_config(layout, "mesh", shared_routers=True)


@pytest.mark.parametrize(
    ("layout", "loops", "message"),
    [
        ("1+2R3+1", 0, "a count must be a whole number from 1"),
        ("1+2R3+1", -1, "a count must be a whole number from 1"),
        ("1+2R3+1", [2, 3], "has 1 looped segment: give one count"),
        ("1R2+1R2", [2], "has 2 looped segments: give one count for each"),
        ("1R2+1R2", [2, 0], "a count must be a whole number from 1"),
        ("4", 2, "layout 4 has no looped segment: omit loops"),
        ("1+2R3+1", 60_000, "would run 120002 layers; the limit is 100000"),
    ],
)
def test_impossible_loops_are_errors(layout: str, loops: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        tiny_config(layout, "base", loops=loops)
    with pytest.raises(LayoutError, match=message):
        tiny_model(layout, "base")(random_ids(), loops=loops)
    config = tiny_config(layout, "base")
    with pytest.raises(LayoutError, match=message):
        config.loops = loops
    assert config.loops is None


@pytest.mark.parametrize("loops", [2.0, "2", True])
def test_loops_of_another_type_are_an_error(loops: Any) -> None:
    with pytest.raises(LayoutError, match="a count must be a whole number from 1"):
        tiny_model("1+2R3+1", "base")(random_ids(), loops=loops)
