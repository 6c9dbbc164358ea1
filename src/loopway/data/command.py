"""`loopway prepare`: from its options to the work and its summary."""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from loopway.checks import config_error
from loopway.data.config import HubDataset, PreparationConfig, TextOptions
from loopway.data.folder import LEFT_OUT
from loopway.data.inspection import inspect
from loopway.data.preparation.prepare import prepare
from loopway.data.tokenizer import load_tokenizer, vocabulary_size
from loopway.errors import ConfigError


def prepare_command(
    train: Sequence[str | HubDataset],
    validation: Sequence[str] | None,
    text: TextOptions,
    out: Path | None,
    processes: int | None,
) -> str:
    """Prepare text as described by :class:`PreparationConfig`. Return a summary of the result.

    Raises:
        LoopwayError: the options or the text are invalid.
    """
    if not train:
        raise ConfigError(
            "nothing to prepare; name files, folders or globs, or give --dataset; see loopway prepare --help"
        )
    if out is None:
        raise ConfigError(
            "give --out, the folder to create; for example loopway prepare texts/ --out data/texts"
        )
    try:
        config = PreparationConfig(train=train, validation=validation, **text.model_dump())  # type: ignore[arg-type]
    except ValidationError as error:
        raise config_error(error, "data", PreparationConfig) from None
    started = time.perf_counter()
    prepared = prepare(config, out.expanduser(), processes=processes)
    manifest, lines = prepared.manifest, [prepared.notice] if prepared.notice else []
    for split in ("train", "validation"):
        if counts := manifest[split]:
            lines.append(
                f"{split}: {counts['documents']:,} documents, {counts['tokens']:,} tokens "
                f"({counts['bytes'] / counts['tokens']:.2f} bytes each), {counts['bytes'] / 1e6:,.1f} MB of text"
            )
    left_out, seconds = manifest["left_out"], time.perf_counter() - started
    if any(left_out.values()):
        lines.append(
            f"left out: {left_out['duplicates']:,} training documents that are validation documents, "
            f"{left_out['unreadable']:,} unreadable records; see {prepared.folder / LEFT_OUT}"
        )
    lines.append(
        f"in {prepared.folder} after {seconds:,.1f} s; train on it with data.train={prepared.folder}"
    )
    return "\n".join(lines)


def check_command(sources: Sequence[str], validation: Sequence[str] | None, tokenizer: str | None) -> str:
    """Check all content of token files; with `tokenizer`, also that ids are in its vocabulary. Return a summary.

    Raises:
        LoopwayError: files are damaged, or differ from their manifest.
    """
    if not sources:
        raise ConfigError("nothing to check; name prepared folders or .bin files")
    return inspect(sources, validation, vocabulary_size(load_tokenizer(tokenizer)) if tokenizer else None)
