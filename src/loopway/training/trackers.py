"""``training.report_to``: experiment trackers of transformers and plugins. Knows nothing of what they log."""

from transformers.integrations import integration_utils
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from loopway.checks import not_among
from loopway.errors import ConfigError
from loopway.training.extensions import TRACKERS

# What transformers calls them in `is_..._available`, and their package, where these aren't the tracker's own name.
_OTHER_NAMES = {
    "azure_ml": ("azureml", "azureml-sdk"),
    "comet_ml": ("comet", "comet-ml"),
    "flyte": ("flytekit", "flytekit"),
}


def tracker_names(report_to: str | list[str] | None) -> list[str]:
    """Return the trackers that a run reports to, without TensorBoard, which every run has.

    Args:
        report_to: a name, several, "all" (that are installed) or "none".

    Raises:
        ConfigError: a name that neither transformers nor a plugin knows, or whose package isn't installed.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    if "all" in names:
        names = get_available_reporting_integrations()
    names = [name for name in names if name not in ("tensorboard", "none")]
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise not_among("training.report_to", name, [*INTEGRATION_TO_CALLBACK, "all", "none"])
        if name in TRACKERS:
            continue
        known_as, package = _OTHER_NAMES.get(name, (name, name))
        if not getattr(integration_utils, f"is_{known_as}_available")():
            raise ConfigError(
                f"training.report_to: {name} is not installed, or not set up: pip install {package}, or omit it"
            )
    return names
