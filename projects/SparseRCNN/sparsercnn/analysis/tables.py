"""Numbers as tables have them, and tables as Markdown, LaTeX and HTML."""

import html
import math

from tabulate import tabulate

__all__ = ["difference", "html_table", "interval", "latex_table", "markdown_table", "number"]
__all__ += ["probability"]

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"|": r"\textbar{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "×": r"$\times$"}
_LATEX |= {"[": "{[}", "]": "{]}"}  # a row that begins with one would be taken for an option of \\


def number(value, digits=2):
    """A number (float) as text; empty if it is NaN."""
    return "" if math.isnan(value) else f"{value:,.{digits}f}".replace("-", "−")


def difference(value):
    """A number with its sign; what rounds to zero has none."""
    text = number(abs(value))
    sign = "−" if value < 0 else "+"
    return f"{sign}{text}" if text.strip("0.") else text


def interval(low, high):
    """Such as "+0.10 to +2.30"; empty if it is NaN."""
    return "" if math.isnan(low) else f"{difference(low)} to {difference(high)}"


def probability(p):
    """Three digits, or "< 0.001"; empty if it is NaN."""
    return "< 0.001" if p < 0.0005 else number(p, 3)


def markdown_table(header, rows, text_columns=1):
    """Format a Markdown table, without a newline at its end.

    Args:
        header (sequence[str]): column names.
        rows (iterable[sequence]): cells, converted by :func:`str`.
        text_columns (int): number of leading text columns, aligned left; others are aligned right.
    """
    align = ["left"] * text_columns + ["right"] * (len(header) - text_columns)
    rows = [[str(cell) for cell in row] for row in rows]
    return tabulate(rows, header, "pipe", disable_numparse=True, colalign=align)


def latex_table(table, text_columns=1):
    """
    Args:
        table (DataFrame): of str.
        text_columns (int): as of :func:`markdown_table`.

    Returns:
        str: a `tabular` of the package booktabs.
    """
    columns = "l" * text_columns + "r" * (table.shape[1] - text_columns)
    style = _style(table, lambda text: text.translate(str.maketrans(_LATEX)))
    return style.to_latex(column_format=columns, hrules=True).strip()


def html_table(table, text_columns=1, shades=None):
    """A table as HTML.

    Args:
        table (DataFrame): of str.
        text_columns (int): as of :func:`markdown_table`.
        shades (ndarray): for each cell from -1 to 1, or NaN; None: cells have no colour.
    """
    left = [f".col{i}" for i in range(text_columns)]
    style = _style(table, html.escape)
    style = style.set_table_styles([{"selector": x, "props": "text-align: left"} for x in left])
    if shades is not None:
        from matplotlib.colors import LinearSegmentedColormap  # slow

        # Ends that colour-blind readers can tell apart, and light: text is on them.
        colours = ["#f4a56e", "white", "#78b4e1"]
        colours = LinearSegmentedColormap.from_list("shades", colours).with_extremes(bad="white")
        style = style.background_gradient(colours, axis=None, vmin=-1, vmax=1, gmap=shades)
    return style.to_html()


def _style(table, escape):
    """A Styler; the columns are numbered, since it refuses two of the same name."""
    style = table.set_axis(range(table.shape[1]), axis=1).style.hide(axis="index").format(escape)
    return style.format_index(lambda i: escape(table.columns[i]), axis=1)
