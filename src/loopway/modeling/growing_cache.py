"""A KV cache that is written in place: a new token doesn't copy the keys and values of earlier tokens.

Knows nothing of stages; each stage accesses its entries through a StageCache.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Spare room in tokens: at least 64, or a quarter of the present length.
_SPARE_TOKENS, _SPARE_SHARE = 64, 4


def let_grow(cache: DynamicCache) -> None:
    """Give an empty cache layers that reserve spare room; layers with a sliding window stay transformers' own."""
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]


class GrowingLayer(DynamicLayer):
    """Cache layer whose ``keys`` and ``values`` are the filled part of larger blocks, ``[batch, heads, seq, head_dim]``."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values; return all of them, as views of the blocks."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            # In-place writes would break earlier steps' gradients, and a compiler can't trace addresses.
            self._blocks = None
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length() + key_states.shape[-2]
        old_keys, old_values = self.keys, self.values
        assert old_keys is not None and old_values is not None
        if not self._has_room(length, key_states):
            self._blocks = None  # frees the old blocks before new ones are allocated
            spare = max(_SPARE_TOKENS, length // _SPARE_SHARE)
            self._blocks = (
                _block(old_keys, key_states, length + spare),
                _block(old_values, value_states, length + spare),
            )
        assert self._blocks is not None
        self.keys, self.values = (
            _written(block, new, length)
            for block, new in zip(self._blocks, (key_states, value_states), strict=True)
        )
        return self.keys, self.values

    def _has_room(self, length: int, new: Tensor) -> bool:
        """Return whether the new tokens fit into the blocks.

        False if keys and values no longer belong to the blocks (beam search or cropping replaces them), have another
        precision, or the blocks were made in inference mode and this call is outside it.
        """
        if self._blocks is None or self.keys is None or self.values is None:
            return False
        is_theirs = all(
            seen.data_ptr() == block.data_ptr() and block.shape[0] == new.shape[0]
            for seen, block in zip((self.keys, self.values), self._blocks, strict=True)
        )
        block = self._blocks[0]
        is_writable = torch.is_inference_mode_enabled() or not block.is_inference()
        return is_theirs and is_writable and block.dtype == new.dtype and length <= block.shape[-2]

    def reset(self) -> None:
        super().reset()
        self._blocks = None

    def __reduce__(self) -> tuple[type[DynamicLayer], tuple[()], dict[str, Any]]:
        """Copy and pickle the filled part as transformers' own layer: an exported program's cache must not be ours."""
        state = {name: value for name, value in vars(self).items() if name != "_blocks"}
        if self.keys is not None and self.values is not None:
            state |= {"keys": self.keys.contiguous(), "values": self.values.contiguous()}
        return DynamicLayer, (), state


def _block(seen: Tensor, new: Tensor, length: int) -> Tensor:
    """Return a block for ``length`` tokens that begins with the tokens already seen."""
    dtype = torch.promote_types(seen.dtype, new.dtype) if seen.numel() else new.dtype
    block = new.new_empty((*new.shape[:-2], length, new.shape[-1]), dtype=dtype)
    if seen.numel():
        block[..., : seen.shape[-2], :] = seen
    return block


def _written(block: Tensor, new: Tensor, length: int) -> Tensor:
    """Write the new tokens so that the filled part ends at ``length``; return the filled part."""
    block[..., length - new.shape[-2] : length, :] = new
    return block[..., :length, :]
