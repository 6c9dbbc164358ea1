"""Colours of a page, and how they contrast (WCAG)."""

import re
from pathlib import Path

from loopway.report import page


def luminance(color: str) -> float:
    """WCAG's relative luminance of #rgb or #rrggbb."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def page_modes() -> list[dict[str, str]]:
    """The variables of a page in light, in the dark, and in print."""
    style = Path(page.__file__).with_name("page.css").read_text()
    modes = [
        dict(re.findall(r"--(\S+): (#\w+);", mode))
        for mode in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    ]
    return [modes[0] | mode for mode in modes]


def page_colors(*, dark: bool) -> dict[str, str]:
    """The variables of a page, by name."""
    return page_modes()[dark]
