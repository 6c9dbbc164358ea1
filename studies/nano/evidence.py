"""docs/evidence.md and its figures from the result files: `python studies/nano/evidence.py`.

The page's text is evidence.md.jinja. A sentence that says which of two is better asks for the difference by a name that
fails where the interval doesn't carry it. Knows nothing of how models were trained.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # as a script, too, it finds the other parts of `studies`

from studies.nano import tables  # noqa: E402
from studies.nano.losses import Study, load  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

NANO, DOCS = ROOT / "studies" / "nano", ROOT / "docs"


def draw_curves(studies: dict[str, Study], path: Path) -> None:
    """Loss minus the base model's at the same tokens and seed: mean and range over seeds."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, study in zip(axes, (studies["schemes"], studies["longer"]), strict=True):
        _, base = study.curve("base")
        for number, name in enumerate(studies["schemes"].variants):
            if name not in study.variants or name == "base":
                continue
            tokens, losses = study.curve(name)
            apart, colour = losses - base, f"C{number}"
            axis.plot(tokens / 1e6, apart.mean(0), color=colour, label=name)
            axis.fill_between(tokens / 1e6, apart.min(0), apart.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel("training tokens (millions)")
        axis.set_title(f"{study.seeds('base')} seeds, mean and range", fontsize=9)
    axes[0].set_ylabel("validation loss minus base (nats)")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_spectra(study: Study, path: Path) -> None:
    """Singular values of h(2), the state that the coda is given, over the largest."""
    figure, axis = pyplot.subplots(figsize=(5, 3.4), layout="constrained")
    for number, (name, probe) in enumerate(study.result["probes"].items()):
        axis.semilogy(np.arange(1, 51), probe["spectra"][3], color=f"C{number}", label=name)
    axis.set_xlabel("singular value")
    axis.set_ylabel("over the largest")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def page(studies: dict[str, Study]) -> str:
    """The text, with every number from the results."""
    loader = FileSystemLoader(NANO)
    environment = Environment(
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    text = environment.get_template("evidence.md.jinja")
    return text.render(studies=studies, tables=tables, **studies)


def main() -> None:
    studies = load(NANO / "results")
    (DOCS / "evidence.md").write_text(page(studies), encoding="utf-8")
    draw_curves(studies, DOCS / "images" / "evidence-curves.png")
    draw_spectra(studies["schemes"], DOCS / "images" / "evidence-spectra.png")


if __name__ == "__main__":
    main()
