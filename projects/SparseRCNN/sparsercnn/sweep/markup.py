"""A report as Markdown, LaTeX and CSV."""

import csv
import io
import re
import statistics

from ..analysis import markdown_table

__all__ = ["to_latex", "to_markdown", "runs_csv", "variants_csv"]


def to_markdown(document):
    """
    Args:
        document (Document): its pictures are linked to, beside the file.

    Returns:
        str:
    """
    blocks = [f"# {_markdown(document.title)}"]
    for section in document.sections:
        blocks += [f"## {_markdown(section.title)}"] if section.title else []
        blocks += map(_markdown, section.before)
        blocks += [f"```bash\n{section.code}\n```"] if section.code else []
        blocks += [f"![{_markdown(p.description)}]({p.name})" for p in section.pictures]
        blocks += [_markdown_table(section.table)] if section.table else []
        blocks += ["\n".join(f"- {_markdown(text)}" for text in section.after)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _markdown_table(table):
    header, *rows = ([_markdown(cell) for cell in row] for row in (table.header, *table.rows))
    return markdown_table(header, rows, table.text_columns)


def _markdown(text):
    return re.sub(r"([\\|*<`\[\]])", r"\\\1", " ".join(text.split()))


def to_latex(document):
    """
    Args:
        document (Document):

    Returns:
        str: a `tabular` of the package booktabs for each table that has numbers, between comments.
    """
    blocks = [f"% {_one_line(document.title)}\n% \\usepackage{{booktabs}} in the preamble."]
    for section in document.sections:
        table = section.table
        if table and table.text_columns < len(table.header):
            legend = "".join(f"\n% {_one_line(text)}" for text in (*section.before, *section.after))
            blocks.append(f"% {_one_line(section.title)}{legend}\n{_tabular(table)}")
    return "\n\n".join(blocks) + "\n"


def _tabular(table):
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    header, *rows = (
        f"  {' & '.join(map(_latex, row))} \\\\" for row in (table.header, *table.rows)
    )
    lines = [f"\\begin{{tabular}}{{{columns}}}", "  \\toprule", header, "  \\midrule", *rows]
    return "\n".join([*lines, "  \\bottomrule", "\\end{tabular}"])


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    # A row that begins with a bracket would be taken for an option of \\.
    "[": "{[}",
    "]": "{]}",
}


def _latex(text):
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text):
    return " ".join(text.split())


def runs_csv(results):
    """
    Args:
        results (SweepResults):

    Returns:
        str: a row for each run, with all its metrics, those of classes too, unrounded.
    """
    metrics = sorted({name for r in results.runs for name in r.metrics})
    axes = list(results.sweep.axes)
    header = ["variant", *axes, "seed", "state", "iterations", *metrics]
    header += ["seconds_per_iteration", "gpu_memory_mib", "host_memory_mib"]
    rows = [
        [
            r.run.variant.name,
            *(r.run.variant.levels[axis] for axis in axes),
            r.run.seed,
            r.state.state,
            r.state.result["iteration"] if r.metrics else r.state.iteration,
            *(r.metrics.get(name) for name in metrics),
            r.seconds,
            r.gpu_memory,
            r.host_memory,
        ]
        for r in results.runs
    ]
    return _csv(header, rows)


def variants_csv(results, comparisons, costs):
    """
    Args:
        results (SweepResults):
        comparisons (dict[str, Comparison]): by the variant's name.
        costs (dict[str, VariantCost]): likewise.

    Returns:
        str: a row for each variant, unrounded.
    """
    sweep = results.sweep
    header = ["variant", *sweep.axes, "seeds"]
    header += [name for metric in results.metrics for name in (metric, f"{metric} sd")]
    header += ["difference", "low_95", "high_95", "pairs", "p", "p_holm", "exceeds_noise"]
    header += ["trained_parameters", "multiply_adds", "seconds_per_iteration"]
    header += ["gpu_memory_mib", "host_memory_mib"]
    rows = []
    for variant in sweep.variants:
        runs = list(results.of_variant(variant.name).values())
        row = [variant.name, *(variant.levels[axis] for axis in sweep.axes), len(runs)]
        for metric in results.metrics:
            values = list(results.values(variant.name, metric).values())
            row += [_mean(values), statistics.stdev(values) if len(values) > 1 else None]
        compared = comparisons.get(variant.name)
        if compared is None:
            row += [None] * 6 + ["baseline"]
        else:
            test = compared.test
            row += [test.difference, test.low, test.high, test.pairs, test.p, compared.p_holm]
            row.append(compared.verdict)
        cost = costs.get(variant.name)
        row += [cost.trainable, cost.flops] if cost else [None, None]
        row += [_mean([getattr(r, name) for r in runs]) for name in _PER_RUN]
        rows.append(row)
    return _csv(header, rows)


_PER_RUN = ("seconds", "gpu_memory", "host_memory")


def _mean(values):
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _csv(header, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
