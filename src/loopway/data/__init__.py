"""Text to tokens to fixed-length samples. Knows nothing of models, training or the command line.

Names load what they need when they are first used: the processes that encode text need neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopway.data.config import DataConfig, HubDataset, PreparationConfig, TokenSource
    from loopway.data.folder import PreparedData
    from loopway.data.opening import RunData, open_data
    from loopway.data.preparation.prepare import prepare
    from loopway.data.tokens.file import TokenFile
    from loopway.data.tokens.samples import Source, TokenSamples
    from loopway.data.tokens.writer import TokenWriter, write_token_file

_HOMES = {
    "DataConfig": "config",
    "HubDataset": "config",
    "PreparationConfig": "config",
    "PreparedData": "folder",
    "RunData": "opening",
    "Source": "tokens.samples",
    "TokenFile": "tokens.file",
    "TokenSamples": "tokens.samples",
    "TokenSource": "config",
    "TokenWriter": "tokens.writer",
    "open_data": "opening",
    "prepare": "preparation.prepare",
    "write_token_file": "tokens.writer",
}

__all__ = [
    "DataConfig",
    "HubDataset",
    "PreparationConfig",
    "PreparedData",
    "RunData",
    "Source",
    "TokenFile",
    "TokenSamples",
    "TokenSource",
    "TokenWriter",
    "open_data",
    "prepare",
    "write_token_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
