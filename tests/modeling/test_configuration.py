"""Configs: what follows from a layout, and one clear line for what can't be built."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, family_config, random_ids, tiny_config, tiny_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import loopway
from loopway.errors import ConfigError, FamilyError, LayoutError, LoopwayError, RecurrenceError


@pytest.mark.parametrize("family", FAMILIES)
def test_depths_follow_from_the_layout(family: str) -> None:
    config = tiny_config("1+2R3+1", "mesh", family)
    assert (config.num_hidden_layers, config.num_unique_layers) == (8, 4)
    assert (config.scale_embeddings, config.depth_scaled_init) == (True, True)
    assert config.model_type == f"recursive_{family.removesuffix('_sliding')}"
    if getattr(config, "layer_types", None) is not None:
        assert len(config.layer_types) == 8


def test_the_family_configs_own_depth_is_ignored() -> None:
    config = loopway.recursive_config(family_config("llama", num_hidden_layers=77), layout="1+1R2+1")
    assert config.num_hidden_layers == 4


def test_a_recursive_config_can_be_given_another_layout() -> None:
    first = tiny_config("1+2R3+1", "mesh", "qwen3", num_slots=7)
    second = loopway.recursive_config(first, layout="2+2R2", recurrence="mesh")
    assert (second.layout, second.num_hidden_layers, second.num_slots) == ("2+2R2", 6, 7)
    AutoModelForCausalLM.from_config(second)
    assert first.layout == "1+2R3+1"


def test_options_and_family_fields_override() -> None:
    config: Any = tiny_config("1+2R3+1", "mesh", vocab_size=99, num_slots=4, scale_embeddings=False)
    assert (config.vocab_size, config.num_slots, config.scale_embeddings) == (99, 4, False)


def test_no_layout_is_the_vanilla_model() -> None:
    config = loopway.pythia_config("160m")
    assert (config.layout, config.num_hidden_layers, config.recurrence) == ("12", 12, "base")


@pytest.mark.parametrize("size", ["160m", "160M", "pythia-160m", "Pythia-160M"])
def test_pythia_sizes_are_known_by_their_names(size: str) -> None:
    config: Any = loopway.pythia_config(size, layout="2+4R2+2", recurrence="mesh", vocab_size=1000)
    assert (config.hidden_size, config.num_attention_heads, config.vocab_size) == (768, 12, 1000)
    assert config.use_parallel_residual and not config.tie_word_embeddings
    assert config.rope_parameters["partial_rotary_factor"] == 0.25


def test_an_unknown_pythia_size_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown Pythia size '7b'; sizes: 14m, 31m, 70m, 160m, 410m, 1b"):
        loopway.pythia_config("7b")


def test_a_family_that_is_not_supported_is_answered_with_those_that_are_and_how_to_add_one() -> None:
    with pytest.raises(FamilyError) as caught:
        loopway.recursive_config(GPT2Config(), layout="2+2")
    message = str(caught.value)
    assert "'gpt2' is not supported" in message and "\n" not in message
    assert "gpt_neox, llama, qwen3, mistral, olmo2" in message
    assert "loopway.register_family(loopway.Family(" in message and "CONTRIBUTING.md" in message


MIXED = ["full_attention", "sliding_attention"]


def mixed(types: list[str]) -> Any:
    return family_config(
        "qwen3", num_hidden_layers=len(types), layer_types=types, use_sliding_window=True, sliding_window=5
    )


def test_a_list_of_one_entry_a_layer_is_repeated_as_the_layout_repeats_the_layers() -> None:
    of_all = MIXED + MIXED * 3 + MIXED
    for given in (of_all, MIXED * 3):  # for the unrolled layers, and for the unique ones
        config: Any = loopway.recursive_config(mixed(given), layout="2+2R3+2")
        assert config.layer_types == of_all
        config.layout = "2+2R5+2"
        assert (config.num_hidden_layers, config.layer_types) == (14, MIXED * 7)
        assert type(config)(**config.to_dict()).layer_types == MIXED * 7


def test_a_list_that_the_family_makes_from_its_depth_is_made_for_the_unique_layers() -> None:
    own: Any = family_config("qwen3", num_hidden_layers=9, use_sliding_window=True, max_window_layers=3)
    assert own.layer_types == ["full_attention"] * 3 + ["sliding_attention"] * 6
    config: Any = loopway.recursive_config(own, layout="2+2R2+1")
    expected = [*["full_attention"] * 3, "sliding_attention", "full_attention", *["sliding_attention"] * 2]
    assert config.layer_types == expected
    again: Any = loopway.recursive_config(config, layout="6")
    assert again.layer_types == ["full_attention"] * 3 + ["sliding_attention"] * 3


def test_lists_that_fit_no_layout_are_refused_with_what_would() -> None:
    with pytest.raises(
        FamilyError, match=r"fold layers 1 \(sliding_attention\) and 2 \(full_attention\) into one"
    ):
        loopway.recursive_config(mixed(MIXED * 2), layout="1+1R2+1")
    with pytest.raises(
        FamilyError, match=r"layer_types has 8 entries, and layout 2\+2R2\+1 has 5 unique layers: give"
    ):
        loopway.recursive_config(mixed(MIXED * 4), layout="2+2R2+1")


MISTAKES: list[tuple[dict[str, Any], type[LoopwayError], str]] = [
    ({"num_slots": 0}, RecurrenceError, "num_slots is 0; it must be at least 1"),
    ({"num_slots": -1}, RecurrenceError, "num_slots is -1"),
    ({"num_slots": "5"}, FamilyError, "'num_slots'"),
    ({"num_slots": 2.5}, FamilyError, "'num_slots'"),
    ({"transition_router_input": "output"}, RecurrenceError, "it must be 'embedding' or 'prelude'"),
    ({"transition_router_input": None}, FamilyError, "'transition_router_input'"),
    ({"scale_embeddings": "no"}, FamilyError, "'scale_embeddings'"),
    ({"recurrence": "mehs"}, RecurrenceError, "did you mean 'mesh'"),
    ({"recurrence": None}, FamilyError, "'recurrence'"),
    ({"recurrence": "anchor", "layout": "2+2"}, LayoutError, "needs a looped segment"),
    ({"layout": "4+R2"}, LayoutError, "4+8R2+4"),
    ({"layout": None}, LayoutError, "layout must be a string, got None"),
    ({"layout": "1R2+1", "transition_router_input": "prelude"}, RecurrenceError, "begins with a loop"),
    ({"hidden_size": 30}, FamilyError, "hidden size"),
]


@pytest.mark.parametrize(("fields", "error", "says"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_in_a_config_gets_one_line_of_ours(
    fields: dict[str, Any], error: type[LoopwayError], says: str
) -> None:
    given = {"layout": "1+2R2+1", "recurrence": "mesh", **fields}
    with pytest.raises(LoopwayError) as caught:
        loopway.recursive_config(family_config("llama"), **given)
    assert type(caught.value) is error
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_misspelt_option_is_refused_where_transformers_would_keep_it_unread() -> None:
    with pytest.raises(FamilyError, match="no field 'hidden_sise': did you mean 'hidden_size'"):
        loopway.pythia_config("14m", hidden_sise=64)
    with pytest.raises(FamilyError, match="no field 'num_slot': did you mean 'num_slots'"):
        loopway.recursive_config(LlamaConfig(), layout="1+1R2+1", num_slot=4)
    assert loopway.pythia_config("14m", attn_implementation="eager")._attn_implementation == "eager"


def test_a_config_read_from_a_file_is_checked_as_well() -> None:
    with pytest.raises(LayoutError, match="4\\+R2"):
        loopway.RecursiveLlamaConfig(layout="4+R2")
    with pytest.raises(RecurrenceError, match="did you mean 'mesh'"):
        loopway.RecursiveLlamaConfig(layout="1+1R2+1", recurrence="mehs")


def test_a_users_recurrence_runs_in_a_whole_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from loopway.recurrence import registry

    class Averaged(loopway.Recurrence):
        """h(t+1) = mean of the stage's input and output, scaled by a trained gain."""

        def __init__(self, options: loopway.RecurrenceOptions) -> None:
            super().__init__(options)
            self.gain = torch.nn.Linear(options.hidden_size, 1)

        def reset_parameters(self) -> None:
            torch.nn.init.zeros_(self.gain.weight)
            torch.nn.init.constant_(self.gain.bias, 0.25)

        def start(self, embeddings: torch.Tensor) -> None:
            return None

        def advance(self, state, step, stage_input, stage_output):
            gain = self.gain(stage_input)
            return loopway.mix_states((gain, 1 - gain), (stage_input, stage_output)), None

    monkeypatch.setattr(registry, "_RECURRENCES", dict(registry._RECURRENCES))
    loopway.register_recurrence("averaged", Averaged)
    fresh: Any = AutoModelForCausalLM.from_config(tiny_config("1+1R2+1", "averaged"))
    assert (
        fresh.gpt_neox.layers[0].recurrence.gain.bias == 0.25
    ).all()  # the family's own init would make it 0
    model = tiny_model("1+1R2+1", "averaged", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = random_ids()
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    with torch.no_grad():
        cached = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
        uncached = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, use_cache=False)
    assert torch.equal(cached, uncached)


def test_a_config_of_another_size_is_not_disturbed_by_building_a_model() -> None:
    config = tiny_config("1+2R3+1", "mesh", "qwen3")
    before = config.to_dict()
    model: Any = AutoModelForCausalLM.from_config(config)
    assert {**config.to_dict(), "dtype": None} == {**before, "dtype": None}
    assert model.config is config
    assert {id(module.config) for module in model.modules() if hasattr(module, "config")} == {id(config)}


def test_a_llama_config_with_every_default_works() -> None:
    config: Any = loopway.recursive_config(LlamaConfig(), layout="6+9R2+6", recurrence="mesh")
    assert (config.num_hidden_layers, config.num_unique_layers, config.hidden_size) == (30, 21, 4096)
