"""A sweep's results, and how it was made, as the tables of its report."""

import os
import shlex

import numpy as np
import pandas as pd

from ..analysis.document import Section
from ..analysis.tables import difference, interval, number, probability
from ..engine.overrides import as_argument
from .pictures import curve_sections, dot_plot, effects_plot
from .results import MADE_ON, main_effects
from .run_folder import configs_then_and_now
from .spec_file import load_sweep

__all__ = ["make_sections", "sweep_command"]

_MAX_CLASSES = 100
_INTERVAL = "with its 95 % confidence interval (paired t), not corrected for the number of"


def make_sections(results, summary):
    """Yield the sections of the report; `summary` has a row for each variant, see report.py."""
    sweep, finished, total = results.sweep, len(results.finished), len(results.runs)
    some = f"{finished} of {total} runs are finished. What this says may change with the others."
    yield Section("", some if finished < total else f"All {total} runs are finished.")
    yield _provenance_section(results)
    missing = results.runs.drop(results.finished.index)
    if len(missing):
        no_number = f"{sweep.metric} is not a number"
        missing["error"] = missing["error"].mask(missing["state"] == "finished", no_number)
        table = missing[["variant", "seed", "state", "iterations", "error"]].astype(str)
        text = "These have no result, and are left out of all that follows."
        yield Section("Runs that are missing", text, table, text_columns=5)
    yield _variants_section(sweep, summary, dot_plot(results))
    effects = main_effects(results)
    if effects["pairs"].any():
        yield _effects_section(sweep, effects)
    if len(results.metrics) > 1:
        note = "Means ± standard deviations over the finished seeds. These are not tested."
        yield Section("All metrics", "", _named(_means(summary, results.metrics)), [note])
    yield from _class_sections(results)
    yield _cost_section(summary, results.finished["gpu_memory_mib"].notna().all())
    yield from curve_sections(results)
    rows = [(v.name, _text(v.overrides) or "nothing") for v in sweep.variants]
    table = pd.DataFrame(rows, columns=["variant", "config keys"])
    yield Section("What the variants change", "", table, text_columns=2)


def _provenance_section(results):
    """Settings, hardware, and the command that makes the sweep again."""
    sweep, finished = results.sweep, results.finished
    days = sorted({time[:10] for time in finished["finished"].dropna()})
    facts = {
        "base": _path(sweep.base),
        "for all runs": _text(sweep.overrides),
        "metric": sweep.metric,
        "seeds": ", ".join(map(str, sweep.seeds)),
        "iterations": ", ".join(map(str, sorted(set(results.runs["length"])))),
        **{key: "; ".join(finished[key].dropna().unique()) for key in MADE_ON},
        "finished": " to ".join(sorted({days[0], days[-1]})) if days else "",
    }
    table = pd.DataFrame([x for x in facts.items() if x[1]], columns=["setting", "value"])
    changes = "; ".join(_changed_configs(finished["run"]))
    notes = [f"The config of these runs has changed since: {changes}."] if changes else []
    if finished["hardware"].nunique() > 1:
        notes.append("The runs were made on different hardware: their times do not compare.")
    text, code = "This makes the runs again, or those that are missing:", sweep_command(sweep)
    return Section("How it was made", text, table, notes, code=code, text_columns=2)


def sweep_command(sweep):
    """The command that makes a sweep (str), with what differs from its file as options."""
    command = ["python", "-m", "sparsercnn", "sweep", "run", str(sweep.file)]
    in_file = load_sweep(sweep.file)
    if sweep.names != in_file.names:
        command += ["--variants", *sweep.names]
    if sweep.output != in_file.output:
        command += ["--output", _path(sweep.output)]
    opts = [pair for pair in sweep.overrides.items() if pair not in in_file.overrides.items()]
    command += ["--opts"] if opts else []
    return shlex.join([*command, *(x for key, value in opts for x in (key, as_argument(value)))])


def _changed_configs(runs):
    for run in runs:
        then, now = configs_then_and_now(run)
        # A key that only one of them has is one that the code knew only then or knows only now.
        keys = sorted(key for key in then.keys() & now.keys() if then[key] != now[key])
        if keys:
            yield f"{run.name} ({', '.join(f'{k} {then[k]!r}, now {now[k]!r}' for k in keys)})"


def _text(overrides):
    return "; ".join(f"{key}: {as_argument(value)}" for key, value in overrides.items())


def _path(path):
    """Relative to the working folder if it lies in it."""
    relative = os.path.relpath(path)
    return os.path.normpath(path) if relative.startswith("..") else relative


def _variants_section(sweep, summary, picture):
    """The metric of each variant, and whether it differs from the baseline."""
    means = _means(summary, [sweep.metric])
    means.insert(0, "seeds", summary["seeds"].astype(str))
    notes = [
        f"{sweep.metric}: the mean ± standard deviation (n − 1) over the finished seeds.",
        f"difference: from {sweep.baseline}, over pairs of the same seed, {_INTERVAL} variants.",
        *_notes_on_test(summary, "variants"),
    ]
    pairs = [n for n in summary["pairs"] if n > 0]
    if pairs and max(pairs) == 1:
        notes.append("With one seed nothing can be tested: a difference may well be noise.")
    elif min(pairs, default=3) < 3:
        notes.append("With fewer than 3 seeds the test finds very large differences only.")
    table = _named(means.join(_comparison(summary, "difference")))
    return Section("Variants", "", table, notes, [picture])


def _effects_section(sweep, effects):
    """Levels of the axes against their first."""
    notes = [
        "Each level of an axis against the first one. A pair is two finished runs of the same seed "
        "that differ in nothing but that axis; the difference is the mean over all pairs, "
        f"{_INTERVAL} levels.",
        *_notes_on_test(effects, "levels"),
        "Pairs with the same levels of the other axes are not independent of each other where "
        "those levels interact with this one. What is tested is the mean over the combinations of "
        "this sweep; in single ones the effect may be another, and elsewhere too.",
    ]
    table = _comparison(effects, sweep.metric).reset_index()
    picture = effects_plot(sweep, effects[effects["pairs"] > 0])
    return Section("Main effects", "", table, notes, [picture], text_columns=3)


def _notes_on_test(tests, what):
    note = (
        "p: of a two-sided paired t-test. p (Holm): after Holm's correction for the "
        f"{tests['p'].count()} {what} that were tested. exceeds the noise: yes if that is below "
        "0.05. The test presumes that differences are normally distributed, which so few cannot "
        "show. What does not exceed the noise is not shown to be equal."
    )
    return [note] if tests["p"].count() else []


def _comparison(tests, name):
    columns = {
        name: tests["difference"].map(difference),
        "95 % interval": list(map(interval, tests["low_95"], tests["high_95"])),
        "pairs": tests["pairs"].map(lambda n: number(n, 0)),
        "p": tests["p"].map(probability),
        "p (Holm)": tests["p_holm"].map(probability),
        "exceeds the noise": tests["exceeds_noise"],
    }
    return pd.DataFrame(columns)


def _means(summary, metrics):
    """Such as "40.12 ± 0.50"; of one seed the mean alone."""
    deviations = summary[[f"{metric} sd" for metric in metrics]].set_axis(metrics, axis=1)
    deviations = deviations.map(lambda x: "" if pd.isna(x) else f" ± {number(x)}")
    return summary[metrics].map(number) + deviations


def _cost_section(summary, on_gpu):
    """Parameters, operations, time and memory, of the GPU or else of the host."""
    table, notes = pd.DataFrame(index=summary.index), []
    if summary["flops"].notna().any():
        table["parameters M"] = (summary["trainable"] / 1e6).map(number)
        table["GFLOPs"] = (summary["flops"] / 1e9).map(number)
        sizes = zip(summary["height"], summary["width"], strict=True)
        table["input"] = [f"{h:.0f}×{w:.0f}" if h > 0 else "" for h, w in sizes]
        notes.append(
            "parameters: those that are trained. GFLOPs: 10^9 multiply-adds of the inference of "
            "one image of that height and width, counted with random weights."
        )
    table["s per iteration"] = summary["seconds_per_iteration"].map(lambda x: number(x, 3))
    notes.append(
        "s per iteration: the median of a run, averaged over seeds; it depends on what else the "
        "machine did."
    )
    if on_gpu:
        table["GPU memory MiB"] = summary["gpu_memory_mib"].map(lambda x: number(x, 0))
        notes.append("memory: the most that tensors held on the GPU, averaged over seeds.")
    else:
        table["host memory MiB"] = summary["host_memory_mib"].map(lambda x: number(x, 0))
        notes.append("memory: the training process's peak on the host, averaged over seeds.")
    return Section("What they cost", "", _named(table), notes)


def _class_sections(results):
    """Yield differences from the baseline, class by class, for each metric that classes have."""
    baseline = results.sweep.baseline
    found = results.table(results.sweep.metric).dropna(axis=1, how="all")
    others = found.columns.drop(baseline, errors="ignore")
    groups = results.class_metrics.groupby("metric")["class"]
    for metric, classes in groups if baseline in found and len(others) else ():
        tables = {name: results.table(column) for column, name in classes.items()}
        means = pd.Series({name: table[baseline].mean() for name, table in tables.items()})
        gains = {n: table.sub(table[baseline], axis=0).mean() for n, table in tables.items()}
        yield _class_section(metric, baseline, means, pd.DataFrame(gains).loc[others].T)


def _class_section(metric, baseline, means, gains):
    notes = [
        f"Differences from {baseline}, means over the seeds that both have. Single classes vary "
        "more than their mean; these differences are not tested."
    ]
    if len(gains) > _MAX_CLASSES:
        notes.append(f"Of {len(gains)} classes, the {_MAX_CLASSES} with the largest differences.")
        largest = gains.abs().max(axis=1).sort_values(ascending=False, kind="stable")
        gains = gains.loc[sorted(largest.index[:_MAX_CLASSES])]
    cells, shades, name = gains.map(difference), gains / (gains.abs().max(axis=None) or 1), "class"
    cells.insert(0, f"{baseline}, itself", means[gains.index].map(number), allow_duplicates=True)
    shades.insert(0, "", np.nan)
    if gains.shape[1] > len(gains):  # the longer one downwards
        cells, shades, name = cells.T, shades.T, "variant"
    shades = np.insert(shades.to_numpy(), 0, np.nan, axis=1)
    return Section(f"{metric} by class", "", _named(cells, name), notes, shades=shades)


def _named(table, name="variant"):
    """A table with the names of its rows as the first column."""
    return table.reset_index(names=name, allow_duplicates=True)
