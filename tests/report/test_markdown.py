"""Tables in Markdown: names to the left, numbers to the right."""

from loopway.report.markdown import markdown_table


def test_a_table_has_a_rule_that_aligns_its_columns() -> None:
    rows = [["a", "b", "1"], ["c", "d", "2"]]
    assert markdown_table(["x", "y", "n"], rows, left=2).splitlines() == [
        "| x | y | n |",
        "| :-- | :-- | --: |",
        "| a | b | 1 |",
        "| c | d | 2 |",
    ]
