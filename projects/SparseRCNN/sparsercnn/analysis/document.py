"""A report, section by section, as Markdown, LaTeX and one HTML page."""

import base64
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jinja2

from .tables import html_table, latex_table, markdown_table

__all__ = ["Picture", "Section", "to_html", "to_latex", "to_markdown"]


class Picture(NamedTuple):
    """A PNG file beside the report."""

    name: str
    png: bytes
    description: str  # for those who cannot see it
    data: Any = None  # the numbers that are drawn (DataFrame)


@dataclass
class Section:
    """A part of a report."""

    title: str = ""  # the first section has none
    text: str = ""  # a paragraph
    table: Any = None  # a DataFrame of str
    notes: list = field(default_factory=list)  # below, such as a legend of the table
    pictures: list = field(default_factory=list)  # of Picture
    code: str = ""  # a command
    text_columns: int = 1  # of the table, from the left; the others are numbers
    shades: Any = None  # for each cell of the table from -1 to 1, or NaN for no colour (ndarray)
    links: list = field(default_factory=list)  # of (address, text), on a page alone


def to_markdown(title, sections):
    """The report as Markdown (str); pictures are linked to, beside the file."""
    blocks = [f"# {_markdown(title)}"]
    for section in sections:
        blocks += [f"## {_markdown(section.title)}" if section.title else ""]
        blocks += [_markdown(section.text), f"```bash\n{section.code}\n```" if section.code else ""]
        blocks += [f"![{_markdown(p.description)}]({p.name})" for p in section.pictures]
        if section.table is not None:
            table = section.table.map(_markdown).rename(columns=_markdown)
            blocks += [markdown_table(table.columns, table.to_numpy(), section.text_columns)]
        blocks += ["\n".join(f"- {_markdown(text)}" for text in section.notes)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _markdown(text):
    return re.sub(r"([\\|*<`\[\]])", r"\\\1", " ".join(text.split()))


def to_latex(title, sections):
    """The tables that have numbers (str), with their notes as comments."""
    blocks = [f"% {title}\n% \\usepackage{{booktabs}} in the preamble."]
    for section in sections:
        if section.table is not None and section.text_columns < section.table.shape[1]:
            comments = "".join(f"% {text}\n" for text in (section.title, *section.notes))
            blocks += [comments + latex_table(section.table, section.text_columns)]
    return "\n\n".join(blocks) + "\n"


def to_html(title, sections, pictures_in=None):
    """The report as one page (str).

    Args:
        title (str): of the page.
        sections (list[Section]): its parts.
        pictures_in (str): folder beside the page that has the pictures, and their data as CSV;
            None: the pictures are in the page, which needs nothing beside it.
    """
    loader = jinja2.PackageLoader("sparsercnn.analysis", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode(),
        "table": lambda x: html_table(x.table, x.text_columns, x.shades),
    }
    page = environment.get_template("page.html.j2")
    return page.render(title=title, sections=sections, pictures_in=pictures_in)
