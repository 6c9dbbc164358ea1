"""Arguments of ``generate`` for a compiled decoding step, which pays off for many tokens of one shape.

Knows nothing of a model but its device.
"""

from typing import Any

from torch import nn
from transformers import CompileConfig

from loopway.errors import ConfigError


def compiled_decoding(model: nn.Module) -> dict[str, Any]:
    """Return keyword arguments of ``model.generate`` that decode each new token with compiled code, on GPU or CPU.

    The first call compiles for its batch size and length: half a minute for 12 layers. Later calls of the same shape
    don't compile. A CPU needs a C++ compiler. The cache has a fixed length, with separate entries for every stage.

    Raises:
        ConfigError: the model is on a CPU and there is no C++ compiler.

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
