"""Tables in Markdown, LaTeX and HTML say the same, whatever a name has in it."""

import csv
import io

import pytest

from sparsercnn.sweep.document import Document, Picture, Section, Table
from sparsercnn.sweep.formatting import difference, interval, mean_and_deviation, probability
from sparsercnn.sweep.markup import runs_csv, to_latex, to_markdown, variants_csv
from sparsercnn.sweep.page import to_html
from sparsercnn.sweep.results import gather_results
from sparsercnn.sweep.significance import compare_variants

TABLE = Table(["variant", "AP"], [["a|b_<c>", "1.00 ± 0.50"], ["50 %", "−2.00"]])
PICTURE = Picture("dots.png", b"\x89PNG", "every run")
DOCUMENT = Document("A & B", [Section("Runs", ["All."], "run x", TABLE, [PICTURE], ["Legend."])])


def test_markdown():
    assert to_markdown(DOCUMENT) == (
        "# A & B\n\n## Runs\n\nAll.\n\n```bash\nrun x\n```\n\n![every run](dots.png)\n\n"
        "| variant | AP |\n| --- | --: |\n| a\\|b_\\<c> | 1.00 ± 0.50 |\n| 50 % | −2.00 |\n\n"
        "- Legend.\n"
    )


def test_latex():
    text = to_latex(DOCUMENT)
    assert "\\begin{tabular}{lr}\n  \\toprule\n  variant & AP \\\\\n  \\midrule\n" in text
    assert "  a\\textbar{}b\\_$<$c$>$ & 1.00 $\\pm$ 0.50 \\\\\n" in text
    assert "  50 \\% & $-$2.00 \\\\\n" in text
    assert "% Runs\n% All.\n% Legend.\n" in text


def test_latex_escapes_a_backslash_once():
    table = Table([r"a\b", "n"], [["[x]", "{~^}"]])
    text = to_latex(Document("", [Section("", table=table)]))
    assert r"a\textbackslash{}b & n" in text
    assert r"{[}x{]} & \{\textasciitilde{}\textasciicircum{}\}" in text


def test_html_needs_nothing_beside_it():
    page = to_html(DOCUMENT)
    assert '<td class="text">a|b_&lt;c&gt;</td><td>1.00 ± 0.50</td>' in page
    assert "<h1>A &amp; B</h1>" in page and "<pre>run x</pre>" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page
    for outside in ("http:", "https:", "<script", "<link", "url("):
        assert outside not in page


def test_html_colours_go_from_one_end_to_the_other():
    table = Table(["class", "a", "b", "c", "d"], [["x", "", "", "", ""]])
    table.shades = [[None, -1.0, 0.0, 0.5, None]]
    page = to_html(Document("", [Section("", table=table)]))
    assert page.count("background-color: rgb") == 3
    for colour in ("rgb(244, 165, 110)", "rgb(255, 255, 255)", "rgb(188, 218, 240)"):
        assert f'<td style="background-color: {colour}"></td>' in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "+1.23"), (-1.235001, "−1.24"), (0.001, "0.00"), (-0.001, "0.00"), (None, "")],
)
def test_a_difference_has_its_sign(value, text):
    assert difference(value) == text


def test_numbers():
    assert mean_and_deviation([]) == ""
    assert mean_and_deviation([1234.5]) == "1,234.50"
    assert mean_and_deviation([1.0, 3.0]) == "2.00 ± 1.41"  # sqrt(2), not 1
    assert interval(-1.0, 2.0) == "−1.00 to +2.00" and interval(None, None) == ""
    assert [probability(p) for p in (None, 0.0004, 0.0006, 1.0)] == [
        "",
        "< 0.001",
        "0.001",
        "1.000",
    ]


def test_csv_has_unrounded_numbers(make_sweep, finish):
    sweep = make_sweep(variants={"a, b": {}, "c": {}}, seeds=[1, 2])
    finish(sweep, "a, b", [1 / 3, 2 / 3], **{"bbox/AP-dog": 0.125})
    results = gather_results(sweep)
    text = variants_csv(results, compare_variants(results), {})
    first, second = csv.DictReader(io.StringIO(text))
    assert first["variant"] == "a, b" and first["exceeds_noise"] == "baseline"
    assert float(first["bbox/AP"]) == 0.5
    assert float(first["bbox/AP sd"]) == pytest.approx(2**0.5 / 6)
    assert (second["seeds"], second["bbox/AP"], second["exceeds_noise"]) == ("0", "", "no pair")
    rows = list(csv.DictReader(io.StringIO(runs_csv(results))))
    assert [(r["variant"], r["seed"], r["state"]) for r in rows] == [
        ("a, b", "1", "finished"),
        ("c", "1", "waiting"),
        ("a, b", "2", "finished"),
        ("c", "2", "waiting"),
    ]
    assert (rows[0]["bbox/AP-dog"], rows[0]["iterations"]) == ("0.125", "60")
