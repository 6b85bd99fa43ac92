import argparse
import json
import re
import sys

import pytest

from sparsercnn.benchmark import detector
from sparsercnn.benchmark.detector import find_candidates
from sparsercnn.benchmark.peers import PEERS
from sparsercnn.errors import ConfigError


@pytest.fixture
def parse(squares):
    """Parses options after the name of the tiny config; its images have 64 x 64 pixels."""

    def parse(*options, configs=(squares / "tiny.yaml",)):
        parser = argparse.ArgumentParser()
        detector.add_arguments(parser)
        size = ["--size", "64", "64", "--device", "cpu", "--rounds", "2"]
        return parser.parse_args([*map(str, configs), *size, *options])

    return parse


def _tables(text):
    """Rows of cells of all tables in a Markdown text, without headers."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [row for row in rows if not set(row[0]) <= set(":-")]


def test_the_tables_show_what_is_in_the_json(parse, tmp_path):
    path = tmp_path / "figures.json"
    text = detector.run(
        parse("--variant", "one: MODEL.SparseRCNN.NUM_HEADS 1", "--output-json", str(path))
    )
    report = json.loads(path.read_text())
    assert text.startswith("Batch of 1 at 64x64, float32, CPU")
    assert [(x["model"], x["variant"], x["mode"]) for x in report["results"]] == [
        ("tiny", "", "inference"),
        ("tiny, one", "one", "inference"),
        ("tiny", "", "training"),
        ("tiny, one", "one", "training"),
    ]
    rows = _tables(text)
    for mode in ("inference", "training"):
        first, second = (x for x in report["results"] if x["mode"] == mode)
        for result in (first, second):
            least = min(result["seconds"])
            ratios = [
                f"{least / min(first['seconds']):.2f}",
                f"{result['peak'] / first['peak']:.2f}",
                f"{result['operators'] / first['operators']:.2f}",
            ]
            expected = [result["model"], f"{1e3 * least:,.1f}", ratios[0], ratios[0]]
            expected += [f"{result['peak'] / 2**20:,.0f}", ratios[1]]
            expected += [f"{result['operators']:,}", ratios[2], "-", "-"]
            assert expected in rows
        both = [first, second]
        wholes = [sum(x["parts"].values()) for x in both]
        for part in ("backbone", "pooling", "other"):
            cells = [part]
            for result, whole in zip(both, wholes, strict=True):
                seconds = result["parts"][part]
                cells += [f"{1e3 * seconds:,.1f}", f"{100 * seconds / whole:.1f}"]
            assert cells in rows
        assert second["operators"] < first["operators"]
    assert rows[1][2:4] == ["1.00", "1.00"] and rows[1][5] == rows[1][7] == "1.00"
    assert list(report["loading"].values()) > [0]


def test_a_setting_of_all_configs_and_one_mode(parse, squares, monkeypatch):
    other = squares / "other.yaml"
    other.write_text(f'_BASE_: "{squares}/tiny.yaml"\nMODEL: {{SparseRCNN: {{NUM_HEADS: 1}}}}\n')
    options = ["--mode", "inference", "--images", "2", "--dtype", "bfloat16"]
    options += ["--opts", "MODEL.SparseRCNN.NUM_PROPOSALS", "5"]
    args = parse(*options, configs=(squares / "tiny.yaml", other))
    assert {x.cfg.MODEL.SparseRCNN.NUM_PROPOSALS for x in find_candidates(args)[0]} == {5}
    report = detector.measure(args)
    assert [(x["model"], len(x["stages"])) for x in report["results"]] == [
        ("tiny", 2),
        ("other", 1),
    ]
    assert {x["mode"] for x in report["results"]} == {"inference"}
    assert report["settings"]["images"] == 2


def test_models_are_named_by_what_tells_them_apart(parse, squares):
    folder = squares / "folder"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(f'_BASE_: "{squares}/tiny.yaml"\n')
    paths = (squares / "tiny.yaml", folder / "tiny.yaml")
    candidates, notes = find_candidates(parse(configs=paths))
    assert [x.name for x in candidates] == [str(path) for path in paths]
    assert not notes


def test_training_is_as_the_options_say(parse, squares):
    opts = ["SOLVER.ACCUMULATE_STEPS", "8"]
    (candidate,), _ = find_candidates(parse("--opts", *opts))
    assert candidate.cfg.SOLVER.ACCUMULATE_STEPS == 1
    assert not candidate.cfg.SOLVER.AMP.ENABLED
    half = "SOLVER.AMP.ENABLED True SOLVER.AMP.DTYPE bfloat16 TEST.DTYPE bfloat16"
    _, candidate = find_candidates(parse("--variant", f"half: {half}"))[0]
    assert candidate.cfg.SOLVER.AMP.ENABLED and candidate.cfg.TEST.DTYPE == "bfloat16"
    (candidate,), _ = find_candidates(parse("--dtype", "bfloat16"))
    assert candidate.cfg.TEST.DTYPE == "bfloat16"
    assert candidate.cfg.SOLVER.AMP.ENABLED and candidate.cfg.SOLVER.AMP.DTYPE == "bfloat16"
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        detector.run(parse("--dtype", "float16", "--mode", "training"))


def test_a_peer_that_is_not_installed_is_left_out_and_the_rest_measured(parse, monkeypatch):
    def missing():
        raise ImportError("No module named 'transformers'")

    name = "transformers DETR R50"
    monkeypatch.setattr(PEERS[name], "require", staticmethod(missing))
    candidates, notes = find_candidates(parse("--peers"))
    assert [x.name for x in candidates] == ["tiny", "torchvision Faster R-CNN R50-FPN"]
    assert notes == [f"{name} is left out: No module named 'transformers'."]


def test_a_runtime_that_is_not_installed_is_left_out(parse, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    candidates, notes = find_candidates(parse("--runtime", "openvino"))
    assert [x.name for x in candidates] == ["tiny"]
    assert "openvino is left out" in notes[0] and "[export]" in notes[0]


def test_a_runtime_has_a_row_in_inference(parse):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    text = detector.run(parse("--runtime", "onnxruntime", "--mode", "both", "--rounds", "1"))
    inference, training = text.split("### Training")
    assert [row[0] for row in _tables(inference)[1:3]] == ["tiny", "tiny, onnxruntime"]
    assert "onnxruntime" not in training.split("Weights are random")[0]


def test_a_peer_has_a_row_and_its_own_parts(parse, monkeypatch):
    for name, peer in PEERS.items():
        if "transformers" in name:
            monkeypatch.setattr(peer, "require", staticmethod(_missing))
    text = detector.run(
        parse("--peers", "--variant", "same:", "--mode", "inference", "--rounds", "1")
    )
    rows = _tables(text)
    names = [row[0] for row in rows[1:4]]
    assert names == ["tiny", "tiny, same", "torchvision Faster R-CNN R50-FPN"]
    assert rows[3][3] == "-"  # it has no config
    assert "left out: not here" in re.sub(r"\s+", " ", text)
    peer_parts = text.split("#### torchvision Faster R-CNN R50-FPN: parts of inference")[1]
    assert [row[0] for row in _tables(peer_parts)][:6] == [
        "part",
        "preprocessing",
        "backbone",
        "neck",
        "proposals",
        "roi heads",
    ]


def _missing():
    raise ImportError("not here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variant", "MODEL.MASK_ON True"], "must have the form 'NAME: KEY VALUE"),
        (["--variant", "a: MODEL.MASK_ON True", "--variant", "a:"], "a is given twice"),
        (["--variant", "a: MODEL.MASK_ONN True"], "Did you mean MODEL.MASK_ON"),
        (["--rounds", "0"], "--rounds is 0; it must be 1 or more"),
        (["--images", "0"], "--images is 0"),
        (["--output-json", "nowhere/at/all.json"], "nowhere/at/all.json: its folder does not"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(parse, options, message):
    with pytest.raises(ConfigError, match=message):
        detector.run(parse(*options))


def test_a_config_that_is_given_twice_is_refused(parse, squares):
    with pytest.raises(ConfigError, match="given twice"):
        detector.run(parse(configs=2 * (squares / "tiny.yaml",)))


def test_the_short_form_measures_the_quickstart(repository, monkeypatch):
    monkeypatch.chdir(repository)
    parser = argparse.ArgumentParser()
    detector.add_arguments(parser)
    (candidate,), _ = find_candidates(parser.parse_args(["--device", "cpu"]))
    assert detector.SHORT and candidate.config == "quickstart/sparsercnn"
