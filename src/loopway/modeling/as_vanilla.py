"""A family's own model as a recursive one, so that what is made for recursive models can be held to it too.

Knows nothing of other layouts than that of a single segment.
"""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from loopway.modeling.building import recursive_config
from loopway.modeling.stack import find_stack


def as_vanilla(model: PreTrainedModel) -> PreTrainedModel:
    """The recursive model of a single segment that a family's own causal LM is.

    The two share their modules, so nothing is copied, and give the same logits, bit for bit.

    Raises:
        FamilyError: an unsupported family.
    """
    depth = str(model.config.num_hidden_layers)
    config = recursive_config(model.config, layout=depth, scale_embeddings=False)
    with torch.device("meta"):
        vanilla = AutoModelForCausalLM.from_config(
            config, attn_implementation=model.config._attn_implementation
        )
    layers = model.base_model.layers
    find_stack(vanilla).layers = layers  # type: ignore[assignment]
    for name, module in model.base_model.named_children():
        if module is not layers:
            vanilla.base_model.set_submodule(name, module)
    vanilla.set_output_embeddings(model.get_output_embeddings())
    return vanilla.train(model.training)
