"""What a model costs, against published numbers, a count by hand, and the model itself."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, random_ids, tiny_config, tiny_model

import loopway


def test_every_pythia_size_has_its_published_number_of_parameters(reference: Path) -> None:
    sizes = json.loads((reference / "pythia.json").read_text())["sizes"]
    assert len(sizes) == 10
    for size, published in sizes.items():
        report = loopway.parameter_report(loopway.pythia_config(size))
        assert report.non_embedding == published["non_embedding"], size
        assert report.embedding == 2 * published["vocab_size"] * published["hidden_size"], size
        assert report.router == 0


def test_table_5_is_reproduced_exactly(reference: Path) -> None:
    table = json.loads((reference / "paper_tables.json").read_text())["table5_parameters"]
    vocabulary = table["vocab_size_that_reproduces_the_totals"]
    for variant, layout, total, non_embedding, router in table["rows"]:
        recurrence = "mesh" if variant == "mesh" else "base"
        config = loopway.pythia_config("1.4b", layout=layout, recurrence=recurrence, vocab_size=vocabulary)
        report = loopway.parameter_report(config)
        assert (report.total, report.non_embedding, report.router) == (total, non_embedding, router), variant
        assert (report.layout, report.recurrence) == (layout, recurrence)


def test_counting_allocates_no_weights() -> None:
    loopway.parameter_report(loopway.pythia_config("14m"))  # imports and caches
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = loopway.parameter_report(loopway.pythia_config("12b", layout="9+9R2+9", recurrence="mesh"))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert report.total > 8e9  # 32 GB in float32
    assert after - before < 200_000  # kilobytes; macOS counts bytes, where this only asks for more


@pytest.mark.parametrize("recurrence", ["mesh", "static", "dynamic", "anchor"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_counts_are_those_of_the_real_model(family: str, recurrence: str) -> None:
    model = tiny_model("1+2R3+1", recurrence, family)
    report = loopway.parameter_report(model.config)
    assert report.total == sum(parameter.numel() for parameter in model.parameters())
    router = sum(p.numel() for name, p in model.named_parameters() if "recurrence" in name)
    assert report.router == router
    assert (router == 0) == (recurrence == "anchor")
    assert report.embedding == 2 * 61 * 32 and report.non_embedding == report.total - report.embedding
    assert (report.compute_depth, report.parameter_depth) == (8, 4)
    assert report.optimizer_bytes == 8 * report.total


def test_tied_embeddings_count_once() -> None:
    tied = loopway.parameter_report(tiny_config(tie_word_embeddings=True))
    untied = loopway.parameter_report(tiny_config(tie_word_embeddings=False))
    assert (tied.embedding, untied.embedding) == (61 * 32, 2 * 61 * 32)
    assert tied.non_embedding == untied.non_embedding


def test_flops_are_those_counted_by_hand() -> None:
    # GPT-NeoX, hidden 32, intermediate 48, vocabulary 61; 1 + 2 * 3 + 1 = 8 layers run; 6 slots, 4 boundaries.
    report = loopway.parameter_report(tiny_config("1+2R3+1", "mesh"), context_length=50)
    layer = 2 * 32 * (3 * 32) + 2 * 32 * 32 + 2 * 2 * 32 * 48  # query-key-value, dense, MLP
    attention = 2 * 2 * 32 * 50  # scores and values, over 50 tokens
    routers = 4 * 2 * 2 * 32 * 6
    head = 2 * 32 * 61
    assert report.forward_flops == 8 * (layer + attention) + routers + head
    assert report.training_flops == 3 * report.forward_flops
    assert report.context_length == 50


def test_a_token_costs_the_experts_that_it_is_sent_to() -> None:
    # Hidden 32, experts of 16, 2 of 4 a token; 8 heads of 8 for queries and output, 4 of 8 for keys and values.
    config = tiny_config("1R3", "base", "qwen3_moe", mlp_only_layers=[])
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 32 * 4 + 2 * 3 * 32 * 16
    attention = 2 * 32 * 50
    assert loopway.parameter_report(config, context_length=50).forward_flops == 2 * (
        3 * (layer + attention) + 32 * 61
    )


def test_the_context_is_the_configs_unless_told_otherwise() -> None:
    assert loopway.parameter_report(tiny_config()).context_length == 64


def test_a_recursive_model_costs_the_compute_of_its_unrolled_depth() -> None:
    vanilla = loopway.parameter_report(loopway.pythia_config("1.4b"))
    base = loopway.parameter_report(loopway.pythia_config("1.4b", layout="4+8R2+4"))
    mesh = loopway.parameter_report(loopway.pythia_config("1.4b", layout="4+8R2+4", recurrence="mesh"))
    assert base.forward_flops == vanilla.forward_flops
    assert 1 < mesh.forward_flops / base.forward_flops < 1.0001
    assert base.non_embedding / vanilla.non_embedding == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cache_bytes_are_those_of_a_real_cache(family: str) -> None:
    model: Any = tiny_model("1+2R3+1", "mesh", family, dtype=torch.bfloat16)
    tokens = 4  # within the sliding window
    cache = model(random_ids(1, tokens), use_cache=True).past_key_values
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert loopway.parameter_report(model.config).kv_cache_bytes * tokens == measured
