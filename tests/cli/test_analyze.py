import pytest

from sparsercnn import analysis
from sparsercnn.cli import analyze

SMALL = ["MODEL.RESNETS.DEPTH", "18", "INPUT.MIN_SIZE_TEST", "64"]


def test_table_of_two_configs(repository, tmp_path, capsys):
    quickstart = repository / "configs/quickstart"
    files = [str(quickstart / f"{name}.yaml") for name in ("sparsercnn", "dual_attention")]
    page = tmp_path / "docs/costs.md"
    command = ["--config-file", *files, "--device", "cpu", "--output", str(page), "--opts", *SMALL]
    assert analyze.main(command) == 0
    table = capsys.readouterr().out
    lines = [line for line in table.splitlines() if line.startswith("| quickstart/")]
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in lines]
    assert [row[0] for row in rows] == [
        "quickstart/sparsercnn.yaml",
        "quickstart/dual_attention.yaml",
    ]
    assert [row[1:3] for row in rows] == [["64x96", "13.5"], ["64x96", "12.4"]]
    assert page.read_text().startswith("# What the models cost") and table in page.read_text()


def test_models_that_are_the_same_are_measured_once(tmp_path, repository, monkeypatch, capsys):
    base = repository / "configs/quickstart/sparsercnn.yaml"
    files = []
    for name, key in (("short", "SOLVER: {MAX_ITER: 5}"), ("long", "SOLVER: {MAX_ITER: 9}")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"_BASE_: {base}\n{key}\n")
    measured = []
    measure_model = analysis.measure_model
    monkeypatch.setattr(
        analysis, "measure_model", lambda *args: measured.append(args) or measure_model(*args)
    )
    command = ["--config-file", *map(str, files), "--size", "64", "64", "--device", "cpu"]
    assert analyze.main(command) == 0
    assert len(measured) == 1 and measured[0][1] == (64, 64)
    assert all(str(path) in capsys.readouterr().out for path in files[:1])


def test_models_that_differ_in_their_masks_are_measured_each(repository, tmp_path, monkeypatch):
    base, files = repository / "configs/quickstart/cascade_mask_rcnn.yaml", []
    for number in (10, 100):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(f"_BASE_: {base}\nTEST: {{DETECTIONS_PER_IMAGE: {number}}}\n")
    measured = []
    monkeypatch.setattr(analysis, "measure_model", lambda cfg, *_: measured.append(cfg))
    monkeypatch.setattr(analysis, "format_costs", lambda costs: "")
    assert analyze.main(["--config-file", *map(str, files), "--device", "cpu"]) == 0
    assert [cfg.TEST.DETECTIONS_PER_IMAGE for cfg in measured] == [10, 100]


@pytest.mark.parametrize(
    "option,message",
    [(("--device", "cuda"), "no usable GPU"), (("--size", "0", "64"), "two positive")],
)
def test_options_that_cannot_be_are_told_at_once(monkeypatch, capsys, option, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert analyze.main(["--all", *option]) == 2
    assert message in capsys.readouterr().err


def test_all_models_of_the_project_are_taken(repository, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(analyze, "measure_all", lambda paths, args: taken.extend(paths) or {})
    assert analyze.main(["--all"]) == 0
    names = {str(path.relative_to(repository / "configs")) for path in taken}
    assert "quickstart/dual_attention.yaml" in names
    assert "sparse_rcnn/sparsercnn.res101.300pro.3x.yaml" in names
    assert not any("Base" in name or name.startswith("sweeps") for name in names)


def test_a_missing_file_is_named(capsys):
    assert analyze.main(["--config-file", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
