"""The paper's comparisons: their rows, and the YAML files made of them (`generate.py` writes these beside itself).

A file is a table at one size, or a figure; a row is a variant. Tables 1, 3, 4 and 6 are the paper's. The layer splits of
its Figures 6 to 8 aren't known to us: ours vary one thing each at the compute of 24 layers. Knows nothing of the recipe,
which is pile.yaml.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
Row = dict[str, Any]

#: Sequences that a GPU takes at a time; the global batch stays the same.
BATCH = {"160m": 32, "410m": 16, "1b": 8, "1.4b": 8}
DEPTH = {"160m": 12, "410m": 24, "1b": 16, "1.4b": 24}


@dataclass(frozen=True)
class Comparison:
    """One file: what of the paper it is, a Pythia size, and what each row changes of the model."""

    title: str
    size: str
    rows: dict[str, Row]

    def to_yaml(self) -> str:
        content = {
            "extends": "pile.yaml",
            "model": {"preset": f"pythia-{self.size}"},
            "training": {"per_device_train_batch_size": BATCH[self.size]},
            "variants": self.rows,
        }
        text = yaml.dump(content, sort_keys=False, default_flow_style=None, width=120)
        return f"# {self.title}. Written by generate.py.\n{text}"


def vanilla(size: str) -> dict[str, Row]:
    return {"vanilla": {"layout": str(DEPTH[size])}}


def schemes(layout: str, *recurrences: str, suffix: str = "") -> dict[str, Row]:
    """A row for each recurrence; its name can name a folder."""
    return {
        recurrence.replace("*", "-star").replace("+", "-") + suffix: {
            "layout": layout,
            "recurrence": recurrence,
        }
        for recurrence in recurrences
    }


def base_and_mesh(*layouts: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for layout in layouts:
        rows |= schemes(layout, "base", "mesh", suffix=f"-{layout.replace('+', '-')}")
    return rows


_FIXED = ("base", "residual", "anchor*", "anchor", "mesh")
COMPARISONS: dict[str, Comparison] = {
    "table1-160m": Comparison(
        "Table 1, Pythia-160M", "160m", vanilla("160m") | schemes("2+4R2+2", "base", "anchor", "mesh")
    ),
    "table1-410m": Comparison(
        "Table 1, Pythia-410M",
        "410m",
        vanilla("410m")
        | schemes("4+8R2+4", "base", "anchor", "mesh", suffix="-r2")
        | schemes("3+6R3+3", "base", "residual", "anchor", "mesh", suffix="-r3"),
    ),
    "table1-1b": Comparison("Table 1, Pythia-1B", "1b", vanilla("1b") | schemes("3+5R2+3", *_FIXED)),
    "table1-1.4b": Comparison("Table 1, Pythia-1.4B", "1.4b", vanilla("1.4b") | schemes("4+8R2+4", *_FIXED)),
    "table3-410m": Comparison(
        "Table 3, the length of the buffer",
        "410m",
        {
            f"slots-{slots}": {"layout": "4+8R2+4", "recurrence": "mesh", "num_slots": slots}
            for slots in (3, 4, 5, 6)
        },
    ),
    "table4-410m": Comparison(
        "Table 4, what states are passed on",
        "410m",
        vanilla("410m")
        | schemes("4+8R2+4", "base", "anchor", "residual+anchor", "residual+anchor+anchor*", "anchor+anchor*")
        | schemes("4+8R2+4", "static", "dynamic", "mesh"),
    ),
    "table6-1.4b": Comparison(
        "Table 6, MeSH between unshared blocks",
        "1.4b",
        vanilla("1.4b")
        | schemes("4+8+8+4", "mesh", suffix="-vanilla")
        | schemes("4+8R2+4", "base", "mesh"),
    ),
    "figure6-410m": Comparison(
        "Figure 6, with our layouts: how often a core loops that computes 16 of 24 layers",
        "410m",
        vanilla("410m") | base_and_mesh("4+8R2+4", "4+4R4+4", "4+2R8+4"),
    ),
    "figure7-410m": Comparison(
        "Figure 7, with our layouts: how much of 24 layers of compute is looped",
        "410m",
        vanilla("410m") | base_and_mesh("8+4R2+8", "6+6R2+6", "4+8R2+4", "2+10R2+2", "12R2"),
    ),
    "figure8-410m": Comparison(
        "Figure 8, with our layouts: where the loop lies between prelude and coda",
        "410m",
        vanilla("410m") | base_and_mesh("1+8R2+7", "2+8R2+6", "4+8R2+4", "6+8R2+2", "7+8R2+1"),
    ),
}  # fmt: skip


if __name__ == "__main__":
    for name, comparison in COMPARISONS.items():
        (FOLDER / f"{name}.yaml").write_text(comparison.to_yaml(), encoding="utf-8")
