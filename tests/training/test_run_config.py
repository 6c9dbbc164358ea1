import dataclasses
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from loopway.data.tokenizer import train_tokenizer
from loopway.errors import ConfigError, LoopwayError
from loopway.modeling.configuration import config_class
from loopway.modeling.families import FAMILIES
from loopway.training.config.arguments import training_arguments
from loopway.training.config.keys import REFUSED_OF_TRAINING as REFUSED
from loopway.training.config.keys import family_fields, hugging_face_types
from loopway.training.config.run_config import RunConfig
from loopway.training.config.training_section import TrainingConfig, steps_of_epochs
from loopway.training.config.yaml_files import apply_overrides, merge

Build = Callable[..., RunConfig]


@pytest.mark.parametrize(
    "override, message",
    [
        ("modle.preset=pythia-14m", "unknown key modle; did you mean model?"),
        ("model.layuot=4", "unknown key model.layuot; did you mean layout?"),
        ("model.recurence=mesh", "unknown key model.recurence; did you mean recurrence?"),
        ("model.hiden_size=32", "unknown key model.hiden_size; did you mean hidden_size?"),
        ("data.sequence_lenght=8", "unknown key data.sequence_lenght; did you mean sequence_length?"),
        ("data.train={dataset: a, spilt: train}", "unknown key data.train[0].spilt; did you mean split?"),
        ("training.learning_rat=1e-3", "unknown key training.learning_rat; did you mean learning_rate?"),
        ("training.warmup_ratio=0.1", "unknown key training.warmup_ratio"),
        (
            "training.global_batchsize=1",
            "unknown key training.global_batchsize; did you mean global_batch_size?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    tiny: dict[str, Any], override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(apply_overrides(tiny, [override]))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "override, message",
    [
        ("training.max_steps=ten", "training.max_steps: got 'ten', expected a whole number"),
        ("training.max_steps=2.5", "training.max_steps: got 2.5, expected a whole number"),
        ("training.learning_rate=[1]", "training.learning_rate: got [1], expected a number"),
        ("training.learning_rate=true", "training.learning_rate: got True, expected a number"),
        ("training.bf16=1", "training.bf16: got 1, expected true or false"),
        (
            "training.lr_scheduler_kwargs=3",
            "training.lr_scheduler_kwargs: got 3, expected a mapping or text or null",
        ),
        (
            "training.lr_scheduler_type=cosin",
            "training.lr_scheduler_type: got 'cosin'; did you mean cosine, cosine_with_restarts",
        ),
        ("training.recompute=layers", "training.recompute: got 'layers'; did you mean layer"),
        ("training.recompute=1", "training.recompute: got 1, expected text"),
        ("training.global_batch_size=0", "training.global_batch_size: got 0, expected at least 1"),
        ("training.max_steps=-1", "training.max_steps: got -1, expected more than 0"),
        ("training.eval_strategy=epoch", "training.eval_strategy: got 'epoch', expected steps"),
        ("training.save_strategy=best", "training.save_strategy: got 'best', expected steps"),
        ("training.learning_rate=.inf", "training.learning_rate: got inf, expected a finite number"),
        (
            "training={max_steps: null, num_train_epochs: .nan}",
            "training.num_train_epochs: got nan, expected a finite",
        ),
        (
            "training.torch_compile_backend=inductr",
            "training.torch_compile_backend: got 'inductr'; did you mean induc",
        ),
        ("training.seed=-1", "training.seed: got -1, expected at least 0"),
        ("training.learning_rate=1e30", "training.learning_rate: got 1e+30, expected at most 1000"),
        ("training.adam_epsilon=0", "training.adam_epsilon: got 0, expected more than 0"),
        (
            "training.ddp_timeout=9223372036854775807",
            "training.ddp_timeout: got 9223372036854775807, expected at",
        ),
        (
            "training.dataloader_num_workers=100000",
            "training.dataloader_num_workers: got 100000, expected at most",
        ),
        ("model.return_dict=false", "model.return_dict can't be set"),
        (
            "model.rope_parameters={rope_theta: 0}",
            "model.rope_parameters.rope_theta: got 0, expected more than 0",
        ),
        ("training.weight_decay=-1", "training.weight_decay: got -1, expected at least 0"),
        ("training.adam_beta2=1", "training.adam_beta2: got 1, expected less than 1"),
        ("training.max_steps=3000000000", "training.max_steps: got 3000000000, expected less than"),
        ("training.save_steps=0", "training.save_steps: got 0, expected more than 0"),
        ("training.neftune_noise_alpha=-1", "training.neftune_noise_alpha: got -1, expected at least 0"),
        ("training.dataloader_num_workers=-1", "training.dataloader_num_workers: got -1, expected at least"),
        ("training.log_level=loud", "training.log_level: got 'loud', expected 'debug', 'info'"),
        ("training.torch_compile_mode=fast", "training.torch_compile_mode: got 'fast', expected 'default'"),
        ("training.ddp_backend=gluu", "training.ddp_backend: got 'gluu', expected one of gloo"),
        ("training.optim_args=fast", "training.optim_args: got 'fast', expected name=value"),
        ("training.save_total_limit=-1", "training.save_total_limit: got -1, expected at least 1"),
        ("training=3", "training: got 3, expected a mapping"),
        ("data.sequence_length=long", "data.sequence_length: got 'long', expected a valid integer"),
        ("data.sequence_length=0", "data.sequence_length: got 0, expected more than 0"),
        ("data.mask_documents=1", "data.mask_documents: got 1, expected a valid boolean"),
        ("model.layout=[4]", "model.layout: got [4], expected a valid string"),
        ("model.layout=true", "model.layout: got True, expected a valid string"),
        ("model.hidden_size=wide", "model.hidden_size: got 'wide', expected a whole number"),
        ("model.hidden_act=foo", "model.hidden_act: got 'foo', expected one of gelu"),
        (
            "model.rope_parameters={rope_type: foo}",
            "model.rope_parameters.rope_type: got 'foo', expected one of",
        ),
        ("model.vocab_size=10", "model.vocab_size: got 10, but the tokenizer has 257"),
        ("training.callbacks=[foo]", "training.callbacks: got 'foo', and no plugin registers a callback"),
        ("plugins=a.py", "plugins: got 'a.py', expected a list"),
    ],
)
def test_a_wrong_value_names_field_given_and_expected(
    tiny: dict[str, Any], override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(apply_overrides(tiny, [override])).build_model_config()
    assert str(error.value).startswith(message)


def test_a_whole_number_is_a_number_for_every_family(tiny: dict[str, Any]) -> None:
    for model in (
        {"preset": "pythia-14m", "initializer_range": 1},
        {"family": "gemma3_text", "layout": "2", "final_logit_softcapping": 30, "num_key_value_heads": 4},
    ):
        config = RunConfig.from_dict(tiny | {"model": model}).build_model_config()
        (field,) = model.keys() & {"initializer_range", "final_logit_softcapping"}
        assert type(getattr(config, field)) is float


def test_special_tokens_are_among_the_tokenizer_s(tiny: dict[str, Any]) -> None:
    run = RunConfig.from_dict(apply_overrides(tiny, ["model.bos_token_id=5000"]))
    with pytest.raises(
        ConfigError, match=r"model.bos_token_id: got 5000, expected one of the tokenizer's 257"
    ):
        run.build_model_config(train_tokenizer(["a"], 257))


@pytest.mark.parametrize(
    "override, message",
    [
        ("data=null", "section data is missing"),
        ("data.train=null", "data.train"),
        ("model.preset=null", "give one of preset"),
        ("model.family=llama", "give one of preset"),
        ("model.preset=pythia-15m", "unknown Pythia size 'pythia-15m'"),
        ("model={preset: null, family: lama}", "did you mean 'llama'"),
        ("model={preset: null, family: llama, layout: null}", "model.layout is missing"),
        ("model.num_hidden_layers=4", "model.num_hidden_layers can't be set: the layout says"),
        (
            "model.dtype=float16",
            "model.dtype can't be set: weights are trained in float32; set training.bf16",
        ),
        (
            "training.output_dir=here",
            "training.output_dir can't be set: everything of a run goes to its own folder",
        ),
        ("training.gradient_accumulation_steps=2", "set global_batch_size"),
        ("training.use_liger_kernel=true", "its kernels know no recursive models"),
        (
            "model={preset: null, family: llama, rope_theta: 5}",
            "rope_theta can't be set: set model.rope_parameters",
        ),
        ("training.dataloader_persistent_workers=true", "set training.dataloader_num_workers"),
        (
            "training.gradient_checkpointing_kwargs={foo: 1}",
            "unknown key training.gradient_checkpointing_kwargs.foo",
        ),
        ("training.hub_token=secret", "training.hub_token can't be set: a file would hold the secret"),
        ("training={recompute: layer, gradient_checkpointing: true}", "leave the latter out"),
        ("training.num_train_epochs=2", "give one of max_steps and num_train_epochs; both are given"),
        ("training.max_steps=null", "give one of max_steps and num_train_epochs; neither is given"),
        ("plugins=[gone.py]", "plugins: no file gone.py"),
    ],
)
def test_what_cannot_be_meant_is_an_error(tiny: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(LoopwayError) as error:
        RunConfig.from_dict(apply_overrides(tiny, [override]))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "model, message",
    [
        ({"layout": "4+R2"}, "'4+R2'"),
        ({"recurrence": "mush"}, "unknown recurrence 'mush'"),
        ({"layout": "4", "recurrence": "residual"}, "needs a looped segment"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_size": 30}, "divisible"),
        ({"hidden_act": "gleu"}, "got 'gleu'; did you mean gelu"),
        (
            {"preset": None, "family": "llama", "num_attention_heads": 4, "num_key_value_heads": 3},
            "model.num_key_value_heads: got 3, expected a divisor of num_attention_heads, 4",
        ),
        ({"num_attention_heads": 0}, "can't be built: ZeroDivisionError"),
        ({"scale_embeddings": "very"}, "scale_embeddings"),
        ({"max_position_embeddings": 16}, "data.sequence_length: 32 tokens are more than the model's"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(
    tiny_config: Build, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoopwayError) as error:
        tiny_config(model=model).build_model_config()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_paper_s_recipe_is_the_default(tiny: dict[str, Any]) -> None:
    config = RunConfig.from_dict(tiny | {"training": {"max_steps": 100}})
    arguments = training_arguments(config.training, Path("unused"))
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.weight_decay) == (0.9, 0.95, 0.01)
    assert arguments.max_grad_norm == 1.0
    assert arguments.lr_scheduler_type == "cosine_with_min_lr"
    assert arguments.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert arguments.get_warmup_steps(100) == 1
    assert arguments.learning_rate == 1e-3  # of pythia-14m
    assert not arguments.bf16


def test_a_family_without_preset_needs_a_learning_rate(tiny: dict[str, Any]) -> None:
    model = {"family": "llama", "layout": "1+1R2+1"}
    with pytest.raises(ConfigError, match=r"training.learning_rate is missing"):
        RunConfig.from_dict(tiny | {"model": model, "training": {"max_steps": 1}})


def test_another_schedule_does_not_inherit_the_cosine_s_options(tiny_config: Build) -> None:
    training = tiny_config(training={"lr_scheduler_type": "linear"}).training
    assert "lr_scheduler_kwargs" not in training.hugging_face


def test_a_null_stands_for_the_default(tiny_config: Build) -> None:
    config = tiny_config(training={"weight_decay": None, "eval_steps": None}, model={"hidden_size": None})
    assert (config.training.hugging_face["weight_decay"], config.training.hugging_face["eval_steps"]) == (
        0.01,
        0.1,
    )
    assert config.build_model_config().hidden_size == 128


def test_a_list_of_names_that_transformers_does_not_know_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"training.debug: got \['bogus'\], expected text"):
        RunConfig.from_dict(apply_overrides(tiny, ["training.debug=[bogus]"]))


def test_a_strategy_is_no_or_steps(tiny: dict[str, Any]) -> None:
    config = RunConfig.from_dict(apply_overrides(tiny, ["training.eval_strategy=no"]))
    assert config.training.hugging_face["eval_strategy"] == "no"
    with pytest.raises(ConfigError, match=r"training.eval_strategy: got 'yes', expected steps"):
        RunConfig.from_dict(apply_overrides(tiny, ["training.eval_strategy=yes"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("attention_dropout", 2.0), ("hidden_dropout", -0.1), ("initializer_range", math.nan)],
)
def test_values_that_no_layer_takes_are_told_with_the_config(
    tiny: dict[str, Any], field: str, value: float
) -> None:
    config = RunConfig.from_dict(tiny | {"model": tiny["model"] | {field: value}})
    with pytest.raises(ConfigError, match=f"model.{field}: got {value}"):
        config.build_model_config()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_configured_by_its_own_fields(tiny: dict[str, Any], family: str) -> None:
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "initializer_range": 0.03}
    fields |= {} if family == "gpt_neox" else {"num_key_value_heads": 1}
    model = {"family": family, "layout": "1+2R3+1", "recurrence": "anchor", **fields}
    config = RunConfig.from_dict(tiny | {"model": model}).build_model_config()
    assert config.model_type == f"recursive_{family}"
    assert (config.num_hidden_layers, config.num_unique_layers) == (8, 4)
    assert {name: getattr(config, name) for name in fields} == fields


def test_a_layout_may_be_a_number(tiny_config: Build) -> None:
    assert tiny_config(model={"layout": 3, "recurrence": "base"}).build_model_config().num_hidden_layers == 3


def test_a_config_survives_writing_and_reading(tiny_config: Build, tmp_path: Path) -> None:
    config = tiny_config(training={"warmup_steps": 3, "fsdp": True})
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert RunConfig.load(path) == config


@pytest.mark.parametrize(
    ("epochs", "samples", "per_step", "steps"),
    [(15, 392, 24, 245), (0.1, 30, 1, 3), (2.5, 10, 4, 6), (0.01, 10, 4, 1), (1, 10**17 + 3, 1, 10**17 + 3)],
)
def test_steps_of_epochs_are_counted_exactly(epochs: float, samples: int, per_step: int, steps: int) -> None:
    assert steps_of_epochs(epochs, samples, per_step) == steps


@pytest.mark.parametrize(("share", "steps"), [(0.07, 7), (0.071, 8), (0, 0), (12, 12)])
def test_steps_of_the_core_alone_are_counted_exactly(share: float, steps: int) -> None:
    assert TrainingConfig(hugging_face={}, core_first=share).core_steps(100) == steps


def test_accumulation_follows_from_the_global_batch(tiny_config: Build) -> None:
    config = tiny_config(training={"global_batch_size": 12, "per_device_train_batch_size": 3})
    assert training_arguments(config.training, Path("unused")).gradient_accumulation_steps == 4


def test_a_global_batch_that_cannot_be_shared_is_an_error(tiny_config: Build) -> None:
    config = tiny_config(training={"global_batch_size": 5, "per_device_train_batch_size": 2})
    with pytest.raises(ConfigError, match="5 sequences can't be shared evenly"):
        training_arguments(config.training, Path("unused"))


def test_the_batch_of_a_device_follows_a_small_global_batch(tiny: dict[str, Any]) -> None:
    config = RunConfig.from_dict(tiny | {"training": {"max_steps": 1, "global_batch_size": 6}})
    assert config.training.hugging_face["per_device_train_batch_size"] == 2


def test_what_transformers_refuses_comes_out_as_one_line(tiny_config: Build) -> None:
    config = tiny_config(training={"bf16": True, "fp16": True})
    with pytest.raises(ConfigError, match="fp16 and bf16") as error:
        training_arguments(config.training, Path("unused"))
    assert "\n" not in str(error.value)


def test_every_refused_field_is_one_that_users_could_have_meant() -> None:
    removed_in_transformers_5 = {"logging_dir"}
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(REFUSED) - fields == removed_in_transformers_5


def test_sections_are_merged_not_replaced(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(RunConfig.from_dict(tiny).to_yaml(), encoding="utf-8")
    (tmp_path / "run.yaml").write_text("extends: base.yaml\nmodel: {layout: 2+1R2}\n", encoding="utf-8")
    expected = RunConfig.from_dict(merge(tiny, {"model": {"layout": "2+1R2"}, "training": {"seed": 3}}))
    assert RunConfig.load(tmp_path / "run.yaml", ["training.seed=3"]) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_no_ordinary_token_is_taken_for_padding(tiny: dict[str, Any], family: str) -> None:
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    if family == "gpt_neox":
        del fields["num_key_value_heads"]
    model = {"family": family, "layout": "1+1R2+1", **fields}
    config = RunConfig.from_dict(tiny | {"model": model}).build_model_config()
    assert AutoModelForCausalLM.from_config(config).get_input_embeddings().padding_idx is None


def test_several_gpus_without_a_launcher_are_one_device(
    tiny_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for global_batch in (2, 4):
        config = tiny_config(training={"use_cpu": False, "global_batch_size": global_batch})
        arguments = training_arguments(config.training, Path("unused"))
        assert (arguments.n_gpu, arguments.train_batch_size) == (1, 2)


@pytest.mark.parametrize(
    "training, message",
    [
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"foo": 1}}, "foo"),
        ({"lr_scheduler_kwargs": {"min_lr_rate": "abc"}}, "unsupported operand"),
        ({"optim": "sgd", "optim_args": "momentum=-2"}, "Invalid momentum"),
    ],
)
def test_values_of_optimizer_and_schedule_are_checked_early(
    tiny_config: Build, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        training_arguments(tiny_config(training=training).training, Path("unused"))


def test_plugins_of_one_name_would_overwrite_each_other_s_copy(tiny: dict[str, Any], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("")
    tiny["plugins"] = [str(tmp_path / folder / "mine.py") for folder in ("one", "two")]
    with pytest.raises(ConfigError, match=r"several files are called mine.py"):
        RunConfig.from_dict(tiny)


def test_keys_are_told_without_transformers_as_it_tells_them_itself() -> None:
    told, hints = hugging_face_types(), typing.get_type_hints(TrainingArguments)
    assert told.keys() == {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    enumerations = {name for name, hint in told.items() if hint != hints[name]} - {"fsdp"}
    assert {"lr_scheduler_type", "optim"} <= enumerations and len(enumerations) < 10
    for family in FAMILIES.values():
        fields = {field.name for field in dataclasses.fields(config_class(family))}
        assert fields <= family_fields(family.model_type)
    assert not family_fields("loaama") and not family_fields("../llama")
