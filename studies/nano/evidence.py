"""docs/evidence.md and its figures from the result files: `python -m studies.nano.evidence`.

The page's text is evidence.md.jinja. A sentence that says which of two is better asks for the difference by a name that
fails where the interval doesn't carry it; what else the text says of the numbers is in `stated`. Knows nothing of how
models were trained.
"""

import itertools
import math
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from loopway import parameter_report
from loopway.comparison.config import CompareConfig
from studies.nano import tables
from studies.nano.losses import Study, UnsupportedClaim, beside, draws, load
from studies.paper import needs

ROOT = Path(__file__).parents[2]
VOCABULARY = 4096
NANO, DOCS = ROOT / "studies" / "nano", ROOT / "docs"


def draw_curves(studies: dict[str, Study], path: Path) -> None:
    """Loss minus the base model's at the same tokens and seed: mean and range over seeds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, study in zip(axes, (studies["schemes"], studies["longer"]), strict=True):
        for number, name in enumerate(studies["schemes"].variants):
            if name not in study.variants or name == "base":
                continue
            tokens, apart = study.curve_apart(name, "base")
            colour = f"C{number}"
            axis.plot(tokens / 1e6, apart.mean(0), color=colour, label=name)
            axis.fill_between(tokens / 1e6, apart.min(0), apart.max(0), color=colour, alpha=0.15, linewidth=0)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel("training tokens (millions)")
        whole = study.variants["base"]["tokens"] / 1e6
        axis.set_title(
            f"runs of {whole:.1f} million tokens, {study.seeds('base')} seeds: mean and range", fontsize=9
        )
    axes[0].set_ylabel("validation loss minus base (nats)")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def draw_spectra(study: Study, path: Path) -> None:
    """Singular values of h(2), the state that the coda is given, over the largest."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    for number, (name, probe) in enumerate(study.result["probes"].items()):
        axis.semilogy(np.arange(1, 51), probe["spectra"][3], color=f"C{number}", label=name)
    axis.set_xlabel("singular value")
    axis.set_ylabel("over the largest")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def clear_pairs(study: Study) -> list[tuple[str, str]]:
    """Variants whose difference isn't within its interval."""
    pairs = itertools.combinations(study.variants, 2)
    return [pair for pair in pairs if study.difference(*pair).is_clear]


def share_of_compute(study: str) -> float:
    """A run's FLOPs over those of a run of the paper's smallest models, both MeSH's."""
    run = CompareConfig.load(NANO / f"{study}.yaml").runs["mesh"][0]
    here = parameter_report(run.model.build(vocab_size=VOCABULARY), context_length=run.data.sequence_length)
    paper = needs.need(needs.runs("table1-160m")["mesh"], needs.reports("table1-160m")["mesh"])
    return needs.need(run, here).flops / paper.flops


def stated(studies: dict[str, Study]) -> dict[str, bool]:
    """What the page says without a ±, and whether it is so."""
    schemes, longer, routers, loops = (studies[name] for name in ("schemes", "longer", "routers", "loops"))
    without = ("base", "residual", "anchor", "anchor-star")
    probes = schemes.result["probes"]
    updates = {name: probe["relative_update"][1:3] for name, probe in probes.items()}
    similar = {name: probe["similarity"][1:3] for name, probe in probes.items()}
    spectra = {name: np.array(probe["spectra"]) for name, probe in probes.items()}
    shared = {name: min(loops) / max(loops) for name, loops in updates.items()}
    leads = tables.paper_leads("anchor")
    ends = [study.difference("mesh", "anchor") for study in (schemes, longer)]
    lowest = [end.value - end.half for end in ends]
    readings = studies["readings"]
    wide_lead = readings.by_seed("mesh-wide", "base")
    fast_lead = routers.by_seed("mesh-fast", "mesh") + schemes.by_seed("mesh", "base")
    spreads = [
        float(apart.std(ddof=1)) / math.sqrt(2) / schemes.noise.deviation
        for apart in (readings.by_seed("mesh-wide", "mesh"), routers.by_seed("mesh-fast", "mesh"))
    ]
    unscaled = readings.difference("base-unscaled", "base").value
    trained = [longer.training_loss(name) for name in ("anchor", "vanilla", "mesh", "base")]
    return {
        "MeSH is below all without it up to 1.6 million tokens, with every seed": all(
            schemes.always_below("mesh", name, tokens)
            for name in without
            for tokens in schemes.curve("mesh")[0]
            if tokens < 1.7e6
        ),
        "MeSH ends between vanilla and base": longer.loss("vanilla")
        < longer.loss("mesh")
        < longer.loss("base"),
        "MeSH ends behind anchor with every seed": longer.always_below("anchor", "mesh"),
        "validation and training losses have the same order": trained == sorted(trained)
        and longer.loss("anchor") < longer.loss("vanilla"),
        "no difference at four times the tokens is clear": not clear_pairs(longer),
        "nothing is clear of the buffer's length": not clear_pairs(studies["buffer"]),
        "the buffer's intervals are more than ten times the paper's differences": studies["buffer"]
        .difference("slots-3", "slots-5")
        .half
        > 10 * tables.paper_buffer_range(),
        "the paper's leads over anchor at 160M and 1B are outside both intervals, that at 410M inside, 1.4B's in one": (
            all(-leads[size] < min(lowest) for size in ("160M", "1B"))
            and -leads["410M"] > max(lowest)
            and lowest[0] < -leads["1.4B"] < lowest[1]
        ),
        "nothing is clearly below MeSH, with its layout": not any(
            study.difference(name, "mesh").is_clear and study.difference(name, "mesh").value < 0
            for study in studies.values()
            if "mesh" in study.variants
            for name in study.variants
            if name != "mesh"
        ),
        "the embeddings' scale does the most": unscaled
        > 2
        * max(
            abs(study.difference(*pair).value)
            for study in (schemes, routers, studies["buffer"], studies["passing"])
            for pair in itertools.combinations(study.variants, 2)
        ),
        "MeSH is below base with every number of loops, and below vanilla": all(
            (difference := loops.difference(name, other)).is_clear and difference.value < 0
            for name in loops.variants
            if name.startswith("mesh")
            for other in (name.replace("mesh", "base"), "vanilla")
            if other in loops.variants
        ),
        "MeSH with loops isn't clearly apart from without": not any(
            loops.difference(name, "mesh-1").is_clear for name in loops.variants if name.startswith("mesh-")
        ),
        "no other base is clearly apart from vanilla": [
            (study.name, name)
            for study in studies.values()
            if "vanilla" in study.variants
            for name in study.variants
            if name.partition("-")[0] == "base" and study.difference(name, "vanilla").is_clear
        ]
        == [("loops", "base-6")],
        "one seed of wide routers loses all of MeSH's lead, the others nothing": sum(wide_lead > 0) == 1
        and sorted(readings.by_seed("mesh-wide", "mesh"))[1] < 0.02,
        "one seed of fast routers loses all of MeSH's lead, and all lose": sum(fast_lead > 0) == 1
        and min(routers.by_seed("mesh-fast", "mesh")) > 0,
        "the wide routers' seed that loses is the one in float32": "bf16"
        not in readings.variants["mesh-wide"]["seeds"][
            readings.paired("mesh-wide", "base")[wide_lead.argmax()]
        ]["set"],
        "seeds of wide and of fast routers lie three times as far apart as others": all(
            2.5 < spread < 3.5 for spread in spreads
        ),
        "mesh-gated has the lowest mean loss": min(routers.variants, key=routers.loss) == "mesh-gated",
        "MeSH's loops change their input more than any without": min(updates["mesh"])
        > max(max(updates[name]) for name in without),
        "MeSH shares the work as base does": abs(shared["mesh"] - shared["base"]) < 0.05,
        "with residual and anchor the second loop does less than half": shared["residual"]
        < 0.5
        > shared["anchor"],
        "MeSH's loop states are the least alike": all(
            ours < min(similar[name][number] for name in without)
            for number, ours in enumerate(similar["mesh"])
        ),
        "h(1) and h(2) of residual and anchor are the most alike": min(
            similar["residual"][1], similar["anchor"][1]
        )
        > max(similar[name][1] for name in ("base", "anchor-star", "mesh")),
        "spectra aren't flatter with MeSH": (spectra["mesh"][3] < spectra["base"][3]).sum() > 25
        and bool((spectra["mesh"][2][1:] < spectra["base"][2][1:]).all()),
        "MeSH loses most without the second loop": probes["mesh"]["without_last_loop"]
        > 4 * max(probes[name]["without_last_loop"] for name in without),
        "the rank of h(2) is above base's": min(
            probes[name]["effective_rank"][3] for name in ("residual", "anchor", "anchor-star", "mesh")
        )
        > probes["base"]["effective_rank"][3],
    }


def renewed(studies: dict[str, Study]) -> list[str]:
    """Name the variants that draw routers and still start with the layers of the rest of their seed."""
    return [
        f"`{name}` of `{study.name}.yaml`"
        for study in studies.values()
        for name, variant in study.variants.items()
        if draws(variant["recurrence"]) and name not in study.unpaired
    ]


def page(studies: dict[str, Study]) -> str:
    """The text, with every number from the results.

    Raises:
        UnsupportedClaim: the results don't bear the text out.
    """
    if not_so := [statement for statement, holds in stated(studies).items() if not holds]:
        raise UnsupportedClaim(f"the page says, and the results don't: {'; '.join(not_so)}")
    loader = FileSystemLoader(NANO)
    environment = Environment(
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    environment.filters["words"] = ("no", "one", "two", "three", "four", "five").__getitem__
    text = environment.get_template("evidence.md.jinja")
    with_bf16 = beside(studies["schemes"], studies["precision"], "bf16")
    return text.render(
        studies=studies,
        tables=tables,
        share_of_compute=share_of_compute,
        with_bf16=with_bf16,
        unpaired=any(study.unpaired for study in studies.values()),
        renewed=renewed(studies),
        **studies,
    )


def main() -> None:
    studies = load(NANO / "results")
    (DOCS / "evidence.md").write_text(page(studies), encoding="utf-8")
    draw_curves(studies, DOCS / "images" / "evidence-curves.png")
    draw_spectra(studies["schemes"], DOCS / "images" / "evidence-spectra.png")


if __name__ == "__main__":
    main()
