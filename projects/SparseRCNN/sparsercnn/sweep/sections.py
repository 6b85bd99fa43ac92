"""A sweep's results as the tables of its report."""

import statistics

from .document import Section, Table
from .formatting import difference, interval, mean_and_deviation, number, probability

__all__ = [
    "class_sections",
    "cost_section",
    "effects_section",
    "metrics_section",
    "variants_section",
]

_MAX_CLASSES = 100
_FEW_SEEDS = 3


def variants_section(results, comparisons, pictures=()):
    """The metric of each variant, and whether it differs from the baseline.

    Args:
        results (SweepResults):
        comparisons (dict[str, Comparison]): see :func:`~.significance.compare_variants`.
        pictures (sequence[Picture]):

    Returns:
        Section:
    """
    sweep = results.sweep
    rows = []
    for variant in sweep.variants:
        values = list(results.values(variant.name, sweep.metric).values())
        row = [variant.name, str(len(values)), mean_and_deviation(values)]
        if variant.name == sweep.baseline:
            rows.append([*row, *[""] * 5, "baseline"])
        else:
            rows.append([*row, *_comparison_cells(comparisons[variant.name])])
    header = ["variant", "seeds", sweep.metric, *_comparison_header("difference")]
    legend = [
        f"{sweep.metric}: the mean ± standard deviation (n − 1) over the finished seeds.",
        f"difference: from {sweep.baseline}, over the seeds that both have (pairs), with the 95 % "
        "confidence interval of the paired t distribution, which is not corrected for the number "
        "of variants.",
        *_legend_of_test(comparisons.values(), "variants"),
    ]
    pairs = [c.test.pairs for c in comparisons.values() if c.test.pairs]
    if pairs and max(pairs) == 1:
        legend.append("With one seed nothing can be tested: a difference may well be noise.")
    elif pairs and min(pairs) < _FEW_SEEDS:
        legend.append(
            f"With fewer than {_FEW_SEEDS} seeds the test has little power: it finds very large "
            "differences only."
        )
    return Section("Variants", [], table=Table(header, rows), pictures=list(pictures), after=legend)


def effects_section(results, effects, pictures=()):
    """Levels of the axes against their first.

    Args:
        results (SweepResults):
        effects (list[Comparison]): see :func:`~.significance.main_effects`.
        pictures (sequence[Picture]):

    Returns:
        Section: None if there are no two runs to compare.
    """
    if not any(effect.test.pairs for effect in effects):
        return None
    rows = [[e.axis, e.name, e.reference, *_comparison_cells(e)] for e in effects]
    header = ["axis", "level", "against", *_comparison_header(results.sweep.metric)]
    legend = [
        "Each level of an axis against the first one. A pair is two finished runs of the same seed "
        "that differ in nothing but that axis; the difference is the mean over all pairs, with the "
        "95 % confidence interval of the paired t distribution, which is not corrected for the "
        "number of levels.",
        *_legend_of_test(effects, "levels"),
        "Pairs with the same levels of the other axes share those levels' interaction with this "
        "one, so that pairs are not independent of each other where there are interactions. What "
        "is tested is the mean over the combinations of this sweep; in single ones the effect may "
        "be another, and elsewhere too.",
    ]
    table = Table(header, rows, text_columns=3)
    return Section("Main effects", [], table=table, pictures=list(pictures), after=legend)


def metrics_section(results):
    """All metrics but those of classes.

    Args:
        results (SweepResults):

    Returns:
        Section: None if there is no other than the sweep's.
    """
    metrics = results.metrics
    if len(metrics) < 2:
        return None
    rows = [
        [v.name, *(mean_and_deviation(list(results.values(v.name, m).values())) for m in metrics)]
        for v in results.sweep.variants
    ]
    legend = ["Means ± standard deviations over the finished seeds. These are not tested."]
    return Section("All metrics", [], table=Table(["variant", *metrics], rows), after=legend)


def cost_section(results, costs):
    """Parameters, operations, time and memory.

    Args:
        results (SweepResults):
        costs (dict[str, VariantCost]): see :func:`~.costs.measure_costs`.

    Returns:
        Section:
    """
    on_gpu = all(r.gpu_memory is not None for r in results.finished)
    header = ["variant"] + (["parameters M", "GFLOPs", "input"] if costs else [])
    header += ["s per iteration", f"{'GPU' if on_gpu else 'host'} memory MiB"]
    rows = []
    for variant in results.sweep.variants:
        row = [variant.name]
        if costs:
            row += _cost_cells(costs.get(variant.name))
        runs = results.of_variant(variant.name).values()
        memory = [r.gpu_memory if on_gpu else r.host_memory for r in runs]
        row += [_mean([r.seconds for r in runs], 3), _mean(memory, 0)]
        rows.append(row)
    legend = []
    if costs:
        legend.append(
            "parameters: those that are trained. GFLOPs: 10^9 multiply-adds of the inference of "
            "one image of that height and width, counted with random weights."
        )
    legend.append(
        "s per iteration: the median of a run, averaged over seeds; it depends on what else the "
        "machine did."
    )
    legend.append(
        "memory: the most that tensors held on the GPU, averaged over seeds."
        if on_gpu
        else "memory: the peak of the training process on the host, which includes all libraries, "
        "averaged over seeds."
    )
    return Section("What they cost", [], table=Table(header, rows), after=legend)


def class_sections(results):
    """Differences from the baseline class by class, a section for each metric that classes have.

    Args:
        results (SweepResults):

    Returns:
        list[Section]:
    """
    others = [v.name for v in results.sweep.variants if v.name != results.sweep.baseline]
    others = [name for name in others if results.of_variant(name)]
    if not others or not results.of_variant(results.sweep.baseline):
        return []
    return [
        _class_section(results, metric, keys, others)
        for metric, keys in results.class_metrics.items()
    ]


def _class_section(results, metric, keys, others):
    baseline = results.sweep.baseline
    columns = {}
    for name in others:
        pairs = {label: results.pairs(name, baseline, key) for label, key in keys.items()}
        columns[name] = {
            label: statistics.fmean(a - b for a, b in found) if found else None
            for label, found in pairs.items()
        }
    legend = [
        f"Differences from {baseline}, means over the seeds that both have. Single classes vary "
        "more than their mean; these differences are not tested."
    ]
    classes = list(keys)
    if len(classes) > _MAX_CLASSES:
        classes = sorted(classes, key=lambda c: -max(abs(v[c] or 0) for v in columns.values()))
        classes = sorted(classes[:_MAX_CLASSES])
        legend.append(f"Of {len(keys)} classes, the {_MAX_CLASSES} with the largest differences.")
    largest = max((abs(v[c] or 0) for v in columns.values() for c in classes), default=0) or 1.0
    means = [_mean(list(results.values(baseline, keys[c]).values()), 2) for c in classes]
    # The longer one downwards.
    if len(others) > len(classes):
        table = Table(
            ["variant", *classes],
            [
                [f"{baseline}, itself", *means],
                *([n, *(difference(columns[n][c]) for c in classes)] for n in others),
            ],
            [
                [None] * (len(classes) + 1),
                *([None, *(_shade(columns[n][c], largest) for c in classes)] for n in others),
            ],
        )
    else:
        table = Table(
            ["class", f"{baseline}, itself", *others],
            [
                [c, mean, *(difference(columns[n][c]) for n in others)]
                for c, mean in zip(classes, means, strict=True)
            ],
            [[None, None, *(_shade(columns[n][c], largest) for n in others)] for c in classes],
        )
    return Section(f"{metric} by class", [], table=table, after=legend)


def _comparison_header(name):
    return [name, "95 % interval", "pairs", "p", "p (Holm)", "exceeds the noise"]


def _comparison_cells(comparison):
    test = comparison.test
    return [
        difference(test.difference),
        interval(test.low, test.high),
        str(test.pairs),
        probability(test.p),
        probability(comparison.p_holm),
        comparison.verdict,
    ]


def _legend_of_test(comparisons, what):
    tested = sum(c.test.p is not None for c in comparisons)
    if not tested:
        return []
    return [
        f"p: of a two-sided paired t-test. p (Holm): after Holm's correction for the {tested} "
        f"{what} that were tested. exceeds the noise: yes if that is below 0.05. The test "
        "presumes that differences are normally distributed, which so few cannot show. What does "
        "not exceed the noise is not shown to be equal."
    ]


def _cost_cells(cost):
    if cost is None:
        return ["", "", ""]
    size = f"{cost.height}×{cost.width}"
    return [number(cost.trainable / 1e6), number(cost.flops / 1e9), size]


def _mean(values, digits):
    known = [v for v in values if v is not None]
    return number(statistics.fmean(known), digits) if known else ""


def _shade(value, largest):
    return None if value is None else value / largest
