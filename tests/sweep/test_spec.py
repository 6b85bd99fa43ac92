"""What a sweep's YAML file may say, and what it is told where it may not."""

from pathlib import Path

import pytest
import yaml

from sparsercnn.sweep import SweepError, load_sweep

MATCHERS = {
    "hungarian": {},
    "transport": {"MODEL.SparseRCNN": {"MATCHER.NAME": "optimal_transport"}},
}


@pytest.fixture
def write(tmp_path, repository):
    def write(**content):
        base = repository / "configs" / "quickstart" / "sparsercnn.yaml"
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"base": str(base), **content}, sort_keys=False))
        return path

    return write


def test_a_grid_crosses_its_axes(write):
    axes = {"MODEL.SparseRCNN.NUM_HEADS": [2, 4], "matcher": MATCHERS}
    sweep = load_sweep(write(axes=axes, seeds=[1, 2]), output="out")
    assert [v.name for v in sweep.variants] == [
        "NUM_HEADS=2+hungarian",
        "NUM_HEADS=2+transport",
        "NUM_HEADS=4+hungarian",
        "NUM_HEADS=4+transport",
    ]
    assert sweep.baseline == "NUM_HEADS=2+hungarian"
    assert sweep.axes["matcher"] == ["hungarian", "transport"]
    assert len(sweep.runs) == 8 and len({run.folder for run in sweep.runs}) == 8
    run = sweep.runs[-1]
    cfg = run.load_config()
    assert cfg.SEED == 2 and cfg.MODEL.SparseRCNN.NUM_HEADS == 4
    assert cfg.MODEL.SparseRCNN.MATCHER.NAME == "optimal_transport"
    assert run.folder == Path(cfg.OUTPUT_DIR)


def test_a_variant_overrides_the_sweep_and_the_command_line_all_but_that(write):
    file = write(
        overrides={"SOLVER": {"MAX_ITER": 50, "BASE_LR": 0.1}},
        variants={"plain": {}, "long": {"SOLVER.MAX_ITER": 70}},
    )
    sweep = load_sweep(file, ["SOLVER.BASE_LR", "0.2"])
    plain, long = (run.load_config() for run in sweep.runs)
    assert (plain.SOLVER.MAX_ITER, long.SOLVER.MAX_ITER) == (50, 70)
    assert plain.SOLVER.BASE_LR == long.SOLVER.BASE_LR == 0.2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASETS.TRAIN", ["coco:a.json@b", "c"]),
        ("MODEL.WEIGHTS", "8"),
        ("MODEL.WEIGHTS", ""),
        ("MODEL.MASK_ON", True),
        ("SOLVER.BASE_LR", 1e-5),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32]]),
    ],
)
def test_values_reach_the_config_as_they_are(write, key, value):
    node = load_sweep(write(variants={"a": {key: value}})).runs[0].load_config()
    for part in key.split("."):
        node = node[part]
    assert node == (tuple(value) if key == "DATASETS.TRAIN" else value)
    assert not isinstance(value, str) or isinstance(node, str)


def test_only_some_variants(write):
    file = write(variants={"a": {}, "b": {}, "c": {}})
    assert [run.variant.name for run in load_sweep(file, only=["c", "a"]).runs] == ["a", "c"]
    with pytest.raises(SweepError, match="no variant 'aa'.*Did you mean a"):
        load_sweep(file, only=["aa"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"variants": {"a": {"SOLVER.MAX_ITERS": 3}}}, "'a'.*Did you mean SOLVER.MAX_ITER"),
        ({"variants": {"a": {"SOLVER.MAX_ITER": "x"}}}, "'a'.*MAX_ITER"),
        ({"axes": {"MODEL.NUM_HEADS": [1]}}, "Did you mean.*MODEL.SparseRCNN.NUM_HEADS"),
        ({"axes": {"matcher": []}}, "the axis matcher must be a list"),
        ({"variants": {}}, "variants must be a mapping"),
        ({"variants": {"a": {}}, "axes": {"SEED": [1]}}, "either 'axes'"),
        ({"variants": {"a": {"SEED": 3}}}, "sets SEED.*'seeds'"),
        ({"variants": {"a b": {}, "a_b": {}}}, "'a b' and 'a_b' would share a folder"),
        ({"variants": {"a": {}}, "baseline": "b"}, "baseline 'b' is none of: a"),
        ({"variants": {"a": {}}, "seeds": [1, 1]}, "a number twice"),
        ({"variants": {"a": {}}, "seeds": [-1]}, "whole numbers"),
        ({"variants": {"a": {}}, "sseds": [1]}, "no key 'sseds'. Did you mean seeds"),
        ({"variants": {"a": {}}, "resources": {"gpu": 1}}, "no 'gpu'. Did you mean gpus"),
        ({"variants": {"a": {}}, "resources": {"parallel": 0}}, "parallel is 0"),
        ({"variants": {"a": {}}, "resources": {"nodes": 2}}, "needs cluster slurm"),
        ({"variants": {"a": {}}, "resources": {"cluster": "lsf"}}, "local or slurm"),
        ({"variants": {"a": {}}, "base": "nowhere.yaml"}, "nowhere.yaml, does not exist"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(write, content, message):
    with pytest.raises(SweepError, match=message):
        load_sweep(write(**content))


def test_a_file_that_is_no_sweep(tmp_path):
    with pytest.raises(SweepError, match="cannot be read"):
        load_sweep(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SweepError, match="no mapping"):
        load_sweep(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("{")
    with pytest.raises(SweepError, match="not YAML"):
        load_sweep(tmp_path / "broken.yaml")


def test_flags_replace_the_resources_of_the_file(write):
    file = write(variants={"a": {}}, resources={"parallel": 2, "gpus": 1})
    resources = load_sweep(file, parallel=4, gpus=None).resources
    assert (resources.parallel, resources.gpus) == (4, 1)


def test_the_sweeps_in_configs_are_accepted(repository):
    files = sorted((repository / "configs" / "sweeps").glob("*.yaml"))
    assert files
    for file in files:
        sweep = load_sweep(file)
        assert len(sweep.variants) > 1
