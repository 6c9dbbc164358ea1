"""The tables of docs/performance.md from a result of gpu.py; cells without a figure say "not yet measured".

Knows nothing of how figures are measured.
"""

from collections.abc import Callable
from typing import Any

from loopway.report.markdown import markdown_table as _table

NAMES = {
    "hugging_face": "Hugging Face",
    "vanilla": "vanilla",
    "base": "base",
    "mesh": "MeSH",
}
MISSING = "not yet measured"
_STEPS = (
    ("160M", "step_160m", ""),
    ("160M", "compiled_160m", ", compiled"),
    ("410M", "step_410m", ""),
    ("1.4B", "step_1.4b", ""),
)


def tables(result: dict[str, Any] | None) -> str:
    """Markdown; of no result the frame."""
    parts = result["parts"] if result else {}
    made = (
        _origin(result),
        _steps(parts),
        _recompute(parts),
        _decoding(parts),
        _mixing(parts),
        _chunks(parts),
    )
    return "\n\n".join(made)


def _origin(result: dict[str, Any] | None) -> str:
    if result is None:
        return "No result of a GPU lies in [results](../benchmarks/results) yet."
    where = result["machine"]
    if result["quick"]:
        return f"A quick run on {where['device']}, {result['date']}: sizes are tiny, so these figures say nothing."
    return (
        f"Measured {result['date']} on one {where['device']} (driver {where['driver']}), torch {where['torch']}, "
        f"transformers {where['transformers']}, Python {where['python']}."
    )


def _cell(found: Any, write: Callable[[Any], str], *path: str) -> str:
    """The figure at the end of the path; "–" where it means nothing: memory on a CPU, an unknown device's peak."""
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return MISSING
        found = found[name]
    return "–" if found is None else write(found)


def _steps(parts: dict[str, Any]) -> str:
    rows = []
    for size, part, how in _STEPS:
        for variant in ("base", "mesh") if how else ("hugging_face", "vanilla", "base", "mesh"):
            of = (part, "variants", variant)
            rows.append(
                (
                    size,
                    f"{NAMES[variant]}{how}",
                    _cell(parts, "{:,.0f}".format, *of, "tokens_per_second"),
                    _cell(parts, "{:.3f}".format, *of, "mfu_of_published_peak"),
                    _cell(parts, "{:.3f}".format, *of, "mfu_of_measured_rate"),
                    _cell(parts, "{:.1f} GB".format, *of, "peak_memory_gb"),
                    _cell(parts, _interval, part, "mesh_over_base", "step_time")
                    if variant == "mesh"
                    else "–",
                )
            )
    head = (
        "size",
        "model",
        "tokens/s",
        "MFU, published peak",
        "MFU, measured rate",
        "peak memory",
        "MeSH's step over base's",
    )
    return _table(head, rows, left=2)


def _interval(found: dict[str, float]) -> str:
    return f"{found['median']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def _recompute(parts: dict[str, Any]) -> str:
    rows = [
        (
            f"`{level}`",
            _cell(parts, "{:.1f} ms".format, "recompute", "levels", level, "step_milliseconds"),
            _cell(parts, "{:.2f}".format, "recompute", "levels", level, "times_none"),
            _cell(parts, "{:.1f} GB".format, "recompute", "levels", level, "peak_memory_gb"),
        )
        for level in ("none", "selective", "layer", "stage")
    ]
    return _table(("`recompute`, MeSH at 160M", "step", "over `none`", "peak memory"), rows)


def _decoding(parts: dict[str, Any]) -> str:
    batches = ("batch_1", "batch_16", "batch_64")

    def row(variant: str, part: str, how: str) -> tuple[str, ...]:
        speeds = (
            _cell(parts, "{:,.0f}".format, part, batch, "tokens_per_second", variant) for batch in batches
        )
        return (f"{NAMES[variant]}{how}", *speeds)

    rows = [row(variant, "decoding", "") for variant in ("hugging_face", "vanilla", "base", "mesh")]
    rows += [row(variant, "decoding_compiled", ", compiled") for variant in ("vanilla", "mesh")]
    return _table(("new tokens/s, 160M", "batch 1", "batch 16", "batch 64"), rows)


def _mixing(parts: dict[str, Any]) -> str:
    rows = [
        (
            loops,
            *(
                _cell(parts, write, "mixing", "loops", loops, how, figure)
                for how in ("eager", "compiled")
                for figure, write in (
                    ("milliseconds", "{:.2f} ms".format),
                    ("share_of_bound", "{:.2f}".format),
                )
            ),
        )
        for loops in ("2", "4", "8")
    ]
    return _table(("loops", "mixing", "of the bound", "compiled", "of the bound"), rows)


def _chunks(parts: dict[str, Any]) -> str:
    rows = [
        (
            rows,
            _cell(parts, "{:.1f} ms".format, "loss_chunks", "rows", rows, "milliseconds"),
            _cell(parts, "{:.2f} GB".format, "loss_chunks", "rows", rows, "peak_memory_gb"),
        )
        for rows in ("512", "1024", "2048", "4096", "all")
    ]
    return _table(("rows of a chunk of the loss", "time", "memory"), rows)
