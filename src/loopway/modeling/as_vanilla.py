"""View a family's own model as a recursive model of one segment, to use code for recursive models on it.

Knows only layouts of a single segment.
"""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from loopway.modeling.building import recursive_config
from loopway.modeling.stack import find_stack


def as_vanilla(model: PreTrainedModel) -> PreTrainedModel:
    """Return a family's own causal LM as a recursive model of a single segment.

    The two share their modules without copies and give the same logits, bit for bit.

    Raises:
        FamilyError: the family isn't supported.
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
