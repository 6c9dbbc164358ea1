"""What the pages need of a trained comparison, as one small file: `collect STUDY.yaml COMPARISON --out RESULT.json`.

Reads finished runs and, where they are, the probes' numbers; prints losses by domain. Knows nothing of what is said about
them.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from loopway.comparison.config import CompareConfig, run_name
from loopway.data.run_data import RunData, open_data
from loopway.errors import ConfigError, DataError, exit_on_error
from loopway.files import write_atomically
from loopway.training.config.run_config import RunConfig
from loopway.training.metrics_log import read_metrics
from loopway.training.run_folder import RunFolder
from loopway.training.summary import RunSummary
from studies.nano import tables
from studies.nano.losses import PRODUCTS, Study, draws

MANIFEST = Path(__file__).with_name("corpus-manifest.json")
_LAST_TENTH = 0.1  # of a run, over which the training loss is averaged
_PROBES = ("relative_update", "effective_rank")


def collect(
    plan: CompareConfig,
    name: str,
    comparison: Path,
    manifest: dict[str, Any],
    known: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Losses by seed, tokens and document, of the runs that are finished, beside those that are known already.

    Args:
        plan: what was compared.
        name: of the study.
        comparison: the folder that it was trained in.
        manifest: of the corpus.
        known: the study's result so far, which stays; its runs may be gone.

    Raises:
        ConfigError: what is known is of another study, or of other models.
        DataError: no run is finished; another corpus.
    """
    domains = {
        domain: manifest["domains"][domain]["validation"]["documents"]
        for domain in sorted(manifest["domains"])
    }
    result = {"study": name, "domains": domains} | copy.deepcopy(known or {})
    variants, probes = result.pop("variants", {}), result.pop("probes", {})
    gone = sorted(set(variants) - set(plan.runs))
    if result["study"] != name or result["domains"] != domains or gone:
        raise ConfigError(
            f"the result so far is of another study, or of another corpus, than {name} {gone}; give another --out"
        )
    finished = {
        (variant, seed): run
        for variant, by_seed in plan.runs.items()
        for seed in by_seed
        if (run := folder_of(comparison, variant, seed)).is_finished
    }
    if not finished:
        raise DataError(f"{comparison}: no finished runs of {name} in its runs/")
    data = open_data(plan.data, comparison / "data")
    for (variant, seed), run in finished.items():
        sums, targets = by_document(run, data)
        if len(targets) != sum(domains.values()) or targets != result.setdefault("targets", targets):
            raise DataError(f"{run.path}: its validation documents aren't the corpus's: another corpus?")
        model = of_model(run)
        of_variant = variants.setdefault(variant, model | {"seeds": {}})
        if of_variant | model != of_variant:
            raise ConfigError(f"{run.path}: another model or length than what is known of {variant}: {model}")
        known_seeds = of_variant.setdefault("seeds" if starts_alike(run) else "unpaired", {})
        if str(seed) not in known_seeds:
            documents = {"documents": [round(loss, 2) for loss in sums]}
            known_seeds[str(seed)] = of_run(run, plan.runs[variant][seed]) | documents
    result["variants"] = {variant: variants[variant] for variant in plan.runs if variant in variants}
    if (path := comparison / "probes" / "probes.json").exists():
        probes = of_probes(json.loads(path.read_text(encoding="utf-8"))) | probes
    return result | ({"probes": probes} if probes else {})


def folder_of(comparison: Path, name: str, seed: int) -> RunFolder:
    return RunFolder(comparison / "runs" / run_name(name, seed))


def of_model(run: RunFolder) -> dict[str, Any]:
    """What is the same with every seed."""
    summary = RunSummary.read(run.summary)
    names = ("layout", "recurrence", "non_embedding_parameters", "tokens")
    return {name: getattr(summary, name) for name in names}


def starts_alike(run: RunFolder) -> bool:
    """Whether the layers began with the values of every other variant of this layout and seed."""
    first = json.loads(run.provenance.read_text(encoding="utf-8"))["sittings"][0]["loopway"]
    return first.get("numerics", 1) >= 2 or not draws(RunSummary.read(run.summary).recurrence)


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
    """One seed's losses in nats per token, by training tokens; where it ran, and what else was set there, or with what
    products.
    """
    lines, summary = read_metrics(run.metrics), RunSummary.read(run.summary)
    logged = [
        line["loss"] for line in lines if "loss" in line and line["step"] > summary.steps * (1 - _LAST_TENTH)
    ]
    assert summary.validation_loss is not None
    there, wanted = RunConfig.load(run.config).training.to_dict(), planned.training.to_dict()
    return {
        "loss": round(summary.validation_loss, 5),
        "training_loss": round(float(np.mean(logged)), 5),
        "curve": [
            [line["tokens"], round(line["validation_loss"], 4)] for line in lines if "validation_loss" in line
        ],
        "device": summary.device,
        "seconds": summary.wall_seconds,
        "torch": summary.versions["torch"],
        "set": {
            key: value
            for key, value in there.items()
            if value != wanted.get(key) or (value and key in PRODUCTS)
        },
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


def read(path: Path, keys: set[str]) -> dict[str, Any]:
    """Raises ConfigError where the file isn't JSON with those keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); give another, or take it away") from None
    if not isinstance(content, dict) or not keys <= content.keys():
        raise ConfigError(f"{path}: needs {', '.join(sorted(keys))}; give another, or take it away")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description="What the pages need of a comparison, as one small file.")
    parser.add_argument("study", type=Path, help="the comparison's YAML file")
    parser.add_argument("comparison", type=Path, help="the folder of loopway compare")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the runs, where not the study's own")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="of the corpus")
    parser.add_argument(
        "--out", type=Path, required=True, help="the result; one that is there stays, and grows"
    )
    given = parser.parse_args()
    with exit_on_error():
        manifest = read(given.manifest, {"domains"})
        known = read(given.out, {"study", "domains", "targets", "variants"}) if given.out.exists() else None
        plan = CompareConfig.load(given.study, [f"seeds={given.seeds}"] if given.seeds else ())
        result = collect(plan, given.study.stem, given.comparison, manifest, known)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(given.out, json.dumps(result, separators=(",", ":")) + "\n")
    print(tables.domains_table(Study(result), list(result["variants"])))


if __name__ == "__main__":
    main()
