"""The pages' tables, in Markdown, of the nano studies and of the paper beside them. Knows nothing of pages and figures."""

import json
import math
from pathlib import Path

from loopway.report.markdown import markdown_table as table
from studies.nano.losses import Study, signed

_PAPER = json.loads((Path(__file__).parents[1] / "paper" / "results.json").read_text(encoding="utf-8"))
_ELSEWHERE = "3+6R3+3"  # a second layout at one size
#: Names here and in the paper's tables.
_SCHEMES = {
    "base": "base",
    "residual": "residual",
    "anchor": "anchor",
    "anchor-star": "anchor*",
    "mesh": "mesh",
}


def losses_table(study: Study, against: list[str]) -> str:
    """Every variant's loss, its seeds' range, and its difference from the variants named."""
    rows = []
    for name, variant in study.variants.items():
        losses = study.losses(name)
        rows.append(
            [
                f"`{name}`",
                f"`{variant['layout']}`",
                _millions(study, name),
                str(len(losses)),
                f"{losses.mean():.3f}",
                f"{losses.min():.3f}–{losses.max():.3f}" if len(losses) > 1 else "–",
                *("–" if name == other else str(study.difference(name, other)) for other in against),
            ]
        )
    headers = ["variant", "layout", "non-emb.", "seeds", "loss", "range"]
    return table([*headers, *(f"minus `{name}`" for name in against)], rows)


def _millions(study: Study, name: str) -> str:
    return f"{study.variants[name]['non_embedding_parameters'] / 1e6:.2f} M"


def runs_table(studies: dict[str, Study]) -> str:
    rows = []
    for study in studies.values():
        seeds = sorted({study.seeds(name) for name in study.variants})
        rows.append(
            [
                f"[`{study.name}.yaml`](../studies/nano/{study.name}.yaml)",
                str(len(study.variants)),
                "–".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1]))),
                f"{study.tokens / 1e6:.1f} M",
                study.devices(),
            ]
        )
    return table(["study", "variants", "seeds", "tokens a run", "trained on"], rows)


def by_seed(study: Study, a: str, b: str) -> str:
    """a's loss minus b's with each seed, in words."""
    *first, last = (signed(value) for value in study.by_seed(a, b))
    return f"{', '.join(first)} and {last}" if first else last


def domains_table(study: Study, names: list[str]) -> str:
    rows = [[f"`{name}`", *(f"{loss:.3f}" for loss in study.by_domain(name).values())] for name in names]
    return table(["variant", *study.result["domains"]], rows)


def curve_table(study: Study, names: list[str], tokens: list[float]) -> str:
    rows = [[f"`{name}`", *(f"{study.at(name, at):.3f}" for at in tokens)] for name in names]
    return table(["tokens", *(f"{at / 1e6:.1f} M" for at in tokens)], rows)


def _paper_losses() -> dict[str, dict[str, float]]:
    """Nats per token on the Pile in the paper's Table 1, by size and scheme: the logarithms of its perplexities."""
    losses: dict[str, dict[str, float]] = {}
    for size, layers, scheme, perplexity, *_ in _PAPER["table1"]:
        if layers != _ELSEWHERE:
            losses.setdefault(size, {})[scheme] = math.log(perplexity)
    return losses


def paper_leads(over: str) -> dict[str, float]:
    """By how many nats MeSH is below another scheme in the paper's Table 1, by size."""
    return {size: of[over] - of["mesh"] for size, of in _paper_losses().items()}


def paper_lead_over_sums() -> str:
    """By how many nats MeSH is below the best sum of states in the paper's Table 4."""
    losses = {scheme: loss for scheme, loss, _ in _PAPER["table4_state_passing"]["rows"]}
    return f"{min(loss for scheme, loss in losses.items() if '+' in scheme) - losses['mesh']:.4f}"


def paper_table(studies: dict[str, Study]) -> str:
    """Losses minus the vanilla model's."""
    sizes = _paper_losses()
    here = [studies["schemes"], studies["longer"]]
    rows = [
        [
            f"`{ours}`",
            *(signed(of[theirs] - of["vanilla"]) if theirs in of else "–" for of in sizes.values()),
            *(str(study.difference(ours, "vanilla")) if ours in study.variants else "–" for study in here),
        ]
        for ours, theirs in _SCHEMES.items()
    ]
    tokens = [f"here, {study.variants['mesh']['tokens'] / 1e6:.1f} M tokens" for study in here]
    return table(["minus vanilla", *(f"paper, {size}" for size in sizes), *tokens], rows)


def _paper_buffers() -> dict[str, float]:
    """Loss by number of slots in the paper's Table 3."""
    return {f"slots-{slots}": loss for _, slots, loss, _ in _PAPER["table3_buffer_length"]["rows"]}


def paper_buffer_range() -> float:
    """By how many nats the losses in the paper's Table 3 are apart at most."""
    return max(_paper_buffers().values()) - min(_paper_buffers().values())


def buffer_table(study: Study) -> str:
    theirs = _paper_buffers()
    chosen = "slots-5"  # the paper's
    rows = [
        [
            name.removeprefix("slots-"),
            f"{study.loss(name):.3f}",
            "–" if name == chosen else str(study.difference(name, chosen)),
            f"{theirs[name]:.4f}",
            "–" if name == chosen else signed(theirs[name] - theirs[chosen], 4),
        ]
        for name in study.variants
    ]
    return table(["slots", "loss", "minus 5 slots", "paper, 410M", "minus 5 slots"], rows)


def passing_table(study: Study) -> str:
    paper = _PAPER["table4_state_passing"]["rows"]
    theirs = {scheme.replace("*", "-star").replace("+", "-"): loss for scheme, loss, _ in paper}
    rows = [
        [
            f"`{name}`",
            f"{study.loss(name):.3f}",
            "–" if name == "base" else str(study.difference(name, "base")),
            f"{theirs[name]:.4f}",
            "–" if name == "base" else signed(theirs[name] - theirs["base"], 4),
        ]
        for name in study.variants
    ]
    return table(["passed on", "loss", "minus base", "paper, 410M", "minus base"], rows)


def loops_table(study: Study) -> str:
    """By number of loops; once is no loop, so there is no base."""
    rows = []
    for name in study.variants:
        scheme, _, loops = name.partition("-")
        if scheme != "mesh":
            continue
        base, has_base = f"base-{loops}", f"base-{loops}" in study.variants
        rows.append(
            [
                loops,
                f"`{study.variants[name]['layout']}`",
                _millions(study, name),
                f"{study.loss(base):.3f}" if has_base else "–",
                f"{study.loss(name):.3f}",
                str(study.difference(name, base)) if has_base else "–",
                str(study.difference(name, "vanilla")),
            ]
        )
    headers = ["loops", "layout", "non-emb.", "base", "MeSH", "MeSH minus base", "MeSH minus vanilla"]
    return table(headers, rows)


def probes_table(study: Study) -> str:
    """Block by block; states are those between the blocks."""
    rows = []
    for name, probe in study.result["probes"].items():
        update, similar, rank = probe["relative_update"], probe["similarity"], probe["effective_rank"]
        first, second = update[1:3]
        rows.append(
            [
                f"`{name}`",
                *(f"{value:.2f}" for value in update),
                f"{min(first, second) / max(first, second):.2f}",
                *(f"{value:.2f}" for value in similar[1:3]),
                *(f"{value:.0f}" for value in rank[1:4]),
                "–" if probe["without_last_loop"] is None else signed(probe["without_last_loop"]),
            ]
        )
    headers = ["variant", "update: prelude", "1st loop", "2nd loop", "coda", "lesser over larger loop"]
    headers += ["CKA: h(0), h(1)", "h(1), h(2)", "rank: h(0)", "h(1)", "h(2)"]
    headers += ["loss without 2nd loop"]
    return table(headers, rows)


def routes_table(study: Study, name: str) -> str:
    routes = study.result["probes"][name]["mixing"]
    rows = [
        [boundary, *("–" if weight is None else f"{weight:.2f}" for weight in weights)]
        for boundary, weights in zip(routes["boundaries"], routes["weights"], strict=True)
    ]
    return table(["what is read", *routes["sources"]], rows)
