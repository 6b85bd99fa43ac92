"""Colours of the pictures in reports, and figures as PNG."""

import io

import matplotlib
from cycler import cycler
from matplotlib.text import Text

from .document import Picture

__all__ = ["BLACK", "COLOURS", "STYLES", "literal_texts", "plain_axes", "to_picture"]

# Okabe and Ito's, which colour-blind readers can tell apart, without their yellow, which is pale on
# white.
BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
STYLES = cycler(linestyle=["-", "--", "-.", ":"]) * cycler(color=COLOURS)


def to_picture(figure, name, description, data=None, dpi=150):
    """
    Args:
        figure (matplotlib.figure.Figure): what is drawn.
        name (str): of the file.
        description (str): for those who cannot see it.
        data (DataFrame): the numbers that are drawn.
        dpi (int): pixels per inch.

    Returns:
        Picture: as PNG.
    """
    file = io.BytesIO()
    # Labels of ticks are made while the figure is drawn.
    with matplotlib.rc_context({"text.parse_math": False}):
        literal_texts(figure).savefig(file, format="png", dpi=dpi)
    return Picture(name, file.getvalue(), description, data)


def literal_texts(figure):
    """The same figure; its texts are drawn as they are, since what is between two $ in the name of
    a class or file is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


def plain_axes(axes, **labels):
    """A light grid and no box around the axes; `labels` are those of `Axes.set`."""
    axes.grid(color="#e9e9e9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**labels)
