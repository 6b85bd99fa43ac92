"""The report of a sweep: tables, pictures and a page, from its runs' folders."""

from pathlib import Path

from .costs import measure_costs
from .curves import loss_curves, metric_curves, shown_by_axis
from .document import Document, Section
from .markup import runs_csv, to_latex, to_markdown, variants_csv
from .page import to_html
from .plots import dot_plot, effects_plot
from .provenance import overrides_section, provenance_section, unfinished_section
from .results import gather_results
from .sections import (
    class_sections,
    cost_section,
    effects_section,
    metrics_section,
    variants_section,
)
from .significance import compare_variants, main_effects
from .spec import SweepError

__all__ = ["write_report"]


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
    if sweep.baseline not in [variant.name for variant in sweep.variants]:
        raise SweepError(
            f"Variants are compared to the baseline, '{sweep.baseline}': add it to --variants."
        )
    results = gather_results(sweep)
    comparisons = compare_variants(results)
    costs = measure_costs(sweep, measure)
    document = _compose(results, comparisons, costs)
    files = {
        "report.md": to_markdown(document),
        "report.tex": to_latex(document),
        "report.csv": variants_csv(results, comparisons, costs),
        "runs.csv": runs_csv(results),
        "index.html": to_html(document),
    }
    folder = Path(folder or sweep.output / "report")
    folder.mkdir(parents=True, exist_ok=True)
    for section in document.sections:
        for picture in section.pictures:
            (folder / picture.name).write_bytes(picture.png)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "index.html"


def _compose(results, comparisons, costs):
    effects = main_effects(results)
    effects_picture = effects_plot(results, effects)
    sections = [
        Section("", [_state(results)]),
        provenance_section(results),
        unfinished_section(results),
        variants_section(results, comparisons, [dot_plot(results)]),
        effects_section(results, effects, [effects_picture] if effects_picture else []),
        metrics_section(results),
        *class_sections(results),
        cost_section(results, costs),
        *_curves(results),
        overrides_section(results),
    ]
    return Document(results.sweep.title, [section for section in sections if section])


def _state(results):
    finished, total = len(results.finished), len(results.runs)
    if finished == total:
        return f"All {total} runs are finished."
    return (
        f"{finished} of {total} runs are finished. This is a report of part of the sweep: what it "
        "says may change with the others."
    )


def _curves(results):
    sections = []
    whose = "the mean over seeds; the band reaches from the least to the largest of them"
    if shown_by_axis(results):
        whose = "the mean over all runs of a level; the band reaches from the least to the largest"
    metric, (losses, width) = metric_curves(results), loss_curves(results)
    title = "The metric during training"
    if metric:
        text = f"Finished runs. A line is {whose}."
        sections.append(Section(title, pictures=[metric], after=[text]))
    else:
        sections.append(Section(title, [f"{results.sweep.metric} was evaluated at the end only."]))
    if losses:
        legend = [
            f"Finished runs. A line is {whose}. Axes are logarithmic where a loss changes much.",
            f"Losses are smoothed: each run by a running mean over {width} logged points, of which "
            "each is detectron2's median over 20 iterations.",
            "Variants with other matchers, weights or numbers of stages have losses that do not "
            "compare.",
        ]
        sections.append(Section("Losses", pictures=[losses], after=legend))
    return sections
