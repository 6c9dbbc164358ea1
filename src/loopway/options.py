"""Options of the verbs, declared once: each field is an option of the command line and an attribute in Python.

Nothing heavy is imported, so that ``--help`` answers at once. Knows nothing of how verbs work.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from typer import Option

Dtype = Annotated[
    str | None, Option(help="float32, bfloat16 or float16 instead of the weights' own precision.")
]
Plugins = Annotated[
    list[Path], Option(help="Python file that registers what a model is made of; may be given several times.")
]
HeldOut = Annotated[
    list[str],
    Option(
        help="Held-out token files: a prepared folder or .bin files; may be given several times. A run has its own "
        "validation set."
    ),
]


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation, beside its models.

    Held-out text is read in batches of 8,192 tokens where ``batch_size`` is ``auto``.
    """

    suite: Annotated[
        str | None, Option(help="paper, or one half of it: perplexity or tasks; paper if not given.")
    ] = None
    tasks: Annotated[
        str | None,
        Option(help="Instead of a suite: tasks of the harness, and held-out, with commas between."),
    ] = None
    shots: Annotated[
        str | None, Option(help="Examples before each question, with commas between; the suite's are 0,5.")
    ] = None
    held_out: HeldOut = field(default_factory=list)
    sequence_length: Annotated[int | None, Option(min=1, help="Tokens a sample of the held-out text.")] = None
    limit: Annotated[int | None, Option(min=1, help="Only so many questions a task.")] = None
    batch_size: Annotated[
        str, Option(help="Sequences at a time; auto: what a GPU's memory holds, 8 on a CPU.")
    ] = "auto"
    dtype: Dtype = None
    include_path: Annotated[
        Path | None, Option(help="Folder with task files for the harness, which may name local data.")
    ] = None
    plugin: Plugins = field(default_factory=list)

    def __post_init__(self) -> None:
        from loopway.checks import wrong_value

        if self.batch_size != "auto" and not (self.batch_size.isdecimal() and int(self.batch_size)):
            raise wrong_value("--batch-size", self.batch_size, "a whole number from 1, or auto")


@dataclass(frozen=True)
class ProbeOptions:
    """Options of a probe, beside its models. Each of the losses with changed loops is a forward pass more."""

    data: HeldOut = field(default_factory=list)
    samples: Annotated[int, Option(min=1, help="Held-out samples, or as many as there are.")] = 500
    loop_samples: Annotated[
        int, Option(min=0, help="Of these, for the losses with changed loops; 0 leaves them out.")
    ] = 32
    sequence_length: Annotated[
        int | None, Option(min=2, help="Tokens of a sample; each model's own if not given.")
    ] = None
    cut: Annotated[
        str | None,
        Option(
            help="Layout as whose blocks vanilla models are probed; that of the first looped model of equal depth if not "
            "given."
        ),
    ] = None
    dtype: Dtype = None
    plugin: Plugins = field(default_factory=list)


@dataclass(frozen=True)
class RetrofitOptions:
    """Options of a retrofit."""

    layout: Annotated[str, Option(help="Computes as many layers as the model has: 6+9R2+6 for 30.")]
    recurrence: Annotated[str, Option(help="base, mesh, ...")] = "base"
    fill: Annotated[
        str,
        Option(
            help="How shared layers are made: first, last, spaced or average; with a calibration text also important or "
            "least-squares."
        ),
    ] = "spaced"
    calibration: Annotated[
        list[Path],
        Option(
            help="Text that says what layers do (.txt, .jsonl, .parquet, ...); may be given several times."
        ),
    ] = field(default_factory=list)
    calibration_tokens: Annotated[int, Option(min=2, help="Tokens of it to read.")] = 8192
    router_gap: Annotated[
        float | None,
        Option(
            help="Wider: MeSH starts closer to the layers without it, and its routers learn more slowly. If not given, "
            "1e-4 of the states goes astray at most."
        ),
    ] = None
    num_slots: Annotated[int | None, Option(min=1, help="Slots of MeSH's buffer.")] = None
    dtype: Dtype = None


@dataclass(frozen=True)
class Sampling:
    """Choice of the next token. With ``greedy`` temperature, top_k and top_p are ignored."""

    max_new_tokens: Annotated[int, Option(help="Tokens to add at most, within the model's context.")] = 200
    temperature: Annotated[float, Option(help="Below 1 is safer, above 1 is wilder.")] = 1.0
    top_k: Annotated[int, Option(help="Only the k likeliest tokens; 0 is all.")] = 0
    top_p: Annotated[float, Option(help="Only the likeliest tokens that make up this probability.")] = 1.0
    greedy: Annotated[bool, Option("--greedy", help="Always the likeliest token.")] = False
    seed: Annotated[int, Option(help="The same seed gives the same text.")] = 0

    def __post_init__(self) -> None:
        from loopway.checks import wrong_value

        if self.max_new_tokens < 1:
            raise wrong_value("--max-new-tokens", self.max_new_tokens, "1 or more")
        if not self.temperature > 0:
            raise wrong_value(
                "--temperature", self.temperature, "more than 0; for the likeliest tokens use --greedy"
            )
        if self.top_k < 0:
            raise wrong_value("--top-k", self.top_k, "0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise wrong_value("--top-p", self.top_p, "more than 0, at most 1")
        if not 0 <= self.seed < 2**32:
            raise wrong_value("--seed", self.seed, "0 to 2**32 - 1")


def taking_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb's parameter that is a dataclass be given as options of the command line, one for each field."""
    parameters, groups = [], {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if not dataclasses.is_dataclass(kind := parameter.annotation):
            parameters.append(parameter)
            continue
        groups[name] = kind
        hints = typing.get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default_of(each),
                annotation=hints[each.name],
            )
            for each in dataclasses.fields(kind)
        ]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in dataclasses.fields(kind)})
        verb(**given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def _default_of(option: dataclasses.Field) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return inspect.Parameter.empty if option.default is dataclasses.MISSING else option.default
