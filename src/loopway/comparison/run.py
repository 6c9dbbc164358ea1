"""A comparison from config to report: train every variant on the same data, then report them side by side.

    comparison.json  data/  variants/NAME.yaml  runs/NAME-seedN/  results.json  table.md
    curves.png  samples.md  report.html  probes/

Finished runs are kept, unfinished ones resume. Of several workers, the first does everything but the training.
Knows nothing of how a single run is trained.
"""

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loopway.comparison.config import CompareConfig, run_name
from loopway.comparison.page import write_comparison_page
from loopway.comparison.planned import PlannedRun
from loopway.comparison.report import samples_note, write_results, write_samples
from loopway.comparison.rows import Row
from loopway.comparison.tables import explain, terminal_table
from loopway.comparison.workers import Workers
from loopway.console import say, screen
from loopway.data.run_data import look_at_data, open_data, remove_other_data
from loopway.errors import ConfigError, LoopwayError
from loopway.files import aside_of, damage_told, remove, write_json
from loopway.inference.generation import prompt_ids
from loopway.options import ProbeOptions
from loopway.probing.probe import probe
from loopway.training.removal import remove_runs
from loopway.training.run_folder import RunFolder
from loopway.training.summary import library_versions


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`: the folder where everything lies, and the table's rows (in the first worker)."""

    folder: Path
    rows: list[Row]


def compare(
    config: Path | str | dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
    folder: Path | str | None = None,
    *,
    fresh: bool = False,
    command: str = "",
    console: Console | None = None,
) -> Comparison:
    """Train every variant of a comparison and report on them.

    Args:
        config: the comparison's YAML file, or what it holds; None is the embedded demo.
        overrides: ``training.max_steps=100`` and the like, laid on top of a file.
        folder: where everything goes; None is ``runs/<name of the config>``, without a file ``runs/demo``.
        fresh: first remove the comparison in the folder, whatever its config; keep prepared text if it fits `config`.
        command: what was typed, for the page.
        console: where the table is shown; None is standard output.

    Raises:
        LoopwayError: a mistake in the config or the data, a folder that holds another comparison, a failed run.
    """
    is_read = isinstance(config, dict)
    plan = CompareConfig.from_dict(config) if is_read else CompareConfig.load(config, overrides)
    name = Path(config).stem if isinstance(config, Path | str) else "demo"
    folder = Path(folder) if folder else Path("runs") / name
    console = console or screen()
    runs = {
        name: [PlannedRun(run_name(name, seed), run, folder) for seed, run in by_seed.items()]
        for name, by_seed in plan.runs.items()
    }
    # All variants of a seed before the next seed.
    in_turn = [by_seed[seed] for seed in range(len(plan.seeds)) for by_seed in runs.values()]
    workers = Workers.here()
    if not workers.is_first:
        for planned in in_turn:
            planned.train(folder / "data", workers)
        return Comparison(folder, [])
    if fresh and _claim_of(folder).exists():
        look_at_data(plan.data)
        _remove_runs_and_results(folder)
        remove_other_data(plan.data, folder / "data")
    was_there = folder.exists()
    is_new = _claim(folder, [planned for by_seed in runs.values() for planned in by_seed], workers.count)
    note, has_begun = folder / "tokens.json", any((folder / "runs").glob("*/metrics.jsonl"))
    try:
        data = open_data(plan.data, folder / "data", note if has_begun else None)
    except LoopwayError:
        if is_new and not any(folder.glob("data*")):
            with contextlib.suppress(OSError):  # the error of the data matters more
                _claim_of(folder).unlink()
                if not was_there:
                    folder.rmdir()
        raise
    if data.notice:
        say(screen(stderr=True), data.notice)
    data.keep_identity(note, has_begun=has_begun)
    if not data.validation:
        raise ConfigError(
            "a comparison needs validation text, and the token files bring none; give data.validation"
        )
    for first, *_ in runs.values():
        prompt_ids(data.tokenizer, plan.prompt, first.config.build_model_config(data.tokenizer))
    for planned in in_turn:
        planned.train(folder / "data", workers)
    rows, curves, picture = write_results(folder, runs, data)
    console.print(terminal_table(rows))
    console.print(explain(rows), style="dim")
    write_comparison_page(
        folder / "report.html",
        rows,
        curves,
        picture,
        configs={name: by_seed[0].config.to_dict() for name, by_seed in runs.items()},
        samples=write_samples(folder, runs, plan.prompt),
        samples_note=samples_note(plan.prompt),
        command=command,
        versions=library_versions(),
        has_probes=plan.probe_samples > 0,
    )
    if plan.probe_samples:
        probe_models(folder, runs, plan.probe_samples, console)
    console.print(
        f"Everything is in {folder}: report.html, table.md, results.json, curves.png, samples.md, runs/*/model"
    )
    return Comparison(folder, rows)


def probe_models(folder: Path, runs: dict[str, list[PlannedRun]], samples: int, console: Console) -> None:
    """Every variant's first model, side by side on one page."""
    firsts = [by_seed[0] for by_seed in runs.values()]
    models, plugins = [str(planned.folder.path) for planned in firsts], firsts[0].config.plugins
    out = folder / "probes"
    command = ["loopway", "probe", *models, "--samples", str(samples), "--out", str(out)]
    command += [word for plugin in plugins for word in ("--plugin", plugin)]
    settings = ProbeOptions(samples=samples, plugin=[Path(plugin) for plugin in plugins])
    probe(models, out, settings, command=shlex.join(command), console=console)


def _claim(folder: Path, runs: list[PlannedRun], workers: int) -> bool:
    """Claim the folder for this comparison; True if it is new. A comparison may grow by variants and seeds.

    Raises:
        ConfigError: the folder holds something else, other runs, or runs of another config; nothing is changed.
    """
    claim, names = _claim_of(folder), [planned.name for planned in runs]
    is_new = not claim.exists()
    if is_new and folder.exists() and not _holds_only(folder, names):
        raise ConfigError(f"{folder} exists and holds no comparison; choose another folder with --out")
    if not is_new:
        with damage_told(claim, "put it back, or choose another folder with --out"):
            missing = [*json.loads(claim.read_text(encoding="utf-8"))["runs"]]
        missing = [name for name in missing if name not in names]
        if missing:
            raise ConfigError(
                f"{folder} holds a comparison that has {', '.join(missing)} too; keep these in the config, choose "
                f"another folder with --out, or delete its runs with --fresh"
            )
    trains = not all(planned.folder.is_finished for planned in runs)
    for planned in runs:
        planned.check_folder(workers if trains else None)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(claim, {"runs": names})
    return is_new


def _remove_runs_and_results(folder: Path) -> None:
    """Remove all runs and results of a comparison, but no prepared text. Other files stay.

    Raises:
        ConfigError: a run's folder that Loopway didn't make, or a run that another process trains; nothing is removed.
    """
    with damage_told(_claim_of(folder), "delete the folder yourself"):
        names = [*json.loads(_claim_of(folder).read_text(encoding="utf-8"))["runs"]]
    runs = [RunFolder(folder / "runs" / name) for name in names]
    remove_runs([run for run in runs if run.config.exists()])
    results = ("results.json", "table.md", "curves.png", "samples.md", "report.html", "tokens.json")
    remove(*(folder / name for name in results))
    remove(*(folder / "variants" / f"{name}.yaml" for name in names))
    write_json(_claim_of(folder), {"runs": []})


def _claim_of(folder: Path) -> Path:
    """Which runs the comparison has; written first, by which the folder is known as a comparison's."""
    return folder / "comparison.json"


def _holds_only(folder: Path, names: list[str]) -> bool:
    """Whether there is nothing but some of these runs, which were trained alone (`loopway train --variant`)."""
    if not folder.is_dir():
        return False
    own = (folder / "runs", aside_of(_claim_of(folder)))
    others = [path for path in folder.iterdir() if path not in own]
    runs = [path.name for path in (folder / "runs").iterdir()] if (folder / "runs").is_dir() else []
    return not others and set(runs) <= set(names)
