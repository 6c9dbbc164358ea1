"""Text to tokens to fixed-length samples. Knows nothing of models, training or the command line."""

from loopway.data.config import DataConfig, HubDataset
from loopway.data.packing import PackedSamples
from loopway.data.preparation import PreparedData, prepare
from loopway.data.samples import Source, TokenSamples
from loopway.data.token_file import TokenFile
from loopway.data.token_writer import write_token_file

__all__ = [
    "DataConfig",
    "HubDataset",
    "PackedSamples",
    "PreparedData",
    "Source",
    "TokenFile",
    "TokenSamples",
    "prepare",
    "write_token_file",
]
