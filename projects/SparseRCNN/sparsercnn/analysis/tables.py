"""Markdown tables."""

__all__ = ["markdown_table"]


def markdown_table(header, rows, text_columns=1):
    """Format a Markdown table, without a newline at its end.

    Args:
        header (sequence[str]): column names.
        rows (iterable[sequence]): cells, converted by :func:`str`.
        text_columns (int): number of leading text columns, aligned left; others are aligned right.
    """
    rule = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, rule, *rows))
