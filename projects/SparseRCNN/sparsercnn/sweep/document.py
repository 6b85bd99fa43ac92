"""A report as data: what Markdown, LaTeX and HTML are written from."""

from dataclasses import dataclass, field

__all__ = ["Document", "Picture", "Section", "Table"]


@dataclass
class Table:
    """
    Attributes:
        header (list[str]):
        rows (list[list[str]]): the first cell names the row.
        shades (list[list[float]]): of HTML, for each cell: from -1 to 1, colours of a diverging
            map; None: no colour. None: no cell has one.
        text_columns (int): so many first columns are text, the others numbers.
    """

    header: list
    rows: list
    shades: list | None = None
    text_columns: int = 1


@dataclass
class Picture:
    """
    Attributes:
        name (str): of the file.
        png (bytes):
        description (str): for those who cannot see it.
    """

    name: str
    png: bytes
    description: str


@dataclass
class Section:
    """
    Attributes:
        title (str): empty: none.
        before (list[str]): paragraphs above what follows.
        code (str): a command.
        table (Table):
        pictures (list[Picture]):
        after (list[str]): paragraphs below; those of a table are its legend.
    """

    title: str
    before: list = field(default_factory=list)
    code: str = ""
    table: Table | None = None
    pictures: list = field(default_factory=list)
    after: list = field(default_factory=list)


@dataclass
class Document:
    """
    Attributes:
        title (str):
        sections (list[Section]):
    """

    title: str
    sections: list
