"""Differences, their errors and the share of the gap closed, on losses made by hand."""

import math

import numpy as np
import pytest

from loopway.comparison.rows import compare_losses, compare_variants
from loopway.comparison.tables import COLUMNS, markdown_table
from tests.comparison.losses import SAMPLES, SAMPLES_PER_DOCUMENT, variant


def test_the_share_of_the_gap_closed_is_what_the_paper_says_of_its_160m_models() -> None:
    # Table 1, Pile perplexity: vanilla 11.31, base 11.79, mesh 11.37. Closing is told in loss here.
    vanilla, base, mesh = (math.log(ppl) for ppl in (11.31, 11.79, 11.37))
    rows = compare_variants(
        [
            variant("vanilla", "12", "base", vanilla),
            variant("base", "2+4R2+2", "base", base, 667),
            variant("mesh", "2+4R2+2", "mesh", mesh, 667),
        ]
    )
    assert [row.gap_closed for row in rows[:2]] == [None, None]
    assert rows[2].gap_closed == pytest.approx((base - mesh) / (base - vanilla))
    assert rows[2].gap_closed == pytest.approx(0.87, abs=0.01)
    assert rows[2].difference == pytest.approx(mesh - vanilla)
    assert rows[2].percent_of_vanilla == pytest.approx(66.7)
    assert rows[0].difference is None and rows[0].perplexity == pytest.approx(11.31)


def test_a_gap_within_noise_has_no_share() -> None:
    noise = np.repeat(np.random.default_rng(0).normal(0, 1, (2, 1, SAMPLES)), 2, axis=1)
    rows = compare_variants(
        [
            variant("vanilla", "4", "base", 3 + noise[0]),
            variant("base", "1+1R2+1", "base", 3.05 + noise[1]),
            variant("mesh", "1+1R2+1", "mesh", 2.9),
        ]
    )
    assert rows[1].difference is not None and rows[1].difference_error is not None
    assert abs(rows[1].difference) < 2 * rows[1].difference_error
    assert rows[2].gap_closed is None


def test_a_base_that_beats_vanilla_leaves_no_gap_to_close() -> None:
    rows = compare_variants(
        [
            variant("vanilla", "4", "base", 3.0),
            variant("base", "1+1R2+1", "base", 2.9),
            variant("mesh", "1+1R2+1", "mesh", 2.8),
        ]
    )
    assert rows[2].gap_closed is None


def test_each_layout_is_held_against_its_own_base() -> None:
    rows = compare_variants(
        [
            variant("vanilla", "24", "base", 3.0),
            variant("base2", "4+8R2+4", "base", 3.1),
            variant("mesh2", "4+8R2+4", "mesh", 3.05),
            variant("base3", "3+6R3+3", "base", 3.4),
            variant("mesh3", "3+6R3+3", "mesh", 3.3),
            variant("mesh4", "4+4R4+4", "mesh", 3.3),
        ]
    )
    assert rows[2].gap_closed == pytest.approx(0.5)
    assert rows[4].gap_closed == pytest.approx(0.25)
    assert rows[5].gap_closed is None


def test_what_both_models_find_hard_is_no_noise() -> None:
    hard = np.random.default_rng(0).normal(3, 1, (1, SAMPLES))
    difference = compare_losses(variant("a", "4", "base", hard + 0.01), variant("b", "4", "base", hard))
    assert difference.value == pytest.approx(0.01)
    assert difference.document_error is not None and difference.document_error < 1e-9


def test_the_error_is_that_of_the_mean_of_paired_differences_over_documents() -> None:
    a, b = np.random.default_rng(0).normal(3, 1, (2, 1, SAMPLES))
    difference = compare_losses(variant("a", "4", "base", a), variant("b", "4", "base", b))
    of_documents = (a - b).reshape(-1, SAMPLES_PER_DOCUMENT).mean(1)
    assert difference.value == pytest.approx(of_documents.mean())
    error = of_documents.std(ddof=1) / math.sqrt(len(of_documents))
    assert difference.document_error == pytest.approx(error)


def test_samples_of_one_document_are_no_independent_witnesses() -> None:
    of_documents = np.random.default_rng(0).normal(0, 0.1, SAMPLES // SAMPLES_PER_DOCUMENT)
    a = 3 + np.repeat(of_documents, SAMPLES_PER_DOCUMENT)[None]
    b = np.full((1, SAMPLES), 3.0)
    difference = compare_losses(variant("a", "4", "base", a), variant("b", "4", "base", b))
    error = of_documents.std(ddof=1) / math.sqrt(len(of_documents))
    assert difference.document_error == pytest.approx(error)


def test_one_seed_gives_no_interval_and_no_share_of_a_gap() -> None:
    losses = {"vanilla": 3.0, "base": 3.1, "mesh": 3.05}
    layouts = {"vanilla": "4", "base": "1+1R2+1", "mesh": "1+1R2+1"}
    rows = compare_variants(
        [
            variant(name, layouts[name], "mesh" if name == "mesh" else "base", np.full((1, SAMPLES), loss))
            for name, loss in losses.items()
        ]
    )
    assert rows[2].difference == pytest.approx(0.05) and rows[2].document_error == pytest.approx(0)
    assert [(row.difference_error, row.gap_closed) for row in rows] == [(None, None)] * 3
    table = markdown_table(rows)
    assert "±" not in table and "One seed" in table and "%" not in table.splitlines()[4]


def test_from_a_single_document_no_share_of_a_gap_is_told() -> None:
    runs = [
        variant("vanilla", "4", "base", 3.0),
        variant("base", "1+1R2+1", "base", 3.1),
        variant("mesh", "1+1R2+1", "mesh", 3.0),
    ]
    for run in runs:
        run.documents[:] = 0
    rows = compare_variants(runs)
    assert rows[1].difference_error is rows[1].document_error is None and rows[2].gap_closed is None
    assert "is a single document; raise data.validation_fraction" in markdown_table(rows)


def test_each_variant_is_held_against_the_vanilla_model_of_its_compute_depth() -> None:
    rows = compare_variants(
        [
            variant("8", "8", "base", 3.0),
            variant("12", "12", "base", 2.9),
            variant("base", "2+4R2+2", "base", 3.1),
            variant("mesh", "2+4R2+2", "mesh", 2.95),
            variant("deep", "2+4R3+2", "mesh", 2.8),
        ]
    )
    assert rows[0].difference is None and rows[1].difference is None
    assert rows[3].difference == pytest.approx(0.05)
    assert rows[3].gap_closed == pytest.approx(0.75)
    assert (rows[4].difference, rows[4].percent_of_vanilla) == (None, None)


def test_the_spread_over_seeds_adds_to_the_error() -> None:
    offsets = np.array([[-0.3], [0.0], [0.3]])
    a = variant("a", "4", "base", 3 + offsets + np.zeros((3, SAMPLES)))
    b = variant("b", "4", "base", np.full((3, SAMPLES), 3.0))
    difference = compare_losses(a, b)
    assert difference.value == pytest.approx(0) and difference.document_error == pytest.approx(0)
    assert difference.error == pytest.approx(offsets.std(ddof=1) / math.sqrt(3))


def test_without_a_vanilla_model_differences_stay_blank() -> None:
    rows = compare_variants([variant("mesh", "1+1R2+1", "mesh", 3.0)])
    assert (rows[0].difference, rows[0].percent_of_vanilla, rows[0].gap_closed) == (None, None, None)


def test_the_table_shows_the_digits_that_seeds_leave_meaning_and_the_better_direction() -> None:
    spread = np.array([[-0.011], [0.011]]) + np.zeros((2, SAMPLES))
    rows = compare_variants(
        [variant("vanilla", "4", "base", 3.0), variant("mesh", "1+1R2+1", "mesh", 2.987 + spread)]
    )
    heads, _, vanilla, mesh = markdown_table(rows).splitlines()[:4]
    for head in ("val. loss ↓", "perplexity ↓", "Δ vanilla ↓", "gap closed ↑", "tokens/s ↑", "peak memory ↓"):
        assert f"| {head} |" in heads
    assert "| 3.0000 | 20.09 | – |" in vanilla
    assert "| 2.987 ± 0.016 | 19.83 ± 0.31 | −0.013 ± 0.011 |" in mesh


def test_the_markdown_table_has_a_cell_for_every_column() -> None:
    text = markdown_table(compare_variants([variant("vanilla", "4", "base", 3.0)]))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert "20.09" in lines[2]  # exp(3)
