"""Tables in Markdown, LaTeX and HTML say the same, whatever a name has in it."""

import numpy as np
import pandas as pd
import pytest

from sparsercnn.analysis.document import Picture, Section, to_html, to_latex, to_markdown
from sparsercnn.analysis.tables import difference, interval, markdown_table, number, probability

NAN = float("nan")
TABLE = pd.DataFrame([["a|b_<c>", "1.00 ± 0.50"], ["50 %", "−2.00"]], columns=["variant", "AP"])
PICTURE = Picture("dots.png", b"\x89PNG", "every run")
SECTIONS = [Section("Runs", "All.", TABLE, ["Legend."], [PICTURE], "run x")]


def test_markdown():
    assert to_markdown("A & B", SECTIONS) == (
        "# A & B\n\n## Runs\n\nAll.\n\n```bash\nrun x\n```\n\n![every run](dots.png)\n\n"
        "| variant   |          AP |\n|:----------|------------:|\n"
        "| a\\|b_\\<c> | 1.00 ± 0.50 |\n| 50 %      |       −2.00 |\n\n- Legend.\n"
    )


def test_a_markdown_table_keeps_its_cells_as_they_are():
    table = markdown_table(["a", "b", "c"], [["1.50", "x", 2.0], ["1e3", "", None]], 2)
    assert table.splitlines() == [
        "| a    | b   |    c |",
        "|:-----|:----|-----:|",
        "| 1.50 | x   |  2.0 |",
        "| 1e3  |     | None |",
    ]


def test_latex():
    text = to_latex("A & B", SECTIONS)
    assert "\\begin{tabular}{lr}\n\\toprule\nvariant & AP \\\\\n\\midrule\n" in text
    assert "\na\\textbar{}b\\_$<$c$>$ & 1.00 $\\pm$ 0.50 \\\\\n" in text
    assert "\n50 \\% & $-$2.00 \\\\\n" in text
    assert "% Runs\n% Legend.\n" in text


def test_latex_escapes_a_backslash_once():
    table = pd.DataFrame([["[x]", "{~^}"]], columns=[r"a\b", "{0}"])
    text = to_latex("", [Section(table=table)])
    assert r"a\textbackslash{}b & \{0\}" in text
    assert r"{[}x{]} & \{\textasciitilde{}\textasciicircum{}\}" in text


def test_a_table_of_text_alone_is_not_for_latex():
    assert "tabular" not in to_latex("", [Section(table=TABLE, text_columns=2)])


def test_html_needs_nothing_beside_it():
    page = to_html("A & B", SECTIONS)
    assert "a|b_&lt;c&gt;</td>" in page and "1.00 ± 0.50</td>" in page
    assert "<h1>A &amp; B</h1>" in page and "<pre>run x</pre>" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page
    for outside in ("http:", "https:", "<script", "<link", "url("):
        assert outside not in page


def test_two_columns_may_have_the_same_name():
    table = pd.DataFrame([["x", "+1.00", "−1.00"]], columns=["class", "class", "{b}"])
    shades = np.array([[NAN, 1.0, -1.0]])
    section = Section(table=table, shades=shades)
    assert to_html("", [section]).count(">class</th>") == 2
    assert "class & class & \\{b\\}" in to_latex("", [section])
    assert "| class   |   class |   {b} |" in to_markdown("", [section])


def test_html_colours_go_from_one_end_to_the_other():
    table = pd.DataFrame([["x", "", "", "", ""]], columns=list("nabcd"))
    shades = np.array([[NAN, -1.0, 0.0, 1.0, NAN]])
    page = to_html("", [Section(table=table, shades=shades)])
    for colour in ("#f4a56e", "#78b4e1"):
        assert page.count(f"background-color: {colour}") == 1
    assert page.count("background-color: #fffefe") + page.count("background-color: #ffffff") >= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "+1.23"), (-1.235001, "−1.24"), (0.001, "0.00"), (-0.001, "0.00"), (NAN, "")],
)
def test_a_difference_has_its_sign(value, text):
    assert difference(value) == text


def test_numbers():
    assert number(NAN) == "" and number(1234.5) == "1,234.50" and number(-2.0, 0) == "−2"
    assert interval(-1.0, 2.0) == "−1.00 to +2.00" and interval(NAN, NAN) == ""
    assert [probability(p) for p in (NAN, 0.0004, 0.0006, 1.0)] == [
        "",
        "< 0.001",
        "0.001",
        "1.000",
    ]
