"""Markdown tables."""

__all__ = ["markdown_table"]


def markdown_table(header, rows, text_columns=1):
    """
    Args:
        header (sequence[str]):
        rows (iterable[sequence]): cells, as `str` has them.
        text_columns (int): so many first columns are text, the others numbers, to the right.

    Returns:
        str: without a newline at its end.
    """
    rule = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, rule, *rows))
