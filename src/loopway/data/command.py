"""What `loopway prepare` does with its options, and what it says in the end.

Knows nothing of how text is prepared or token files are checked.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loopway.checks import config_error
from loopway.data.config import PreparationConfig
from loopway.data.folder import LEFT_OUT, PreparedData
from loopway.data.inspection import inspect
from loopway.data.preparation.prepare import prepare
from loopway.data.tokenizer import load_tokenizer, vocabulary_size
from loopway.errors import ConfigError


def prepare_command(fields: dict[str, Any], out: Path | None, processes: int | None) -> str:
    """Prepare text; `fields` are those of :class:`PreparationConfig`. Returns what there is now.

    Raises:
        LoopwayError: a mistake in the options or the text.
    """
    if not fields["train"]:
        raise ConfigError(
            "nothing to prepare; name files, folders or globs, or give --dataset; see loopway prepare --help"
        )
    if out is None:
        raise ConfigError(
            "give --out, the folder to make; for example loopway prepare texts/ --out data/texts"
        )
    try:
        config = PreparationConfig(**fields)
    except ValidationError as error:
        raise config_error(error, "data", PreparationConfig) from None
    out, started = out.expanduser(), time.perf_counter()
    return _described(prepare(config, out, processes=processes), time.perf_counter() - started)


def check_command(sources: Sequence[str], validation: Sequence[str] | None, tokenizer: str | None) -> str:
    """Read token files whole; with `tokenizer`, ids must be in its vocabulary. Returns what was found.

    Raises:
        LoopwayError: they are damaged, or not what their manifest says.
    """
    if not sources:
        raise ConfigError("nothing to check; name prepared folders or .bin files")
    vocab_size = vocabulary_size(load_tokenizer(tokenizer)) if tokenizer else None
    return inspect(sources, validation, vocab_size).text()


def _described(prepared: PreparedData, seconds: float) -> str:
    manifest, lines = prepared.manifest, [prepared.notice] if prepared.notice else []
    for half in ("train", "validation"):
        if counts := manifest[half]:
            ratio = counts["bytes"] / counts["tokens"]
            lines.append(
                f"{half}: {counts['documents']:,} documents, {counts['tokens']:,} tokens "
                f"({ratio:.2f} bytes each), {counts['bytes'] / 1e6:,.1f} MB of text"
            )
    left_out = manifest["left_out"]
    if any(left_out.values()):
        lines.append(
            f"left out: {left_out['duplicates']:,} training documents that are validation documents, "
            f"{left_out['unreadable']:,} unreadable records; see {prepared.folder / LEFT_OUT}"
        )
    lines.append(
        f"in {prepared.folder} after {seconds:,.1f} s; train on it with data.train={prepared.folder}"
    )
    return "\n".join(lines)
