"""Short labels of models for tables and figures."""

from collections.abc import Sequence


def model_labels(names: Sequence[str]) -> list[str]:
    """Return the last part of each name, with as many more parts as needed to distinguish it from others.

    Repeated names get a number.
    """
    parts = [[part for part in name.split("/") if part] or [name] for name in names]
    labels = []
    for number, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next(
            (n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own)
        )
        earlier = parts[:number].count(own)
        labels.append("/".join(own[-length:]) + (f" ({earlier + 1})" if earlier else ""))
    return labels
