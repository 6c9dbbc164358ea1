"""A number shows the digits that its uncertainty leaves meaning, and no more."""

import math

import numpy as np
import pytest

from loopway.report.numbers import measured, plain, rounded


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (4.24331, 0.01234, "4.243 ± 0.012"),
        (4.24331, 0.0049, "4.243 ± 0.005"),
        (4.24331, 0.0354, "4.243 ± 0.035"),
        (4.24331, 0.0355, "4.24 ± 0.04"),
        (4.24331, 0.096, "4.24 ± 0.10"),
        (64.312, 1.12, "64.3 ± 1.1"),
        (1234.5, 67.0, "1,234 ± 67"),
        (-0.0477, 0.0052, "−0.048 ± 0.005"),
        (0.5, 2.5, "0.5 ± 2.5"),
        (-0.0004, 0.03, "0.000 ± 0.030"),
        (1.0, 1.7e-16, "1.000"),
        (1e-9, 3e-10, "1.00e-09 ± 3.0e-10"),
        (1.5e8, 2e6, "1.500e+08 ± 2.0e+06"),
        (4.24331, 0.0, "4.243"),
        (4.24331, math.nan, "4.243"),
        (4.24331, None, "4.243"),
        (math.nan, 0.1, "–"),
        (None, None, "–"),
    ],
)
def test_an_error_has_one_or_two_digits_and_its_value_as_many_decimals(
    value: float | None, error: float | None, shown: str
) -> None:
    assert measured(value, error) == shown


def test_rounding_changes_a_value_by_far_less_than_its_error() -> None:
    draw = np.random.default_rng(0)
    for value, error in zip(draw.normal(0, 3, 300), 10 ** draw.uniform(-5, 1, 300), strict=True):
        shown, shown_error = (float(part.replace("−", "-")) for part in measured(value, error).split(" ± "))
        assert abs(shown - value) <= 0.15 * error and abs(shown_error - error) <= 0.15 * error
        digits = measured(1.0, error).partition(" ± ")[2].replace(".", "").lstrip("0")
        assert 1 <= len(digits) <= 2 or error >= 10


def test_a_number_without_error_has_the_decimals_that_are_asked_for() -> None:
    assert [plain(4.24331, places) for places in (1, 2, 4)] == ["4.2", "4.24", "4.2433"]
    assert plain(0.00012345) == "0.00012"  # 0.000 would say nothing
    assert plain(1_234_567.0) == "1.23e+06" and plain(12_345.678, 1) == "12,345.7"
    assert [plain(value, 2, sign=True) for value in (0.25, -0.25, 0.0)] == ["+0.25", "−0.25", "0.00"]
    assert [rounded(value) for value in (11_499.2, 0.0123456, 0.0)] == [11_500, 0.0123, 0]
