"""What the pages need of a trained comparison, as one small file: `collect STUDY.yaml COMPARISON --out RESULT.json`.

Reads finished runs and, where they are, the probes' numbers; prints losses by domain. Knows nothing of what is said about
them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from loopway.comparison.config import CompareConfig, run_name
from loopway.data.loading import RunData, open_data
from loopway.errors import exit_on_error
from loopway.files import write_atomically
from loopway.training.metrics_log import read_metrics
from loopway.training.run_config import RunConfig
from loopway.training.run_folder import RunFolder
from loopway.training.summary import RunSummary
from studies.nano import tables
from studies.nano.losses import Study

MANIFEST = Path(__file__).with_name("corpus-manifest.json")
_LAST_TENTH = 0.1  # of a run, over which the training loss is averaged
_PROBES = ("relative_update", "effective_rank")


def collect(
    study: Path, comparison: Path, manifest: dict[str, Any], known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Losses by seed, tokens and document, of the runs that are finished, and of those that were collected before.

    Args:
        study: the comparison's YAML file.
        comparison: the folder that it was trained in.
        manifest: of the corpus.
        known: the study's result so far, whose runs may be gone; a run that is in both is told anew.
    """
    plan = CompareConfig.load(study)
    finished = {
        (name, seed): run
        for name, by_seed in plan.runs.items()
        for seed in by_seed
        if (run := folder_of(comparison, name, seed)).is_finished
    }
    if not finished:
        raise SystemExit(f"{comparison}: no finished runs of {study} in its runs/")
    data = open_data(plan.data, comparison / "data")
    targets = by_document(next(iter(finished.values())), data)[1]
    domains = {
        domain: manifest["domains"][domain]["validation"]["documents"]
        for domain in sorted(manifest["domains"])
    }
    if len(targets) != sum(domains.values()):
        raise SystemExit(
            f"{comparison}: {len(targets)} validation documents, but the corpus has {sum(domains.values())}: "
            "another corpus?"
        )
    if known is not None and (known["study"], known["targets"]) != (study.stem, targets):
        raise SystemExit(
            f"{comparison}: the result so far is another study's or another corpus's; give another --out"
        )
    variants = known["variants"] if known is not None else {}
    for (name, seed), run in finished.items():
        summary = RunSummary.read(run.summary)
        variant = variants.setdefault(
            name,
            {
                "layout": summary.layout,
                "recurrence": summary.recurrence,
                "non_embedding_parameters": summary.non_embedding_parameters,
                "tokens": summary.tokens,
                "seeds": {},
            },
        )
        variant["seeds"][str(seed)] = of_run(run, plan.runs[name][seed]) | {
            "documents": [round(loss, 2) for loss in by_document(run, data)[0]]
        }
    for variant in variants.values():
        variant["seeds"] = dict(sorted(variant["seeds"].items()))
    result: dict[str, Any] = {
        "study": study.stem,
        "domains": domains,
        "targets": targets,
        "variants": {name: variants[name] for name in plan.runs if name in variants},
    }
    if (probes := comparison / "probes" / "probes.json").exists():
        result["probes"] = of_probes(json.loads(probes.read_text(encoding="utf-8")))
    elif known is not None and "probes" in known:
        result["probes"] = known["probes"]
    return result


def folder_of(comparison: Path, name: str, seed: int) -> RunFolder:
    return RunFolder(comparison / "runs" / run_name(name, seed))


def by_document(run: RunFolder, data: RunData) -> tuple[list[float], list[int]]:
    """Summed loss in nats and number of targets of each validation document, by the samples that begin in it."""
    samples = data.validation_samples()
    assert samples is not None
    losses = json.loads(run.validation_losses.read_text(encoding="utf-8"))
    documents = samples.document_of_samples()
    count = sum(file.num_documents for half in data.validation for file in half.files)
    sums, targets = (
        np.bincount(documents, weights=losses[name], minlength=count) for name in ("sums", "targets")
    )
    return sums.tolist(), targets.astype(int).tolist()


def of_run(run: RunFolder, planned: RunConfig) -> dict[str, Any]:
    """One seed's losses in nats per token, by training tokens; where it ran, and what else was set there."""
    lines, summary = read_metrics(run.metrics), RunSummary.read(run.summary)
    logged = [
        line["loss"] for line in lines if "loss" in line and line["step"] > summary.steps * (1 - _LAST_TENTH)
    ]
    assert summary.validation_loss is not None
    there = RunConfig.load(run.config).training
    return {
        "loss": round(summary.validation_loss, 5),
        "training_loss": round(float(np.mean(logged)), 5),
        "curve": [
            [line["tokens"], round(line["validation_loss"], 4)] for line in lines if "validation_loss" in line
        ],
        "device": summary.device,
        "torch": summary.versions["torch"],
        "set": {key: value for key, value in there.items() if value != planned.training.get(key)},
    }


def of_probes(probes: dict[str, Any]) -> dict[str, Any]:
    """Means over samples, by variant: each block's relative update, similarity of consecutive states, spectra, routes; and
    what the last loop is worth.
    """
    found = {}
    for model in probes["models"]:
        states = model["states"]
        similarity = states["cka"]["mean"]
        found[Path(model["name"]).name.rpartition("-seed")[0]] = {
            "stages": states["stages"],
            "states": states["states"],
            **{name: [round(value, 3) for value in states[name]["mean"]] for name in _PROBES},
            "similarity": [round(row[number + 1], 3) for number, row in enumerate(similarity[:-1])],
            "spectra": [[round(value, 4) for value in spectrum] for spectrum in states["spectrum"]["mean"]],
            "without_last_loop": without_last_loop(model),
            "mixing": routes(model),
        }
    return found


def without_last_loop(model: dict[str, Any]) -> float | None:
    """By how much the loss rises when the looped segment runs once less; None without a loop."""
    for segment in model.get("loops") or []:
        for run in segment["by_loops"]:
            if run["loops"] == segment["trained_loops"] - 1:
                return round(run["difference"], 3)
    return None


def routes(model: dict[str, Any]) -> dict[str, Any] | None:
    """How much of each state MeSH's routers bring to each boundary, mean over tokens."""
    if not (routers := model.get("routers")):
        return None
    rows = [
        [None if weight is None else round(weight, 3) for weight in row] for row in routers["mixing"]["mean"]
    ]
    return {"boundaries": routers["boundaries"], "sources": routers["sources"], "weights": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the pages need of a comparison, as one small file.")
    parser.add_argument("study", type=Path, help="the comparison's YAML file")
    parser.add_argument("comparison", type=Path, help="the folder of loopway compare")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="the result; one that is there grows")
    given = parser.parse_args()
    with exit_on_error():
        manifest = json.loads(given.manifest.read_text(encoding="utf-8"))
        known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else None
        result = collect(given.study, given.comparison, manifest, known)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out, json.dumps(result, separators=(",", ":")) + "\n")
    print(tables.domains_table(Study(result), list(result["variants"])))


if __name__ == "__main__":
    main()
