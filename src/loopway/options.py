"""Options of the verbs. Each is declared once, as a field of a pydantic model: an option on the command line and an attribute in
Python.

The field's docstring is its help; its bounds hold for both. Imports nothing heavy. Knows nothing of how verbs work.
"""

import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterator
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from typer import Argument, Exit, Option, echo

from loopway._version import __version__
from loopway.checks import option_error, wrong_value
from loopway.console import be_quiet
from loopway.errors import ConfigError

_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")

ModelFolder = Annotated[Path, Argument(metavar="RUN_OR_MODEL", help="Run folder or model folder.")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="[KEY=VALUE]...", help="Any field of the config, as in training.max_steps=1000."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"loopway {__version__}")
        raise Exit


Version = Annotated[
    bool, Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
]


def _be_quiet(wanted: bool) -> bool:
    if wanted:
        be_quiet()
    return wanted


Quiet = Annotated[bool, Option("--quiet", help="Print errors alone.", callback=_be_quiet, is_eager=True)]
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]


def _unless_restarted(wanted: bool) -> bool:
    """A restart of a launcher or scheduler repeats the command line, and must resume."""
    return wanted and all(os.environ.get(name, "0") == "0" for name in _RESTARTS)


Fresh = Annotated[
    bool,
    Option(
        "--fresh",
        callback=_unless_restarted,
        help="Delete what the folder holds of an earlier run, and begin anew. Prepared text stays if it fits.",
    ),
]


class Options(BaseModel):
    """Options of one verb. An invalid value raises :class:`ConfigError`, which names the option."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise option_error(error) from None


class ModelOptions(Options):
    """Options for opening a model."""

    dtype: str | None = None
    """float32, bfloat16 or float16 instead of the weights' own precision."""
    plugin: list[Path] = []
    """Python file that registers what a model is made of; may be given several times."""
    loops: str | None = None
    """Loops of every call: one number for all looped segments, or one for each, as in 2+3; the model's own if not
    given."""


class EvaluationOptions(ModelOptions):
    """Options of an evaluation, beside its models.

    Held-out text is read in batches of 8,192 tokens where ``batch_size`` is ``auto``.
    """

    suite: str | None = None
    """paper, or one half of it: perplexity or tasks; paper if not given."""
    tasks: str | None = None
    """Instead of a suite: tasks of the harness, and held-out, with commas between."""
    shots: str | None = None
    """Examples before each question, with commas between; the suite's are 0,5."""
    held_out: list[str] = []
    """Held-out token files: a prepared folder or .bin files; may be given several times. A run has its own validation
    set."""
    sequence_length: int | None = Field(default=None, ge=1)
    """Tokens a sample of the held-out text."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many questions a task."""
    batch_size: str = "auto"
    """Sequences at a time; auto: what a GPU's memory holds, 8 on a CPU."""
    include_path: Path | None = None
    """Folder with task files for the harness, which may name local data."""

    @field_validator("batch_size")
    @classmethod
    def _number_or_auto(cls, value: str) -> str:
        if value != "auto" and not (value.isdecimal() and int(value)):
            raise wrong_value("--batch-size", value, "a whole number from 1, or auto")
        return value


class ProbeOptions(ModelOptions):
    """Options of a probe, beside its models. Each of the losses with changed loops is a forward pass more."""

    data: list[str] = []
    """Held-out token files: a prepared folder or .bin files; may be given several times. A run has its own validation
    set."""
    samples: int = Field(default=500, ge=1)
    """Held-out samples, or as many as there are."""
    loop_samples: int = Field(default=32, ge=0)
    """Samples for the losses with changed loops; 0 skips these losses."""
    sequence_length: int | None = Field(default=None, ge=2)
    """Tokens of a sample; each model's own if not given."""
    cut: str | None = None
    """Layout as whose blocks vanilla models are probed; that of the first looped model of equal depth if not given."""


class RetrofitOptions(Options):
    """Options of a retrofit."""

    layout: str
    """Computes as many layers as the model has: 6+9R2+6 for 30."""
    recurrence: str = "base"
    """base, mesh, ..."""
    fill: str = "spaced"
    """How shared layers are made: first, last, spaced or average; with a calibration text also important or
    least-squares."""
    calibration: list[Path] = []
    """Text that says what layers do (.txt, .jsonl, .parquet, ...); may be given several times."""
    calibration_tokens: int = Field(default=8192, ge=2)
    """Tokens of it to read."""
    router_gap: float | None = None
    """Wider: MeSH starts closer to the layers without it, and its routers learn more slowly. If not given, 1e-4 of the
    states goes astray at most."""
    num_slots: int | None = Field(default=None, ge=1)
    """Slots of MeSH's buffer."""
    dtype: str | None = None
    """float32, bfloat16 or float16 instead of the weights' own precision."""


class Sampling(Options):
    """Choice of the next token, under transformers' names.

    Omitted fields default to the model's ``generation_config.json``, then to sampling from all tokens at temperature 1.
    Without sampling, temperature, top_k, top_p and min_p are ignored.
    """

    max_new_tokens: int | None = Field(default=None, ge=1)
    """Tokens to add at most, within the model's context; 200 if neither this nor the model's generation_config.json
    says."""
    do_sample: bool | None = None
    """Draw tokens, or take the likeliest one."""
    greedy: bool = False
    """Always the likeliest token; the same as --no-do-sample."""
    temperature: float | None = Field(default=None, allow_inf_nan=False)
    """Below 1 is safer, above 1 is wilder; for the likeliest tokens use --greedy."""
    top_k: int | None = Field(default=None, ge=0)
    """Only the k likeliest tokens; 0 is all."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Only the likeliest tokens that make up this probability."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Only tokens with at least this share of the likeliest token's probability."""
    repetition_penalty: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Above 1 makes tokens of the prompt and of the text so far less likely."""
    stop_strings: list[str] = []
    """End the text before this string; may be given several times."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """The same command with the same seed gives the same text."""

    @field_validator("temperature")
    @classmethod
    def _above_zero(cls, value: float | None) -> float | None:
        if value is not None and value < 1e-5:
            raise wrong_value("--temperature", value, "at least 1e-05; for the likeliest tokens use --greedy")
        return value

    @field_validator("stop_strings")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise wrong_value("--stop-strings", "", "text of one character or more")
        return value

    @model_validator(mode="after")
    def _one_of_greedy_and_sampling(self) -> Self:
        if self.greedy and self.do_sample:
            raise ConfigError("--greedy and --do-sample exclude each other: give one of them")
        return self


class ChatOptions(ModelOptions, Sampling):
    """Options of a chat, beside its model."""

    system: str | None = None
    """Message that tells the model how to answer, before all others."""
    chat_template: Path | None = None
    """File with a Jinja chat template, instead of the tokenizer's own."""


class GenerationOptions(ChatOptions):
    """Options of text generation, beside its model and its prompts."""

    prompt_file: list[Path] = []
    """Text file that is one prompt; - is standard input; may be given several times."""
    prompts_jsonl: list[Path] = []
    """JSON lines, each an object with a prompt; - is standard input; may be given several times."""
    chat: bool = False
    """Put each prompt into the model's chat template, as a user's message."""
    num_return_sequences: int = Field(default=1, ge=1)
    """Texts for each prompt; more than one needs sampling."""
    batch_size: int = Field(default=8, ge=1)
    """Prompts at a time."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_return_sequences > 1 and (self.greedy or self.do_sample is False):
            raise ConfigError(
                f"--num-return-sequences: got {self.num_return_sequences}, but without sampling all texts of a "
                "prompt are equal: omit it, or sample"
            )
        for option in ("system", "chat_template"):
            if getattr(self, option) is not None and not self.chat:
                raise ConfigError(f"--{option.replace('_', '-')} needs --chat: add it")
        return self


class ExportOptions(Options):
    """Options of an export."""

    drop_recurrence: bool = False
    """Export the layers of a model whose recurrence isn't base: the plain model computes something else."""
    self_contained: bool = False
    """Export the recursive model itself, with a model card and its code beside the weights, so that it opens without
    Loopway."""
    plugin: list[Path] = []
    """Python file that registers what a model is made of; may be given several times."""


class RunsOptions(Options):
    """Actions on the listed runs."""

    compare: bool = False
    """Print in which keys their configs differ."""
    delete: bool = False
    """Delete the listed runs, after you have confirmed it."""
    yes: bool = False
    """With --delete: don't ask for confirmation."""


class ParameterOptions(Options):
    """Fields that override a size or a run's config."""

    layout: str | None = None
    """For example 2+4R2+2."""
    recurrence: str | None = None
    """base, anchor, mesh, ..."""
    num_slots: int | None = Field(default=None, ge=1)
    """Slots of MeSH's buffer."""
    loops: str | None = None
    """Loops of every call: one number for all looped segments, or one for each, as in 2+3; the layout's if not given."""
    vocab_size: int | None = Field(default=None, ge=1, lt=2**31)
    """Instead of the model's own."""
    context_length: int | None = Field(default=None, ge=1, lt=2**31)
    """Tokens that attention is counted over; the model's maximum if not given."""


def taking_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn a verb's pydantic parameter into command-line options, one for each field.

    A parameter of ``Model | None`` is None if none of its options is given.
    """
    parameters: list[Parameter] = []
    groups: dict[str, type[BaseModel]] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = next(filter(_is_model, (parameter.annotation, *typing.get_args(parameter.annotation))), None)
        if kind is None:
            parameters.append(parameter)
        else:
            groups[name] = kind
            parameters += _options_of(kind, is_optional=parameter.default is None)
    optional = {name for name in groups if inspect.signature(verb).parameters[name].default is None}

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        for name, kind in groups.items():
            values = {field: given.pop(field) for field in kind.model_fields}
            chosen = {
                field: value for field, value in values.items() if value != _default(kind.model_fields[field])
            }
            try:
                given[name] = kind(**chosen) if chosen or name not in optional else None
            except ValidationError as error:
                raise option_error(error) from None
        verb(**given)

    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _options_of(kind: type[BaseModel], *, is_optional: bool) -> Iterator[Parameter]:
    panel = kind.model_config.get("title") or "Options"
    for name, field in kind.model_fields.items():
        flags = [f"--{name.replace('_', '-')}"] if field.annotation is bool else []  # without a --no-...
        shown = " ".join((field.description or "").split())
        option: Any = Option(*flags, help=shown, metavar=_word_of(field.annotation), rich_help_panel=panel)
        value: Any = field.annotation
        default = Parameter.empty if field.is_required() and not is_optional else _default(field)
        if field.is_required() and is_optional:
            value |= None
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[value, option])


def _word_of(annotation: Any) -> str:
    """The metavar of a value's type; empty for flags."""
    kinds = {annotation, *typing.get_args(annotation)}
    for kind, word in ((bool, ""), (int, "NUMBER"), (float, "NUMBER"), (Path, "PATH")):
        if kind in kinds:
            return word
    return "TEXT"


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)
