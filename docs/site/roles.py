"""Turn Sphinx's marks in docstrings into Markdown: ":class:" before a name becomes a link of the API reference.

An extension of griffe, which reads the package's sources without importing them.
"""

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]  # in the site's own environment only

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([\w.]+)`")


class Roles(griffe.Extension):
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            text = re.sub(r"::$", ":", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = _ROLE.sub(lambda role: _link(role[1], obj), text)


def _link(name: str, place: Any) -> str:
    """A name as a link to where the reference shows it; only code where it doesn't."""
    try:
        path = place.resolve(name)
    except griffe.NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
