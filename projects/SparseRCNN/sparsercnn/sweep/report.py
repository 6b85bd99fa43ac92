"""The report of a sweep: tables, pictures and a page, from its runs' folders."""

from pathlib import Path

import pandas as pd

from ..analysis.document import to_html, to_latex, to_markdown
from ..analysis.kept_costs import measure_once
from ..errors import SweepError
from .results import compare_variants, gather_results
from .tables import make_sections

__all__ = ["summarize", "write_report"]

_PER_RUN = ["seconds_per_iteration", "gpu_memory_mib", "host_memory_mib"]
_WHOLE = ["pairs", "trained_parameters", "multiply_adds"]  # numbers, or none
_COSTS = ["trainable", "flops", "height", "width"]


def write_report(sweep, folder=None, measure=True):
    """Write `report.md`, `report.tex`, `report.csv` (a row for each variant), `runs.csv` (for each
    run), `index.html` and the pictures.

    Args:
        sweep (Sweep): finished or not.
        folder (str): made if need be; None: `report` in the sweep's.
        measure (bool): build the variants' models to count their parameters and operations, where
            no earlier report did. The counts are kept in the sweep's folder.

    Returns:
        Path: of `index.html`.

    Raises:
        SweepError: no run is finished, or the baseline is not among the variants.
    """
    if sweep.baseline not in sweep.names:
        missing = f"Variants are compared to the baseline, '{sweep.baseline}'"
        raise SweepError(f"{missing}: add it to --variants.")
    results = gather_results(sweep)
    summary = summarize(results, measure)
    sections = list(make_sections(results, summary))
    metrics = sorted(name for name in results.runs if "/" in name)
    runs = results.runs.set_index("variant")[["seed", "state", "iterations", *metrics, *_PER_RUN]]
    names = {"trainable": "trained_parameters", "flops": "multiply_adds"}
    variants = summary.drop(columns=["height", "width"]).rename(columns=names)
    files = {
        "report.md": to_markdown(sweep.title, sections),
        "report.tex": to_latex(sweep.title, sections),
        "report.csv": _csv(sweep, variants.astype(dict.fromkeys(_WHOLE, "Int64"))),
        "runs.csv": _csv(sweep, runs),
        "index.html": to_html(sweep.title, sections),
    }
    folder = Path(folder or sweep.output / "report")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in (picture for section in sections for picture in section.pictures):
        (folder / picture.name).write_bytes(picture.png)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "index.html"


def summarize(results, measure=False):
    """A row for each variant (DataFrame), unrounded.

    Of its finished runs: "seeds", and means and deviations of metrics ("bbox/AP", "bbox/AP sd").
    Then follow :func:`~.results.compare_variants`, what its model costs, and what its runs take.
    """
    sweep = results.sweep
    columns = {"seeds": results.table(sweep.metric).count()}
    for metric in results.metrics:
        table = results.table(metric)
        columns |= {metric: table.mean(), f"{metric} sd": table.std()}
    summary = pd.DataFrame(columns).join(compare_variants(results))
    summary.loc[sweep.baseline, "exceeds_noise"] = "baseline"
    configs = {variant.name: sweep.run(variant).load_config() for variant in sweep.variants}
    costs = measure_once(configs, sweep.output / "model_costs.json", measure)
    costs = pd.DataFrame(costs, index=_COSTS, dtype=float).T
    return summary.join(costs).join(results.finished.groupby("variant")[_PER_RUN].mean())


def _csv(sweep, table):
    """CSV of a table whose rows are variants, with their levels of the axes."""
    levels = {v.name: v.levels for v in sweep.variants}
    for i, axis in enumerate(sweep.axes):
        table.insert(i, axis, [levels[name][axis] for name in table.index], allow_duplicates=True)
    return table.to_csv(index_label="variant")
