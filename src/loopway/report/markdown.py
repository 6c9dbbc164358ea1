"""Tables in GitHub's Markdown. Knows nothing of what is in them."""

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a table without a line break at its end; its first `left` columns are aligned to the left."""
    rule = [":--"] * left + ["--:"] * (len(heads) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *rows))
