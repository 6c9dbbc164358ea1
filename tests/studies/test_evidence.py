"""The evidence page is what the result files say, and says no more than they carry."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import train_here
from scipy import stats

from loopway.comparison import planned
from loopway.comparison.config import CompareConfig
from loopway.comparison.run import compare
from loopway.errors import ConfigError, DataError
from loopway.training.summary import RunSummary
from studies.nano import collect, evidence, losses, tables

RESULTS = Path(__file__).parents[2] / "studies" / "nano" / "results"


def test_the_page_is_made_of_the_results() -> None:
    assert (evidence.DOCS / "evidence.md").read_text() == evidence.page(losses.load(RESULTS)), (
        "made anew by: python -m studies.nano.evidence"
    )


def exchanged(study: losses.Study, part: str, one: str, other: str) -> losses.Study:
    """A study as if two variants had each other's numbers."""
    result = copy.deepcopy(study.result)
    result[part][one], result[part][other] = result[part][other], result[part][one]
    return losses.Study(result, study.noise)


@pytest.mark.parametrize(
    "study, part, one, other, words",
    [
        ("schemes", "variants", "mesh", "base", "below all without it"),
        ("schemes", "variants", "residual", "vanilla", "no other base"),
        ("schemes", "probes", "mesh", "base", "change their input more.*least alike"),
        ("longer", "variants", "mesh", "vanilla", "between vanilla and base"),
        ("routers", "variants", "mesh-gated", "mesh-slow", "lowest mean"),
        ("schemes", "variants", "mesh", "vanilla", "nothing is clearly below MeSH"),
        ("longer", "variants", "anchor", "base", "paper's leads over anchor"),
        ("loops", "variants", "base-6", "mesh-6", "below base with every number"),
        ("loops", "variants", "base-6", "base-5", "no other base"),
        ("loops", "variants", "base-6", "mesh-1", "isn't clearly apart from without"),
        ("readings", "variants", "mesh-wide", "mesh-unscaled", "seed of wide routers"),
        ("readings", "variants", "base-unscaled", "mesh-prelude", "embeddings' scale does the most"),
        ("routers", "variants", "mesh-fast", "mesh-slow", "seed of fast routers.*three times as far apart"),
    ],
)
def test_a_sentence_that_the_results_do_not_carry_stops_the_page(
    study: str, part: str, one: str, other: str, words: str
) -> None:
    studies = losses.load(RESULTS)
    turned = exchanged(studies[study], part, one, other)
    with pytest.raises(losses.UnsupportedClaim, match=words):
        evidence.page(studies | {study: turned})


def test_a_tie_that_is_none_stops_the_page() -> None:
    studies = losses.load(RESULTS)
    for seed in studies["precision"].variants["mesh"]["seeds"].values():
        seed["loss"] += 0.05
    with pytest.raises(losses.UnsupportedClaim, match="mesh-bf16 and mesh are clearly apart"):
        evidence.page(studies)


def test_the_command_writes_page_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    docs, page = evidence.DOCS, (evidence.DOCS / "evidence.md").read_text()
    monkeypatch.setattr(evidence, "DOCS", tmp_path)
    evidence.main()
    assert (tmp_path / "evidence.md").read_text() == page
    for path in (tmp_path / "images").iterdir():
        assert path.stat().st_size > 10_000
        assert (docs / "images" / path.name).exists() and f"images/{path.name}" in page
    assert "python -m studies.nano.evidence" in page


def test_the_readme_says_the_same() -> None:
    studies = losses.load(RESULTS)
    schemes, unscaled = studies["schemes"], studies["readings"].above("mesh-unscaled", "base-unscaled")
    readme = (evidence.ROOT / "README.md").read_text()
    for difference in (schemes.below("mesh", "base"), unscaled, schemes.tied("mesh", "anchor")):
        assert str(difference) in readme


def by_hand(losses_by_seed: dict[str, list[float]], documents: dict[str, list[float]]) -> dict[str, Any]:
    variants = {
        name: {
            "tokens": 100,
            "seeds": {
                str(seed): {"loss": loss, "documents": documents[name]} for seed, loss in enumerate(given)
            },
        }
        for name, given in losses_by_seed.items()
    }
    return {"study": "by hand", "targets": [10, 20, 0, 30], "variants": variants}


def test_intervals_cover_seeds_and_documents() -> None:
    found = losses.Study(
        by_hand({"a": [1.0, 1.2], "b": [2.0, 2.4]}, {"a": [11, 22, 0, 33], "b": [22, 46, 0, 64]})
    )
    # Variants 1.1 and 2.2, seeds 1.5 and 1.8: residuals of 0.05 with one degree of freedom.
    assert found.noise.degrees == 1 and found.noise.deviation == pytest.approx(math.sqrt(4 * 0.05**2))
    rest = np.array([-11, -24, -31]) + 1.1 * np.array([10, 20, 30])
    documents = 3 / 2 * (rest**2).sum() / 60**2
    half = stats.t.ppf(0.975, 1) * math.sqrt(2 * 0.1**2 / 2 + documents)
    difference = found.difference("a", "b")
    assert (difference.value, difference.half) == (pytest.approx(-1.1), pytest.approx(half))
    assert str(losses.Difference(-0.00001, 0.02)) == "+0.000 ± 0.020"
    assert found.tied("a", "b").half == difference.half
    assert found.by_seed("a", "b") == pytest.approx([-1.0, -1.2])
    assert tables.by_seed(found, "a", "b") == "−1.000 and −1.200"
    with pytest.raises(losses.UnsupportedClaim, match="isn't clearly below"):
        found.below("a", "b")

    sure = losses.Study(found.result, losses.Noise(0.01, 100))
    assert sure.below("a", "b").is_clear
    with pytest.raises(losses.UnsupportedClaim, match="clearly apart"):
        sure.tied("b", "a")
    with pytest.raises(losses.UnsupportedClaim, match="isn't clearly below"):
        sure.below("b", "a")
    found.variants["b"]["seeds"]["1"]["documents"] = [0, 0, 0, 0]
    del found.variants["a"]["seeds"]["1"]  # one seed that both have, the first
    fewer = losses.Study(found.result, losses.Noise(0.02, 7))
    half = stats.t.ppf(0.975, 7) * math.sqrt(2 * 0.02**2 + documents)
    assert fewer.difference("a", "b").value == pytest.approx(-1.0)
    assert fewer.difference("a", "b").half == pytest.approx(half)
    found.result["variants"]["a"]["seeds"] = {"2": found.variants["a"]["seeds"]["0"]}
    with pytest.raises(losses.UnsupportedClaim, match="no seed in common"):
        losses.Study(found.result, losses.Noise(0.02, 7)).difference("a", "b")
    with pytest.raises(losses.UnsupportedClaim, match="without a second seed"):
        losses.Study(found.result).noise  # noqa: B018


def test_runs_that_started_otherwise_stand_for_a_variant_until_there_are_as_many_new_ones() -> None:
    result = by_hand({"a": [1.0, 1.2], "b": [2.0, 2.4]}, {"a": [1, 2, 0, 3], "b": [2, 4, 0, 6]})
    new = result["variants"]["b"]["seeds"]
    result["variants"]["b"] |= {"recurrence": "mesh", "seeds": {}, "unpaired": new}
    result["variants"]["a"] |= {"recurrence": "base"}
    old = losses.Study(result)
    assert old.unpaired == ["b"] and old.losses("b") == pytest.approx([2.0, 2.4])
    assert evidence.renewed({"s": old}) == []
    result["variants"]["b"]["seeds"] = {"1": new["1"] | {"loss": 2.5}}
    assert losses.Study(result).losses("b") == pytest.approx([2.0, 2.4]), (
        "one new run isn't mixed with two old ones"
    )
    result["variants"]["b"]["seeds"] |= {"2": new["1"] | {"loss": 2.7}}
    fresh = losses.Study(result)
    assert fresh.unpaired == [] and fresh.losses("b") == pytest.approx([2.5, 2.7])
    assert fresh.paired("a", "b") == ["1"] and evidence.renewed({"s": fresh}) == ["`b` of `by hand.yaml`"]


def test_another_studys_variants_stand_beside_those_of_the_same_name() -> None:
    one = losses.Study(by_hand({"a": [1.0, 1.2], "b": [2.0, 2.4]}, {"a": [1, 2, 0, 3], "b": [2, 4, 0, 6]}))
    other = losses.Study(by_hand({"a": [1.1, 1.5], "c": [5.0, 5.0]}, {"a": [1, 2, 0, 4], "c": [1, 1, 0, 1]}))
    both = losses.beside(one, other, "bf16")
    assert list(both.variants) == ["a", "b", "a-bf16"] and list(one.variants) == ["a", "b"]
    assert both.noise == one.noise and both.difference("a-bf16", "a").value == pytest.approx(0.2)
    other.result["targets"] = [10, 20, 0, 31]
    with pytest.raises(losses.UnsupportedClaim, match="different text"):
        losses.beside(one, other, "bf16")


def test_the_noise_doesn_t_depend_on_what_seeds_and_variants_share() -> None:
    table = np.random.default_rng(0).normal(size=(4, 3))
    shifted = table + np.arange(4)[:, None] + 5 * np.arange(3)

    def noise(values: np.ndarray) -> losses.Noise:
        names = {str(number): list(row) for number, row in enumerate(values)}
        return losses.Study(by_hand(names, {name: [] for name in names})).noise

    assert noise(table).deviation == pytest.approx(noise(shifted).deviation)
    assert noise(table).degrees == 6
    # A variant of one seed says nothing of the noise, and one that lacks a seed says less.
    given = {str(number): list(row) for number, row in enumerate(table)}
    alone = losses.Study(by_hand(given | {"alone": [9.0]}, {name: [] for name in (*given, "alone")}))
    assert alone.noise.deviation == pytest.approx(noise(table).deviation) and alone.noise.degrees == 6
    given["3"].pop()
    assert losses.Study(by_hand(given, {name: [] for name in given})).noise.degrees == 5
    another_order = by_hand(
        {str(number): list(row) for number, row in enumerate(table)}, {str(n): [] for n in range(4)}
    )
    another_order["variants"]["2"]["seeds"] = dict(reversed(another_order["variants"]["2"]["seeds"].items()))
    assert losses.Study(another_order).noise.deviation == pytest.approx(noise(table).deviation)


def test_curves_are_compared_seed_by_seed_at_the_same_tokens() -> None:
    result = by_hand({"a": [1.0, 3.0], "b": [2.0, 2.0, 0.5]}, {"a": [], "b": []})
    for variant in result["variants"].values():
        for seed in variant["seeds"].values():
            seed["curve"] = [[10, 5.0], [20, seed["loss"]]]
    study = losses.Study(result)
    tokens, apart = study.curve_apart("a", "b")
    assert tokens.tolist() == [10, 20] and apart.tolist() == [[0, -1], [0, 1]]
    assert not study.always_below("a", "b") and not study.always_below("a", "b", tokens=12)
    del result["variants"]["a"]["seeds"]["1"]
    assert study.always_below("a", "b")
    result["variants"]["b"]["seeds"]["1"]["curve"] = [[20, 2.0]]
    assert study.always_below("a", "b")  # a seed that a hasn't
    with pytest.raises(losses.UnsupportedClaim, match="same tokens"):
        study.at("b", 20)
    result["variants"]["b"]["seeds"]["0"]["curve"] = [[20, 2.0]]
    with pytest.raises(losses.UnsupportedClaim, match="same tokens"):
        study.curve_apart("a", "b")


def test_studies_of_equal_length_have_the_noise_of_all_their_runs_each_counted_once(tmp_path: Path) -> None:
    given = {
        "one": {"a": [1.0, 1.2, 1.1], "b": [2.0, 2.4, 2.1]},
        "two": {"a": [1.0, 1.2, 1.1], "c": [3.0, 3.3, 3.5], "alone": [9.0], "mesh-wide": [5.0, 9.0, 1.0]},
        "long": {"a": [1.0, 1.2], "b": [2.0, 3.0]},
    }
    for name, seeds in given.items():
        result = by_hand(seeds, {key: [] for key in seeds})
        for variant in result["variants"].values():
            variant["tokens"] *= 1 + (name == "long")
        (tmp_path / f"{name}.json").write_text(json.dumps(result | {"study": name}))
    found = {name: study.noise for name, study in losses.load(tmp_path).items()}
    once = {"a": given["one"]["a"], "b": given["one"]["b"], "c": given["two"]["c"]}
    expected = losses.Study(by_hand(once, {key: [] for key in once})).noise
    assert found["one"] == found["two"] and found["one"].degrees == expected.degrees == 4
    assert found["one"].deviation == pytest.approx(expected.deviation)
    assert found["long"] == losses.Study(by_hand(given["long"], {key: [] for key in given["long"]})).noise


def test_erratic_variants_are_compared_by_their_own_seeds_alone() -> None:
    seeds = {"mesh": [1.0, 1.1, 1.2], "mesh-wide": [1.1, 1.9, 1.2], "other": [2.0, 2.1, 2.3]}
    study = losses.Study(by_hand(seeds, {key: [10, 20, 0, 30] for key in seeds}), losses.Noise(0.001, 9))
    paired = stats.ttest_rel(seeds["mesh-wide"], seeds["mesh"]).confidence_interval()
    found = study.difference("mesh-wide", "mesh")
    assert (found.value - found.half, found.value + found.half) == pytest.approx((paired.low, paired.high))
    assert study.difference("mesh", "mesh-wide").half == pytest.approx(found.half)
    assert study.difference("other", "mesh").half < 0.01
    for seed in ("1", "2"):
        del study.variants["mesh-wide"]["seeds"][seed]
    with pytest.raises(losses.UnsupportedClaim, match="need a second seed"):
        study.difference("mesh-wide", "mesh")


def test_a_trained_comparison_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    domains = {"bible": 2, "novel": 3}
    (tmp_path / "validation").mkdir()
    for number, (domain, count) in enumerate(domains.items()):
        documents = [f"{domain} {number} " * 40 * (document + 1) for document in range(count)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        (tmp_path / "validation" / f"{domain}.jsonl").write_text(lines)
    Path("train.txt").write_text("once more the whale and the ship " * 200)
    config = {
        "model": {"preset": "pythia-14m", "hidden_size": 16, "num_attention_heads": 2, "layout": "1+1R2+1"},
        "data": {
            "train": ["train.txt"],
            "validation": ["validation"],
            "sequence_length": 16,
            "vocab_size": 300,
        },
        "training": {
            "global_batch_size": 2,
            "per_device_train_batch_size": 2,
            "max_steps": 4,
            "eval_steps": 2,
        },
        "variants": {
            "base": {"recurrence": "base"},
            "mesh": {"recurrence": "mesh"},
            "later": {"layout": "4"},
        },
        "seeds": [0],
        "probe_samples": 4,
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(config))
    trained = config | {"variants": {name: config["variants"][name] for name in ("base", "mesh")}}
    (tmp_path / "trained.yaml").write_text(json.dumps(trained))
    monkeypatch.setattr(planned, "_run_in_process", train_here)
    compare("trained.yaml", ["training.logging_steps=1"], "runs/tiny")

    manifest = {"domains": {name: {"validation": {"documents": count}} for name, count in domains.items()}}

    def collected(folder: str, known: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        plan = CompareConfig.from_dict(config | changes)
        return json.loads(json.dumps(collect.collect(plan, "tiny", Path(folder), manifest, known)))

    result = collected("runs/tiny")
    assert result["domains"] == domains and list(result["variants"]) == ["base", "mesh"]
    for name, variant in result["variants"].items():
        summary = RunSummary.read(Path(f"runs/tiny/runs/{name}-seed0/summary.json"))
        (seed,) = variant["seeds"].values()
        loss = sum(seed["documents"]) / sum(result["targets"])
        assert (
            loss == pytest.approx(summary.validation_loss, abs=1e-4) == pytest.approx(seed["loss"], abs=1e-4)
        )
        assert [tokens for tokens, _ in seed["curve"]] == [64, 128] and seed["curve"][-1][1] == round(
            seed["loss"], 4
        )
        assert seed["set"] == {"logging_steps": 1} and seed["device"] == "cpu"
    found = losses.Study(result, losses.Noise(0.01, 5))
    assert list(found.by_domain("mesh")) == list(domains)
    assert found.seeds("mesh") == 1 and found.difference("mesh", "base").half > 0
    assert [
        len(result["probes"]["mesh"][name]) for name in ("stages", "relative_update", "similarity", "spectra")
    ] == [4, 4, 4, 5]
    assert tables.routes_table(found, "mesh").count("\n") == 4
    assert isinstance(result["probes"]["mesh"]["without_last_loop"], float)

    # Another seed's runs, elsewhere, after the first ones are gone: the result grows, and what is known stays.
    compare("trained.yaml", ["training.logging_steps=1", "seeds=[1]"], "runs/later")
    known = copy.deepcopy(result)
    grown = collected("runs/later", known, seeds=[1])
    assert known == result
    for name, variant in grown["variants"].items():
        seeds = variant["seeds"]
        assert (
            list(seeds) == ["0", "1"] and seeds["0"] == result["variants"][name]["seeds"]["0"] != seeds["1"]
        )
    assert grown["probes"] == result["probes"] != collected("runs/later", seeds=[1])["probes"]
    assert collected("runs/tiny", grown) == grown
    for change in (
        {"study": "schemes"},
        {"variants": result["variants"] | {"gone": {}}},
        {"domains": {"novel": 5}},
    ):
        with pytest.raises(ConfigError, match="give another --out"):
            collected("runs/later", result | change)
    with pytest.raises(DataError, match="another corpus"):
        collected("runs/later", result | {"targets": [1] * len(result["targets"])}, seeds=[1])
    result["variants"]["base"]["tokens"] += 1
    with pytest.raises(ConfigError, match="another model or length"):
        collected("runs/later", result, seeds=[1])
    with pytest.raises(DataError, match="no finished runs"):
        collected("runs/later", seeds=[2])

    manifest["domains"]["novel"]["validation"]["documents"] += 1
    with pytest.raises(DataError, match="another corpus"):
        collected("runs/tiny")
    monkeypatch.setattr("sys.argv", ["collect", "tinny.yaml", "runs/tiny", "--out", "result.json"])
    with pytest.raises(SystemExit, match="2"):
        collect.main()
    assert "tinny.yaml" in capsys.readouterr().err and not Path("result.json").exists()
    for content, words in (("", "not JSON"), ("[1]", "needs domains, study, targets, variants")):
        Path("result.json").write_text(content)
        with pytest.raises(SystemExit, match="2"):
            collect.main()
        assert words in capsys.readouterr().err and Path("result.json").read_text() == content
    Path("manifest.json").touch()
    arguments = ["collect", "tiny.yaml", "runs/tiny", "--out", "other.json", "--manifest", "manifest.json"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        collect.main()
    assert "manifest.json: not JSON" in capsys.readouterr().err and not Path("other.json").exists()
