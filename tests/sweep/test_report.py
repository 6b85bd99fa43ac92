"""Reports of made-up sweeps, whole and half."""

import csv
import re
from types import SimpleNamespace

import pytest

from sparsercnn.analysis import kept_costs
from sparsercnn.sweep import SweepError, load_sweep
from sparsercnn.sweep.report import write_report
from sparsercnn.sweep.tables import sweep_command

CLASSES = {"bbox/AP50": 60.0, "bbox/AP-dog": 30.0, "bbox/AP-cat": 50.0}


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def read_csv(path):
    """The names of its columns, and its rows."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def tight(text):
    """Without the spaces that make columns even."""
    return re.sub(" +", " ", text)


@pytest.fixture
def half(make_sweep, finish, fail):
    """Of three variants one is finished, one has a seed, and one failed."""
    variants = {"plain": {}, "more": {"MODEL.SparseRCNN.NUM_HEADS": 6}, "bad": {}}
    sweep = make_sweep(
        title="Stages & more", variants=variants, seeds=[1, 2], overrides={"SOLVER.MAX_ITER": 60}
    )
    finish(sweep, "plain", [40.0, 41.0], **CLASSES)
    finish(sweep, "more", [43.5], **{**CLASSES, "bbox/AP-cat": 53.0})
    fail(sweep.runs[2], "RuntimeError: out of <memory>")
    return sweep


def test_half_a_sweep(half):
    page = write_report(half, measure=False)
    folder = half.output / "report"
    assert page == folder / "index.html"
    names = {"report.md", "report.csv", "report.tex", "runs.csv", "index.html"}
    assert {path.name for path in folder.iterdir()} == {*names, "runs.png", "losses.png"}

    text = tight((folder / "report.md").read_text())
    assert text.startswith("# Stages & more\n\n3 of 6 runs are finished. What this says may change")
    assert set(re.findall(r"\]\((.*?)\)", text)) == {"runs.png", "losses.png"}
    assert "| bad | 1 | failed | 0 | RuntimeError: out of \\<memory> |" in text
    assert "| more | 2 | waiting | 0 | |" in text
    assert "| plain | 2 | 40.50 ± 0.71 | | | | | | baseline |" in text
    assert "| more | 1 | 43.50 | +3.50 | | 1 | | | one seed |" in text
    assert "| bad | 0 | | | | 0 | | | no pair |" in text
    assert "With one seed nothing can be tested" in text
    assert "| plain | 0.500 | 900 |" in section(text, "What they cost")
    classes = section(text, "bbox/AP by class")
    assert "| class | plain, itself | more |" in classes
    assert "| cat | 50.00 | +3.00 |\n| dog | 30.00 | 0.00 |" in classes
    assert "| more | MODEL.SparseRCNN.NUM_HEADS: 6 |" in text
    assert "| hardware | a CPU, 2 cores |" in text and "| seeds | 1, 2 |" in text
    assert "evaluated at the end only" in text and "has changed since" not in text

    html = page.read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "out of &lt;memory&gt;" in html and "Stages &amp; more" in html


def test_two_seeds_are_said_to_be_few_and_three_are_not(make_sweep, finish, tmp_path):
    sweep = make_sweep(variants={"a": {}, "b": {}}, seeds=[1, 2, 3])
    finish(sweep, "a", [40.0, 42.0, 41.0])
    finish(sweep, "b", [50.0, 52.5, 50.5])
    text = (write_report(sweep, tmp_path / "x", measure=False).parent / "report.md").read_text()
    text = tight(text)
    assert "All 6 runs are finished." in text and "fewer than 3" not in text
    assert re.search(r"\| b \| 3 \| 51.00 ± 1.32 \| \+10.00 \|.*\| yes \|", text)

    fewer = load_sweep(sweep.file)
    (fewer.runs[-1].folder / "sweep_result.json").unlink()
    text = (write_report(fewer, tmp_path / "y", measure=False).parent / "report.md").read_text()
    assert "With fewer than 3 seeds the test finds very large differences only" in text


def test_a_grid_has_main_effects(make_sweep, finish, tmp_path):
    axes = {"MODEL.SparseRCNN.NUM_HEADS": [2, 4], "SOLVER.BASE_LR": [0.1, 0.2]}
    sweep = make_sweep(axes=axes, seeds=[1, 2])
    for i, variant in enumerate(sweep.variants):
        finish(sweep, variant.name, [40.0 + i, 40.5 + 2 * i])
    folder = write_report(sweep, tmp_path / "report", measure=False).parent
    text = tight(section((folder / "report.md").read_text(), "Main effects"))
    # Differences of heads: 2, 4, 2, 4; of rates: 1, 2, 1, 2.
    assert "| NUM_HEADS=4 | NUM_HEADS=2 | +3.00 |" in text
    assert "| BASE_LR=0.2 | BASE_LR=0.1 | +1.50 |" in text
    assert "not independent of each other" in text
    assert (folder / "effects.png").exists()


def test_nothing_finished(make_sweep):
    sweep = make_sweep(variants={"a": {}})
    with pytest.raises(SweepError, match="nothing to report"):
        write_report(sweep)
    assert not sweep.output.exists()


def test_a_run_of_another_config_is_named(half, tmp_path):
    path = half.runs[0].folder / "sweep_config.yaml"
    config = half.runs[0].load_config()
    config.defrost()
    config.SOLVER.MAX_ITER = 50
    config.OUTPUT_DIR = "where/it/was/made"
    path.write_text(config.dump())
    text = (write_report(half, tmp_path / "x", measure=False).parent / "report.md").read_text()
    assert "has changed since: plain, seed 1 (SOLVER.MAX_ITER 50, now 60)." in text


def test_the_command_has_what_differs_from_the_file(half):
    assert sweep_command(half) == f"python -m sparsercnn sweep run {half.file}"
    other = load_sweep(half.file, ["SOLVER.MAX_ITER", "70"], "/elsewhere/x y", ["plain", "more"])
    assert sweep_command(other) == (
        f"python -m sparsercnn sweep run {half.file} --variants plain more "
        "--output '/elsewhere/x y' --opts SOLVER.MAX_ITER 70"
    )


def test_a_model_that_cannot_be_measured_leaves_a_gap(half, monkeypatch, caplog):
    def measure(cfg):
        if cfg.MODEL.SparseRCNN.NUM_HEADS != 6:
            raise RuntimeError("no trace")
        return SimpleNamespace(
            trainable=2_000_000, forward=SimpleNamespace(flops={"head": 3e9}), size=(64, 96)
        )

    monkeypatch.setattr(kept_costs, "measure_model", measure)
    text = (write_report(half).parent / "report.md").read_text()
    costs = tight(section(text, "What they cost"))
    assert "| plain | | | | 0.500 | 900 |" in costs
    assert "| more | 2.00 | 3.00 | 64×96 | 0.500 | 900 |" in costs
    assert "plain cannot be measured: no trace" in caplog.text
    header, rows = read_csv(half.output / "report" / "report.csv")
    assert [row[header.index("trained_parameters")] for row in rows] == ["", "2000000", ""]


def test_csv_has_unrounded_numbers(make_sweep, finish, tmp_path):
    sweep = make_sweep(variants={"a, b": {}, "c": {}}, seeds=[1, 2])
    finish(sweep, "a, b", [1 / 3, 2 / 3], **{"bbox/AP-dog": 0.125})
    folder = write_report(sweep, tmp_path / "x", measure=False).parent
    header, rows = read_csv(folder / "report.csv")
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert first["variant"] == "a, b" and first["exceeds_noise"] == "baseline"
    assert (first["pairs"], first["seeds"], first["bbox/AP"]) == ("", "2", "0.5")
    assert float(first["bbox/AP sd"]) == pytest.approx(2**0.5 / 6)
    assert (second["seeds"], second["bbox/AP"], second["exceeds_noise"]) == ("0", "", "no pair")
    header, rows = read_csv(folder / "runs.csv")
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(r["variant"], r["seed"], r["state"]) for r in rows] == [
        ("a, b", "1", "finished"),
        ("c", "1", "waiting"),
        ("a, b", "2", "finished"),
        ("c", "2", "waiting"),
    ]
    assert rows[0]["bbox/AP"] == repr(1 / 3)
    assert (rows[0]["bbox/AP-dog"], rows[0]["iterations"]) == ("0.125", "60")


def test_csv_of_a_grid_has_its_levels_whatever_an_axis_is_called(make_sweep, finish, tmp_path):
    axes = {"seeds": {"x": {}, "y": {}}, "state": {"p": {}, "q": {}}}
    sweep = make_sweep(axes=axes)
    for variant in sweep.variants:
        finish(sweep, variant.name, [40.0])
    folder = write_report(sweep, tmp_path / "x", measure=False).parent
    header, rows = read_csv(folder / "runs.csv")
    assert header[:5] == ["variant", "seeds", "state", "seed", "state"]
    assert rows[1][:5] == ["x+q", "x", "q", "0", "finished"]
    header, rows = read_csv(folder / "report.csv")
    assert header[:4] == ["variant", "seeds", "state", "seeds"]
    assert rows[1][:4] == ["x+q", "x", "q", "1"]


def test_the_classes_with_the_largest_differences(make_sweep, finish, tmp_path):
    sweep = make_sweep(variants={"plain": {}, "class": {}})
    classes = {f"bbox/AP-c{i:03}": 40.0 for i in range(120)}
    finish(sweep, "plain", [40.0], **classes)
    changed = {name: 40.0 + (i >= 20) * i for i, name in enumerate(classes)}
    finish(sweep, "class", [41.0], **changed)
    text = (write_report(sweep, tmp_path / "x", measure=False).parent / "report.md").read_text()
    text = tight(section(text, "bbox/AP by class"))
    assert "| class | plain, itself | class |" in text
    assert text.count("\n| c") == 1 + 100 and "| c019 |" not in text
    assert "| c020 | 40.00 | +20.00 |" in text and "| c119 | 40.00 | +119.00 |" in text
    assert "Of 120 classes, the 100 with the largest differences." in text
