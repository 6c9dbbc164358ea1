"""From text to tokens to fixed-length samples. Knows nothing of models, training or the command line.

Names are imported on first use: the processes that encode text need neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopway.data.config import DataConfig, HubDataset, PreparationConfig, TokenSource
    from loopway.data.folder import PreparedData
    from loopway.data.preparation.prepare import prepare
    from loopway.data.run_data import RunData, open_data
    from loopway.data.tokens.file import TokenFile
    from loopway.data.tokens.samples import Source, TokenSamples
    from loopway.data.tokens.writer import TokenWriter, write_token_file

__all__ = ["DataConfig", "HubDataset", "PreparationConfig", "PreparedData", "RunData", "Source", "TokenFile"]
__all__ += ["TokenSamples", "TokenSource", "TokenWriter", "open_data", "prepare", "write_token_file"]

_HOMES = {
    "config": ("DataConfig", "HubDataset", "PreparationConfig", "TokenSource"),
    "folder": ("PreparedData",),
    "run_data": ("RunData", "open_data"),
    "preparation.prepare": ("prepare",),
    "tokens.file": ("TokenFile",),
    "tokens.samples": ("Source", "TokenSamples"),
    "tokens.writer": ("TokenWriter", "write_token_file"),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value
