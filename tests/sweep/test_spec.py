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


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.STEPS", "(5, 7)", (5, 7)),
        ("DATASETS.TRAIN", '("shapes_train",)', ("shapes_train",)),
        ("MODEL.WEIGHTS", "8", "8"),
    ],
)
def test_values_may_be_written_as_in_a_config(write, key, text, value):
    for sweep in (
        load_sweep(write(variants={"a": {key: text}})),
        load_sweep(write(axes={key: [text]})),
        load_sweep(write(variants={"a": {}}), [key, text]),
    ):
        node = sweep.runs[0].load_config()
        for part in key.split("."):
            node = node[part]
        assert node == value


def test_an_override_of_the_command_line_is_never_lost(write):
    file = write(variants={"a": {"SOLVER": {"BASE_LR": 0.1}}, "b": {}})
    with pytest.raises(SweepError, match="BASE_LR cannot be overridden: variant 'a' sets it"):
        load_sweep(file, ["SOLVER.BASE_LR", "0.5"])
    with pytest.raises(SweepError, match="--opts sets SEED; that is what 'seeds' is for"):
        load_sweep(file, ["SEED", "7"])


def test_a_key_that_is_there_twice_is_refused(write):
    file = write(variants={"a": {}})
    file.write_text(f"{file.read_text()}  a: {{SOLVER.MAX_ITER: 5}}\n")
    with pytest.raises(SweepError, match="the key 'a' is there twice"):
        load_sweep(file)


def test_only_some_variants(write):
    file = write(variants={"a": {}, "b": {}, "c": {}})
    assert [run.variant.name for run in load_sweep(file, only=["c", "a"]).runs] == ["a", "c"]
    assert load_sweep(file, only=["c"]).baseline == "a"  # which a report will ask for
    with pytest.raises(SweepError, match="no variant 'aa'.*Did you mean a"):
        load_sweep(file, only=["aa"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"variants": {"a": {"SOLVER.MAX_ITERS": 3}}}, "'a'.*Did you mean SOLVER.MAX_ITER"),
        ({"variants": {"a": {"SOLVER.MAX_ITER": "x"}}}, "'a'.*MAX_ITER"),
        ({"axes": {"MODEL.NUM_HEADS": [1]}}, "Did you mean.*MODEL.SparseRCNN.NUM_HEADS"),
        ({"axes": {"matcher": []}}, "the axis matcher must be a list"),
        ({"variants": {}}, "give either 'axes'"),
        ({"variants": ["a"]}, "variants: .*ListConfig"),
        ({"variants": {"a": {}}, "axes": {"SEED": [1]}}, "either 'axes'"),
        ({"variants": {"a": {"SEED": 3}}}, "sets SEED.*'seeds'"),
        ({"variants": {"a b": {}, "a_b": {}}}, "'a b' and 'a_b' would share a folder"),
        ({"variants": {"a": {}}, "baseline": "b"}, "no variant 'b'. There are: a"),
        ({"variants": {"a": {}}, "seeds": [1, 1]}, "different whole numbers"),
        ({"variants": {"a": {}}, "seeds": [-1]}, "whole numbers"),
        ({"variants": {"a": {}}, "sseds": [1]}, "no key 'sseds'. Did you mean seeds"),
        (
            {"variants": {"a": {}}, "resources": {"gpu": 1}},
            "no key 'resources.gpu'. Did you mean gpus",
        ),
        ({"variants": {"a": {}}, "resources": {"parallel": 0}}, "parallel is 0"),
        ({"variants": {"a": {}}, "resources": {"nodes": 2}}, "needs cluster slurm"),
        ({"variants": {"a": {}}, "resources": {"cluster": "lsf"}}, "local or slurm"),
        ({"variants": {"a": {}}, "base": "nowhere.yaml"}, "nowhere.yaml, does not exist"),
        ({"variants": {"a": {}}, "base": None}, "base: Incompatible value 'None'"),
        ({"variants": {"a": {}}, "title": ""}, "metric, title or output is empty"),
        ({"variants": {"a": {}}, "metric": ["bbox/AP"]}, "metric: Cannot convert"),
        ({"variants": {"a": {}}, "resources": 3}, "resources: Merge error: int"),
        ({"variants": {"a": {}}, "seeds": [1.5]}, r"seeds\[0\]: Value '1.5'"),
        ({"variants": {"a": {}}, "resources": {"parallel": True}}, "parallel: Value 'True'"),
        ({"variants": {"a": {}}, "resources": {"hours": 86400}}, "hours is 86400.*24:00:00"),
        ({"variants": {"a": {}}, "resources": {"hours": "1:30"}}, "hours: Value '1:30'"),
        ({"variants": {"a": {}}, "resources": {"memory_gb": "32GB"}}, "memory_gb: Value '32GB'"),
        (
            {"variants": {"a": {}}, "resources": {"partition": [3]}},
            "resources.partition: Cannot convert",
        ),
        ({"variants": {"..": {}}}, "'..' cannot be the name"),
        ({"variants": {"report": {}}}, "'report' cannot be the name"),
        ({"variants": {"a" * 300: {}}}, "cannot be the name"),
        ({"axes": {"SEED": [1, 2]}}, "axis SEED sets SEED; that is what 'seeds' is for"),
        ({"axes": {"SOLVER.MAX_ITER": [5, 5, 6]}}, "a value twice"),
        (
            {"axes": {"SOLVER.MAX_ITER": [5, 6], "x": {"a": {"SOLVER": {"MAX_ITER": 7}}}}},
            "the axes SOLVER.MAX_ITER and x both set SOLVER.MAX_ITER",
        ),
        (
            {"variants": {"a": {"SOLVER.MAX_ITER": 1, "SOLVER": {"MAX_ITER": 2}}}},
            "a sets SOLVER.MAX_ITER twice",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_starts(write, content, message):
    with pytest.raises(SweepError, match=message):
        load_sweep(write(**content))


def test_a_file_that_is_no_sweep(tmp_path):
    with pytest.raises(SweepError, match="nowhere.yaml cannot be used: .*does not exist"):
        load_sweep(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SweepError, match="list.yaml cannot be used: it must have keys"):
        load_sweep(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("{")
    with pytest.raises(SweepError, match="broken.yaml cannot be used: .*line 1: invalid YAML"):
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
        assert len(sweep.runs) > 1
