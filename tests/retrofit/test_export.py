"""A model goes back to its family with the bits that it came with, or with its layers repeated."""

import json
from pathlib import Path

import pytest
import torch
from pretrained import FAMILIES, cases, logits_of, pretrained
from transformers import AutoModelForCausalLM

import loopway
from loopway.modeling.weights import layers_of
from tests.modeling.tiny_models import random_ids, tiny_model


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_unshared_layout_comes_back_byte_for_byte(
    family: str, dtype: torch.dtype, tied: bool, tmp_path: Path
) -> None:
    pretrained(family, dtype=dtype, tie_word_embeddings=tied).save_pretrained(tmp_path / "original")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "original")
    for layout in ("6", "2+2+2"):
        there, back = tmp_path / f"there {layout}", tmp_path / f"back {layout}"
        loopway.retrofit_model(model, layout=layout).save_pretrained(there)
        loopway.export_model(AutoModelForCausalLM.from_pretrained(there)).save_pretrained(back)
        assert contents(back) == contents(tmp_path / "original")


def test_shards_come_back_too(tmp_path: Path) -> None:
    model = pretrained(dtype=torch.float32)
    model.save_pretrained(tmp_path / "original", max_shard_size="30KB")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "original")
    back = loopway.export_model(loopway.retrofit_model(model, layout="2+2+2"))
    back.save_pretrained(tmp_path / "back", max_shard_size="30KB")
    assert len(contents(tmp_path / "original")) > 4
    assert contents(tmp_path / "back") == contents(tmp_path / "original")


@pytest.mark.parametrize(("family", "layout"), cases("1+2R2+1", "2R3", "1+1R2+1+1R2"))
def test_a_shared_layout_becomes_a_plain_model_that_computes_the_same(
    family: str, layout: str, tmp_path: Path
) -> None:
    model = pretrained(family, dtype=torch.float32)
    recursive = loopway.retrofit_model(model, layout=layout, fill="average")
    loopway.export_model(recursive).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain) is type(model)
    assert len(layers_of(plain)) == plain.config.num_hidden_layers == 6
    assert torch.equal(logits_of(plain, random_ids()), logits_of(recursive, random_ids()))
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"layout", "recurrence", "num_slots", "scale_embeddings"} & config.keys()
    assert config["model_type"] == model.config.model_type


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_scale_of_the_embeddings_goes_into_them_once(family: str, dtype: torch.dtype, tied: bool) -> None:
    recursive = tiny_model("1+2R2+1", "base", family, dtype=dtype, tie_word_embeddings=tied)
    assert recursive.config.scale_embeddings
    plain = loopway.export_model(recursive)
    assert torch.equal(logits_of(plain, random_ids()), logits_of(recursive, random_ids()))
    again = loopway.retrofit_model(plain, layout="1+2R2+1", fill="first")
    assert torch.equal(logits_of(again, random_ids()), logits_of(recursive, random_ids()))


def test_the_recursive_model_is_left_as_it_is_and_no_layers_are_tied() -> None:
    recursive = tiny_model("1+2R2+1", "base")
    before = logits_of(recursive, random_ids())
    plain = loopway.export_model(recursive)
    with torch.no_grad():
        layers_of(plain)[1].get_parameter("mlp.dense_4h_to_h.weight").zero_()
    assert layers_of(plain)[3].get_parameter("mlp.dense_4h_to_h.weight").abs().max() > 0
    assert torch.equal(logits_of(recursive, random_ids()), before)


def test_another_recurrence_is_exported_only_without_it() -> None:
    model = pretrained()
    mesh = loopway.retrofit_model(model, layout="2+2+2", recurrence="mesh")
    with pytest.raises(
        loopway.LoopwayError, match=r"recurrence 'mesh' can't be exported.*only has 'base'.*--drop-recurrence"
    ):
        loopway.export_model(mesh)
    plain = loopway.export_model(mesh, drop_recurrence=True)
    assert torch.equal(logits_of(plain, random_ids()), logits_of(model, random_ids()))


def test_a_plain_model_has_nothing_to_export() -> None:
    with pytest.raises(loopway.LoopwayError, match="llama: is not a recursive model"):
        loopway.export_model(pretrained())


def test_the_generation_config_comes_along() -> None:
    recursive = tiny_model("2", "base")
    recursive.generation_config.max_new_tokens = 5
    assert loopway.export_model(recursive).generation_config.max_new_tokens == 5  # type: ignore[union-attr]
