"""The command line: verbs and their options, no logic.

Heavy packages are imported when a verb runs; ``--help`` needs none. Knows nothing of how verbs work.
"""

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from loopway.console import say, screen, table_screen
from loopway.data.config import HubDataset, TextOptions
from loopway.errors import exit_on_error
from loopway.options import (
    AsJson,
    ChatOptions,
    EvaluationOptions,
    ExportOptions,
    Fresh,
    GenerationOptions,
    ModelFolder,
    Overrides,
    ParameterOptions,
    ProbeOptions,
    Quiet,
    RetrofitOptions,
    RunsOptions,
    Version,
    taking_options,
)
from loopway.threads import wait_without_spinning
from loopway.verb import Verb, Verbs

app = typer.Typer(
    name="loopway",
    cls=Verbs,
    help="Recursive (looped) language models with MeSH state highways: train, compare, evaluate, probe, "
    "retrofit, export.",
    epilog="An error prints one line. Set LOOPWAY_DEBUG=1 to print its traceback, too.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(version: Version = False) -> None:
    pass


@app.command(
    cls=Verb,
    epilog="Example: loopway train run.yaml training.max_steps=1000 --out runs/long. Every key of the file: docs/configuration.md.",
)
def train(
    config: Annotated[Path, typer.Argument(help="YAML file with model:, data: and training:.")],
    overrides: Overrides = None,
    variant: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Train only this variant of a comparison's YAML file."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="With --variant: one of the comparison's seeds; the first if not given."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Run folder; runs/<name of the config> if not given. A variant goes where compare expects it.",
        ),
    ] = None,
    fresh: Fresh = False,
    quiet: Quiet = False,  # set by the option's callback
) -> None:
    """Train one model. Rerun to resume."""
    from loopway.comparison.early import check_file

    content = check_file(config, overrides or [], of_comparison=variant is not None)
    from loopway.comparison.config import choose_run
    from loopway.training.run import train as train_run

    run, place = choose_run(content, variant, seed)
    summary = train_run(run, out or Path("runs") / config.stem / place, fresh=fresh)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's workers one
        say(screen(), summary.text())


@app.command(
    cls=Verb,
    epilog="Example: loopway check run.yaml model.layout=2+4R3+2. Every key of the file: docs/configuration.md.",
)
def check(
    config: Annotated[Path, typer.Argument(help="YAML file of a run or of a comparison.")],
    overrides: Overrides = None,
) -> None:
    """Check the file of a run or a comparison and print its parameters, memory, tokens and time. Writes nothing."""
    from loopway.comparison.early import check_file

    content = check_file(config, overrides or [], of_comparison=None)
    from loopway.comparison.check import check_command

    typer.echo(check_command(str(config), content))


@app.command(
    cls=Verb, epilog="Example: loopway prepare texts/ --out data/texts --vocab-size 8192. More: docs/data.md."
)
@taking_options
def prepare(
    text: TextOptions,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Text: files (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet), folders, globs. "
            "With --check: prepared folders or .bin files."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder for tokenizer, token files and manifest.")
    ] = None,
    dataset: HubDataset | None = None,
    validation: Annotated[
        list[str], typer.Option(metavar="TEXT", help="Held-out text, as SOURCES; may be given several times.")
    ] = [],  # noqa: B006  (typer copies it)
    processes: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Processes that tokenise; one a core.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Read token files whole: index, ids, checksums, duplicate documents."),
    ] = False,
) -> None:
    """Tokenise text once for any number of runs. Rerun to resume."""
    from loopway.data.command import check_command, prepare_command

    if check:
        typer.echo(check_command(sources or [], validation or None, text.tokenizer))
        return
    train = [*(sources or []), *([dataset] if dataset else [])]
    typer.echo(prepare_command(train, validation or None, text, out, processes))


@app.command(
    cls=Verb,
    epilog="Example: loopway compare compare.yaml seeds=[0,1,2] --out runs/pairs. Every key of the file: docs/configuration.md.",
)
def compare(
    config: Annotated[
        str | None, typer.Argument(help="YAML file with variants:; the built-in demo if not given.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder for everything; runs/<name of the config> if not given."),
    ] = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Train several variants on the same data and compare them. Rerun to resume."""
    from loopway.comparison.early import check_file

    overrides = overrides or []
    if config is not None and "=" in config:  # the demo, with overrides alone
        config, overrides = None, [config, *overrides]
    content = check_file(config, overrides, of_comparison=True)
    from loopway.comparison.run import compare as compare_variants

    folder = out or Path("runs") / (Path(config).stem if config else "demo")
    command = shlex.join(["loopway", *sys.argv[1:]])
    result = compare_variants(
        content, folder=folder, fresh=fresh, command=command, console=table_screen(as_json=json)
    )
    if json and result.rows:  # of torchrun's workers one has them
        typer.echo((folder / "results.json").read_text(encoding="utf-8"), nl=False)


@app.command(
    cls=Verb,
    epilog="Example: loopway evaluate runs/base runs/mesh --tasks held-out,lambada_openai --shots 0. More: docs/evaluation.md.",
)
@taking_options
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_MODEL...",
            help="Run folders, checkpoints, model folders, names on the Hub. Differences are to the first.",
        ),
    ],
    options: EvaluationOptions,
    every_checkpoint: Annotated[
        bool,
        typer.Option(
            "--every-checkpoint",
            help="Evaluate the checkpoints of each run, and plot their course.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder for answers, tables and results.")] = Path(
        "evaluations"
    ),
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Measure perplexities and downstream tasks with lm-evaluation-harness. Rerun to resume."""
    from loopway.evaluation.suite import chosen_measures
    from loopway.inference.trained_model import look_at_models

    measures = chosen_measures(options)  # before the harness, which takes seconds to import
    if not every_checkpoint:
        look_at_models(models, options.plugin)
    from loopway.evaluation.dynamics import evaluate_checkpoints
    from loopway.evaluation.evaluate import evaluate as evaluate_models

    run = evaluate_checkpoints if every_checkpoint else evaluate_models
    run(models, measures, out, options, console=table_screen(as_json=json))
    if json:
        typer.echo((out / "results.json").read_text(encoding="utf-8"), nl=False)


@app.command(
    cls=Verb,
    epilog="Example: loopway probe runs/base runs/mesh --samples 100 --out probes. More: docs/probing.md.",
)
@taking_options
def probe(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_MODEL...",
            help="Run folders, checkpoints, model folders, names on the Hub; also plain models of supported families.",
        ),
    ],
    options: ProbeOptions,
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="Folder for the page, figures and numbers.")
    ] = Path("probes"),
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Measure what each loop does, and write a page with figures."""
    from loopway.probing.probe import probe as probe_models

    command = shlex.join(["loopway", *sys.argv[1:]])
    probe_models(models, out, options, command=command, console=table_screen(as_json=json))
    if json:
        typer.echo((out / "probes.json").read_text(encoding="utf-8"), nl=False)


@app.command(
    cls=Verb,
    epilog='Example: loopway generate runs/run "My fellow citizens," --temperature 0.8 --top-k 50. More: docs/generation.md.',
)
@taking_options
def generate(
    model: ModelFolder,
    options: GenerationOptions,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT",
            help="Texts to continue, - for standard input, which is also read if piped; empty to begin a document.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each text.")] = False,
) -> None:
    """Continue texts with a trained model. A single text is printed as it comes."""
    from loopway.inference.prompts import read_prompts, read_template

    given, template = read_prompts(prompts or [], options), read_template(options.chat_template)
    from loopway.inference.command import generate_command

    generate_command(model, given, options, template, as_json=json)


@app.command(
    cls=Verb,
    epilog='Example: loopway chat my-model --system "Answer in one sentence." --temperature 0.7. More: docs/generation.md.',
)
@taking_options
def chat(model: ModelFolder, options: ChatOptions) -> None:
    """Chat with a model that has a chat template. Piped input: each line is a message."""
    from loopway.inference.prompts import read_template

    template = read_template(options.chat_template)
    from loopway.inference.chat import chat_command

    chat_command(model, options, template)


@app.command(
    cls=Verb,
    epilog="Example: loopway retrofit HuggingFaceTB/SmolLM2-135M --layout 6+9R2+6 --recurrence mesh --out smollm2-mesh. More: docs/retrofit.md.",
)
@taking_options
def retrofit(
    model: Annotated[
        str, typer.Argument(help="A pretrained model: a folder or a name on the Hugging Face Hub.")
    ],
    options: RetrofitOptions,
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="Folder for the recursive model and its tokenizer.")
    ],
) -> None:
    """Turn a pretrained model into a recursive one: with fewer layers, or with MeSH between its layers."""
    from loopway.retrofit.command import retrofit_command

    typer.echo(retrofit_command(model, out, options))


@app.command(
    cls=Verb,
    epilog="Example: loopway export runs/run --out plain --drop-recurrence. More: docs/publishing.md.",
)
@taking_options
def export(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_MODEL", help="Run folder, checkpoint, model folder, name on the Hub."),
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder for the model and its tokenizer.")],
    options: ExportOptions,
) -> None:
    """Export a recursive model as a plain model of its family, which any engine can serve."""
    if options.self_contained:
        from loopway.publishing.publish import publish_command

        typer.echo(publish_command(model, out, options.plugin, drop_recurrence=options.drop_recurrence))
        return
    from loopway.retrofit.command import export_command

    typer.echo(export_command(model, out, options.plugin, drop_recurrence=options.drop_recurrence))


@app.command(cls=Verb, epilog="Example: loopway params 1.4b --layout 4+8R2+4 --recurrence mesh.")
@taking_options
def params(
    model: Annotated[
        str, typer.Argument(metavar="SIZE_OR_YAML", help="A Pythia size (160m) or a run's YAML file.")
    ],
    options: ParameterOptions,
    json: AsJson = False,
) -> None:
    """Print parameters, FLOPs and memory of a model, beside the vanilla model of the same compute depth."""
    from loopway.report.parameters import print_parameters

    print_parameters(model, options, as_json=json)


@app.command(cls=Verb, epilog="Example: loopway schema > loopway.schema.json.")
def schema() -> None:
    """Print the JSON schema of run and comparison files, for editors."""
    import json

    from loopway.comparison.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


@app.command(cls=Verb, epilog="Example: loopway runs runs studies --json.")
@taking_options
def runs(
    options: RunsOptions,
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders to look in, and below; runs if not given.")
    ] = None,
    json: AsJson = False,
) -> None:
    """List runs with their steps, losses and sizes."""
    from loopway.training.run_list import runs_command

    runs_command(folders or [Path("runs")], options, as_json=json)


def main() -> None:
    """Run the command line: exit with 2 and a one-line error after a user's mistake, with 130 after Ctrl-C.

    After SIGTERM a run saves and exits with 0, as schedulers expect.
    """
    wait_without_spinning()
    try:
        with exit_on_error():
            app()
    except SystemExit as stop:
        if stop.code != 128 + signal.SIGTERM:
            raise
