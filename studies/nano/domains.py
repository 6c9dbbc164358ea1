"""A comparison's losses by domain of the nano corpus: `domains.py COMPARISON CORPUS` prints a table.

A validation sample counts for the domain in which it begins. Knows where validation documents lie in their files from
the corpus's manifest; nothing of how models were trained.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from loopway.data.loading import RunData, open_data
from loopway.training.run_config import RunConfig


def domain_of_samples(data: RunData, manifest: dict) -> list[str]:
    """The domain in which each validation sample begins.

    Args:
        data: of a run on a folder that `loopway prepare` made of the corpus.
        manifest: the corpus's own.
    """
    counts = {
        domain: manifest["domains"][domain]["validation"]["documents"]
        for domain in sorted(manifest["domains"])
    }
    found = sum(file.num_documents for half in data.validation for file in half.files)
    if found != sum(counts.values()):
        raise SystemExit(
            f"{found} validation documents, but the corpus has {sum(counts.values())}: another corpus?"
        )
    samples = data.validation_samples()
    assert samples is not None
    domains, ends = list(counts), np.cumsum(list(counts.values()))
    return [domains[number] for number in np.searchsorted(ends, samples.document_of_samples(), side="right")]


def losses_by_domain(run: Path, domains: list[str]) -> dict[str, float]:
    """Nats per token of a finished run's final model, by domain, in the order in which domains begin."""
    losses = json.loads((run / "validation_losses.json").read_text(encoding="utf-8"))
    sums, targets, names = np.array(losses["sums"]), np.array(losses["targets"]), np.array(domains)
    return {
        domain: float(sums[names == domain].sum() / targets[names == domain].sum())
        for domain in dict.fromkeys(domains)
    }


def table(comparison: Path, corpus: Path) -> str:
    """A line a variant, its mean over seeds, in Markdown."""
    claimed = json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))["runs"]
    runs = [run for name in claimed if ((run := comparison / "runs" / name) / "summary.json").exists()]
    if not runs:
        raise SystemExit(f"{comparison}: no finished runs in its runs/")
    data = open_data(RunConfig.load(runs[0] / "config.yaml").data, comparison / "data")
    domains = domain_of_samples(data, json.loads((corpus / "manifest.json").read_text(encoding="utf-8")))
    variants: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        variants.setdefault(run.name.rpartition("-seed")[0], []).append(losses_by_domain(run, domains))
    names = list(dict.fromkeys(domains))
    lines = [["variant", "seeds", *names], [":--", *["--:"] * (len(names) + 1)]]
    for variant, seeds in variants.items():
        means = (np.mean([seed[name] for seed in seeds]) for name in names)
        lines.append([variant, str(len(seeds)), *(f"{mean:.4f}" for mean in means)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Losses of a comparison by domain of the nano corpus.")
    parser.add_argument("comparison", type=Path, help="folder of loopway compare")
    parser.add_argument("corpus", type=Path, help="folder of corpus.py")
    given = parser.parse_args()
    print(table(given.comparison, given.corpus))


if __name__ == "__main__":
    main()
