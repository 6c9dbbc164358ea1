"""Opens a pretrained model of a supported family; what can't be retrofitted is refused before weights are read.

Knows nothing of what becomes of the model.
"""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.layout import Layout
from loopway.modeling.opening import PretrainedFolder
from loopway.retrofit.suitability import check_fits


def open_pretrained(
    name: str, layout: Layout, dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A family's own model and its tokenizer.

    Args:
        name: a folder, or a name on the Hub.
        layout: that it is to be arranged in.
        dtype: ``float32``, ``bfloat16`` or ``float16`` instead of the precision in which the weights are stored.

    Raises:
        ConfigError: it can't be opened, or files or weights are missing.
        FamilyError, LayoutError: it doesn't fit, see :func:`check_fits`.
    """
    folder = PretrainedFolder(name)
    check_fits(folder.config(), layout)
    return folder.model(every_weight=True, dtype=dtype or "auto"), folder.tokenizer()
