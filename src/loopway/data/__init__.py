"""Text to tokens to fixed-length samples. Knows nothing of models, training or the command line.

Names load what they need when they are first used: the processes that encode text need neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopway.data.config import DataConfig, HubDataset, PreparationConfig, TokenSource
    from loopway.data.loading import RunData, open_data
    from loopway.data.preparation import prepare
    from loopway.data.prepared import PreparedData
    from loopway.data.samples import Source, TokenSamples
    from loopway.data.token_file import TokenFile
    from loopway.data.token_writer import TokenWriter, write_token_file

_HOMES = {
    "DataConfig": "config",
    "HubDataset": "config",
    "PreparationConfig": "config",
    "PreparedData": "prepared",
    "RunData": "loading",
    "Source": "samples",
    "TokenFile": "token_file",
    "TokenSamples": "samples",
    "TokenSource": "config",
    "TokenWriter": "token_writer",
    "open_data": "loading",
    "prepare": "preparation",
    "write_token_file": "token_writer",
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
