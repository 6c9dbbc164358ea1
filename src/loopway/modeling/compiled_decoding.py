"""Generation with a compiled decoding step, for many tokens of one shape: what a user passes to ``generate``.

Knows nothing of models but where they are.
"""

from typing import Any

from torch import nn
from transformers import CompileConfig

from loopway.errors import ConfigError


def compiled_decoding(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments of ``model.generate`` under which each new token runs compiled code, on a CPU, too.

    The first call compiles for its batch size and length, which takes half a minute for 12 layers and, on a CPU, a C++
    compiler; later ones of the same shape don't. The cache has a fixed length, every stage its own part of it.

    Raises:
        ConfigError: on a CPU without a C++ compiler.

    Example::

        model.generate(input_ids, max_new_tokens=500, **loopway.compiled_decoding(model))
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu:
        from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise ConfigError(
                "compiling for a CPU needs a C++ compiler, and none was found: install g++, name one in the "
                "environment variable CXX, or generate without compiling"
            ) from None
    config = CompileConfig(mode="default" if on_cpu else "reduce-overhead")
    config._compile_all_devices = True  # type: ignore[assignment]  # transformers' own way to compile on a CPU
    return {"cache_implementation": "static", "compile_config": config}
