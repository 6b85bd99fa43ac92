"""The sections of a report: tables, figures and how to read them."""

import numpy as np
import pandas as pd

from ..analysis.document import Section
from ..analysis.tables import difference, number, probability
from . import figures
from .precision import summaries
from .scores import calibration, expected_calibration_error
from .stages import ap_by_stage, movement, proposal_places
from .tide import ERRORS

__all__ = [
    "comparison_sections",
    "csv_link",
    "ends",
    "model_sections",
    "precision_table",
    "stage_sections",
]

_LEVEL = (2.5, 97.5)  # percentiles of the bootstrap


def ends(values):
    """The 95 % interval (tuple of two floats) of resamples (R,); NaN if there are none."""
    values = values[~np.isnan(values)]
    return tuple(np.percentile(values, _LEVEL)) if len(values) else (np.nan, np.nan)


def precision_table(result):
    """COCO's averages of all classes and of each, with the ends of their intervals.

    Args:
        result (Result): of a model.

    Returns:
        DataFrame: "class", "objects", then AP, AP50, ..., each with " low" and " high".
    """
    truth = result.truth
    rows = []
    for name, index in [
        ("all", slice(None)),
        *((x, [k]) for k, x in enumerate(truth.class_names)),
    ]:
        own = ~truth.crowd & np.isin(truth.classes, np.arange(truth.num_classes)[index])
        row = {"class": name, "objects": int(own.sum())}
        resampled = summaries(result.resampled, index)
        for metric, value in summaries(result.precisions, index).items():
            low, high = ends(resampled[metric])
            row |= {metric: value[0], f"{metric} low": low, f"{metric} high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def model_sections(result, page):
    """The sections of one model (Iterator[Section]).

    Args:
        result (Result): what is known about it.
        page (str): address of the page of images.
    """
    yield _precision_section(result)
    yield _curves_section(result)
    yield _errors_section(result, page)
    yield _confusion_section(result, page)
    yield _scores_section(result)


def _precision_section(result):
    table = precision_table(result)
    shown = pd.DataFrame({"class": table["class"], "objects": table["objects"].map("{:,}".format)})
    for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        columns = (table[metric], table[f"{metric} low"], table[f"{metric} high"])
        shown[metric] = [_with_interval(*values) for values in zip(*columns, strict=True)]
    return Section(
        "Average precision",
        table=shown,
        notes=[
            "COCO's averages in percent, as its own evaluation gives them: AP over IoU 0.50 to "
            "0.95; s, m, l: objects below 32², to 96² and above that many pixels.",
            f"In brackets the 95 % interval over images: {len(result.resampled)} data sets of "
            f"{result.truth.num_images} images, drawn from these with replacement. It says how "
            "much other images of the same kind would change the figure, not other trainings.",
        ],
        links=[("tables/precision.csv", "CSV")],
    )


def _with_interval(value, low, high):
    if np.isnan(value):
        return ""
    return number(value, 1) if np.isnan(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _curves_section(result):
    picture = figures.precision_recall_figure(result.truth, result.curves, result.precisions[0])
    return Section("Precision and recall", pictures=[picture], links=[csv_link(picture)])


def csv_link(picture):
    """Address and text of a link to the numbers of a picture, beside it."""
    return f"figures/{picture.name.removesuffix('.png')}.csv", "CSV"


def _errors_section(result, page):
    picture = figures.costs_figure({result.name: result.costs})
    counts = {x: int(result.images[x].sum()) for x in ("right", *ERRORS)}
    table = pd.DataFrame(
        [{"": "at the thresholds below", **{k: str(v) for k, v in counts.items()}}]
    )
    return Section(
        "Errors",
        f"AP50 is {result.costs['AP50']:.1f}. If one kind of error alone were corrected, it would "
        "rise by:",
        table,
        [
            "Kinds and costs as TIDE defines them (arXiv 2008.08115), from all detections. Counts "
            "are of detections above their class's threshold, and of objects that these miss.",
        ],
        [picture],
        links=[csv_link(picture), *((f"{page}#kind={x}", f"images with {x}") for x in ERRORS)],
    )


def _confusion_section(result, page):
    picture = figures.confusion_figure(result.confusion, result.truth.class_names)
    return Section(
        "Confusion",
        pictures=[picture],
        notes=[
            "Detections above their class's threshold, at an IoU of 0.5: first those that find an "
            "object of their class, then the rest by place alone. Last row: on nothing; last "
            "column: objects not found.",
        ],
        links=[csv_link(picture), (page, "look at the images")],
    )


def _scores_section(result):
    found, counts = result.matches.simple()
    chosen = counts & (result.detections.scores > 0)
    scores, right = result.detections.scores[chosen].clip(0, 1), found[chosen] >= 0
    table = calibration(scores, right)
    picture = figures.calibration_figure(table)
    confident = scores >= 0.3
    errors = [
        expected_calibration_error(calibration(scores[x], right[x]))
        for x in (slice(None), confident)
    ]
    rows = [
        {
            "class": name,
            "threshold": number(x.score, 3),
            **{key: number(100 * getattr(x, key), 1) for key in ("f1", "precision", "recall")},
        }
        for name, x in zip(result.truth.class_names, result.thresholds, strict=True)
    ]
    return Section(
        "Scores",
        f"Expected calibration error: {number(100 * errors[0], 1)} points over all detections, "
        f"{number(100 * errors[1], 1)} over those with a score of 0.3 or more.",
        pd.DataFrame(rows).rename(columns={"f1": "F1"}),
        [
            "Bars: share of detections of that score that find an object (IoU 0.5); dashed: what "
            "the score promises.",
            "The table has, for each class, the lowest score with the best F1, in percent: "
            "thresholds.json, for demo.py --thresholds. Chosen on these images, so a little too "
            "good on them.",
        ],
        [picture],
        links=[csv_link(picture), ("thresholds.json", "thresholds.json")],
    )


def stage_sections(result):
    """What the stages do (Iterator[Section]); none for a model without stages."""
    history = result.history
    if history is None:
        return
    table = ap_by_stage(result.truth, result.stages)
    shown = table.copy().astype(object)
    for name in ("AP", "AP50", "AP75"):
        shown[name] = table[name].map(lambda x: number(x, 1))
    shown["stage"] = table["stage"].map(str)
    shown["gain"] = table["gain"].map(lambda x: "" if np.isnan(x) else difference(x))
    picture = figures.stages_figure(table)
    yield Section(
        "Stages",
        "Each stage as if it were the last.",
        shown,
        pictures=[picture],
        links=[csv_link(picture)],
    )
    moved = movement(history)
    picture = figures.movement_figure(moved)
    yield Section(
        "What each stage changes",
        pictures=[picture],
        notes=[
            "Before the first stage is the proposal's own box. Positives are proposals that the "
            "model's matcher assigns to each object, as in training.",
        ],
        links=[csv_link(picture)],
    )
    places = proposal_places(history, result.truth.class_names)
    picture = figures.places_figure(history, places)
    everywhere = (history.boxes[:, -1, :, :2] + history.boxes[:, -1, :, 2:]).reshape(-1, 2) / 2
    whole = float(np.sqrt(((everywhere - everywhere.mean(axis=0)) ** 2).sum(axis=1).mean()))
    yield Section(
        "Where proposals end up",
        "Dots are centres of a proposal's last box, one for each image: green where it is small "
        "(below a twentieth of the image), red where large and wide, blue where large and tall. "
        "Dashed: the box that it starts from.",
        notes=[
            f"Spread of the centres: {number(float(places['spread'].mean()), 2)} of the image's "
            f"sides for the same proposal, {number(whole, 2)} for all together. The nearer the "
            "two, the less a proposal has a place of its own.",
        ],
        pictures=[picture],
        links=[csv_link(picture)],
    )


def comparison_sections(first, second, objects, page):
    """How a second model differs (Iterator[Section]).

    Args:
        first, second (Result): of the models, resampled with the same seed.
        objects (DataFrame): from :func:`~.per_image.compare_objects`.
        page (str): address of the page of images.
    """
    rows = []
    for name, index in [
        ("all", slice(None)),
        *((x, [k]) for k, x in enumerate(first.truth.class_names)),
    ]:
        row = {"class": name}
        values = [summaries(x.precisions, index) for x in (first, second)]
        resampled = [summaries(x.resampled, index) for x in (first, second)]
        for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
            change = values[1][metric][0] - values[0][metric][0]
            low, high = ends(resampled[1][metric] - resampled[0][metric])
            between = "" if np.isnan(low) else f" [{difference(low)}, {difference(high)}]"
            row[metric] = "" if np.isnan(change) else difference(change) + between
        rows.append(row)
    yield Section(
        f"{second.name} against {first.name}",
        f"{second.name} minus {first.name}, in points, with 95 % intervals over images: both "
        "models on the same drawn images. An interval without 0 is a difference that other images "
        "of the kind would show too.",
        pd.DataFrame(rows),
        ["Of few objects, such as those of a size, an interval is narrower than it should be."],
    )
    picture = figures.costs_figure({x.name: x.costs for x in (first, second)})
    picture = picture._replace(name="errors_compared.png")
    yield Section("Errors of both", pictures=[picture], links=[csv_link(picture)])
    table = objects.astype(object)
    for name in ("p", "p corrected"):
        table[name] = objects[name].map(probability)
    names = {"only first": f"only {first.name}", "only second": f"only {second.name}"}
    better, worse = _better_and_worse(first, second)
    yield Section(
        "Objects found",
        f"{better} images are better with {second.name} and {worse} are worse, by their LRP error.",
        table.astype(str).rename(columns=names),
        [
            "Objects that a detection above its class's threshold finds at an IoU of 0.5, for each "
            "model with its own thresholds. p: McNemar's exact test; corrected by Holm over the "
            "classes. Objects of one image are not independent, so p is somewhat too small.",
        ],
        links=[
            (f"{page}#sort=better", f"images on which {second.name} is better"),
            (f"{page}#sort=worse", "worse"),
            ("tables/objects.csv", "CSV"),
        ],
    )


def _better_and_worse(first, second):
    change = second.images["LRP"] - first.images["LRP"]
    return int((change < 0).sum()), int((change > 0).sum())
