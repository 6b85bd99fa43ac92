"""How a sweep was made: settings, hardware, the command, and the runs that are missing."""

import os
import shlex

import yaml

from .document import Section, Table
from .run_folder import CONFIG, FINISHED, _flat
from .spec import as_argument
from .spec_file import load_sweep

__all__ = ["overrides_section", "provenance_section", "sweep_command", "unfinished_section"]


def provenance_section(results):
    """
    Args:
        results (SweepResults):

    Returns:
        Section:
    """
    sweep = results.sweep
    made_on = [r.state.result for r in results.finished]
    hardware = _distinct(made_on, "hardware")
    days = sorted({result["finished"][:10] for result in made_on if "finished" in result})
    configs = [sweep.run(variant, sweep.seeds[0]).load_config() for variant in sweep.variants]
    lengths = sorted({cfg.SOLVER.MAX_ITER for cfg in configs})
    facts = {
        "base": _path(sweep.base),
        "for all runs": _overrides(sweep.overrides),
        "metric": sweep.metric,
        "seeds": ", ".join(map(str, sweep.seeds)),
        "iterations": ", ".join(map(str, lengths)),
        "hardware": "; ".join(hardware),
        "host": ", ".join(_distinct(made_on, "host")),
        "torch": ", ".join(_distinct(made_on, "torch")),
        "Python": ", ".join(_distinct(made_on, "python")),
        "finished": " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
    }
    notes = ["This makes the runs again, or those that are missing:"]
    after = _other_configs(results)
    if len(hardware) > 1:
        after.append("The runs were made on different hardware: their times do not compare.")
    table = Table(["", ""], [[k, v] for k, v in facts.items() if v], text_columns=2)
    return Section("How it was made", notes, sweep_command(sweep), table, after=after)


def sweep_command(sweep):
    """The command that makes a sweep, with what differs from its file as options.

    Args:
        sweep (Sweep):

    Returns:
        str: "tools/sweep.py run FILE ...".
    """
    command = ["tools/sweep.py", "run", str(sweep.file)]
    as_in_file = load_sweep(sweep.file)
    names = [variant.name for variant in sweep.variants]
    if names != [variant.name for variant in as_in_file.variants]:
        command += ["--variants", *names]
    if sweep.output != as_in_file.output:
        command += ["--output", _path(sweep.output)]
    opts = [
        text
        for key, value in sweep.overrides.items()
        if key not in as_in_file.overrides or value != as_in_file.overrides[key]
        for text in (key, as_argument(value))
    ]
    return shlex.join([*command, "--opts", *opts] if opts else command)


def unfinished_section(results):
    """The runs that have no result.

    Args:
        results (SweepResults):

    Returns:
        Section: None if there are none.
    """
    rows = []
    for result in results.unfinished:
        state = result.state
        note = state.failure["error"] if state.failure else ""
        if state.state == FINISHED:
            note = f"{results.sweep.metric} is no number"
        rows.append(
            [result.run.variant.name, str(result.run.seed), state.state, str(state.iteration), note]
        )
    if not rows:
        return None
    header = ["variant", "seed", "state", "iterations", "error"]
    before = ["These have no result, and are left out of all that follows."]
    return Section("Runs that are missing", before, table=Table(header, rows, text_columns=5))


def overrides_section(results):
    """
    Args:
        results (SweepResults):

    Returns:
        Section: what each variant changes.
    """
    rows = [[v.name, _overrides(v.overrides) or "nothing"] for v in results.sweep.variants]
    table = Table(["variant", "config keys"], rows, text_columns=2)
    return Section("What the variants change", table=table)


def _other_configs(results):
    """A sentence on finished runs whose config was another one than it is now, if there are any."""
    found = {}
    for result in results.finished:
        changes = _changes(result.run)
        if changes:
            found[result.run.name] = ", ".join(
                f"{k} {old!r}, now {new!r}" for k, old, new in changes
            )
    if not found:
        return []
    runs = "; ".join(f"{name} ({changes})" for name, changes in found.items())
    return [f"The config of these runs was another one than it is now: {runs}."]


def _changes(run):
    """Keys whose values differ, those values and those of now. A key that only one of them has is
    one that the code knew only then or knows only now."""
    path = run.folder / CONFIG
    if not path.exists():
        return []
    texts = (path.read_text(encoding="utf-8"), run.load_config().dump())
    then, now = (dict(_flat(yaml.safe_load(text))) for text in texts)
    # A sweep's folder may have been moved here from where it was made.
    keys = sorted(then.keys() & now.keys() - {"OUTPUT_DIR"})
    return [(key, then[key], now[key]) for key in keys if then[key] != now[key]]


def _distinct(made_on, key):
    return list(dict.fromkeys(str(result[key]) for result in made_on if key in result))


def _overrides(overrides):
    return "; ".join(f"{key}: {as_argument(value)}" for key, value in overrides.items())


def _path(path):
    """Relative to the working folder if it lies in it."""
    path = os.path.normpath(path)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
