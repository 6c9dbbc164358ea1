"""Format numbers with their significant digits only, and mark which direction is better.

Knows nothing of what is measured.
"""

import math

UP, DOWN = "↑", "↓"
"""Marks for a column's head: higher is better, lower is better."""
NOTHING = "–"
"""Mark for a missing number."""
_MOST_PLACES = 6
_NO_ERROR = 1e-9  # relative errors below are those of rounding


def plain(value: float | None, places: int = 3, *, sign: bool = False) -> str:
    """Return a number with ``places`` decimals, or with two significant digits if these decimals would show 0."""
    if value is None or math.isnan(value):
        return NOTHING
    if 0 < abs(value) < 10**-places:
        text = f"{abs(value):.2g}"
    elif abs(value) < 1e6:
        text = f"{abs(value):,.{places}f}"
    else:
        text = f"{abs(value):.2e}"
    return _sign(value, sign and text.strip("0.") != "") + text


def measured(value: float | None, error: float | None, places: int = 3, *, sign: bool = False) -> str:
    """Return ``value ± error``, both rounded to the error's significant digits.

    An error has two significant digits if they are below 36, else one (the Particle Data Group's rule: rounding changes
    it by less than a seventh). Without an error, or with an error of 0, the result is that of :func:`plain`.
    """
    if value is None or error is None or not math.isfinite(error) or error <= 0 or not math.isfinite(value):
        return plain(value, places, sign=sign)
    if error < _NO_ERROR * abs(value):
        return plain(value, places, sign=sign)
    decimals = _error_places(error)
    if decimals > _MOST_PLACES or max(abs(value), error) >= 1e6:
        exponent = math.floor(math.log10(max(abs(value), error)))
        return f"{_sign(value, sign)}{abs(value):.{max(decimals + exponent, 0)}e} ± {error:.1e}"
    decimals = max(decimals, 0)
    value = round(value, decimals)
    return f"{_sign(value, sign)}{abs(value):,.{decimals}f} ± {error:,.{decimals}f}"


def _error_places(error: float) -> int:
    exponent = math.floor(math.log10(error))
    return (1 if round(error / 10 ** (exponent - 1), 6) < 35.5 else 0) - exponent


def rounded(value: float, digits: int = 3) -> float:
    """Round a number to ``digits`` significant digits."""
    return value if value == 0 else round(value, digits - 1 - math.floor(math.log10(abs(value))))


def _sign(value: float, always: bool) -> str:
    return "−" if value < 0 else "+" if always else ""
