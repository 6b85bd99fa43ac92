"""Configs load without running code, and mistakes in them are named."""

import os

import pytest
import torch
import yaml
from detectron2.config import get_cfg

from sparsercnn import add_sparsercnn_config, get_config
from sparsercnn.engine.arguments import argument_parser
from sparsercnn.engine.config_check import check_gpus
from sparsercnn.engine.config_merge import merge_text
from sparsercnn.engine.devices import check_devices
from sparsercnn.engine.setup import load_config, load_demo_config
from sparsercnn.engine.setup import setup as set_up_run  # pytest calls what is named setup
from sparsercnn.errors import ConfigError
from sparsercnn.inference.class_names import choose_class_names

RUNS_CODE = "MODEL:\n  WEIGHTS: !!python/object/apply:os.system ['mkdir %s']\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def load(path, opts=(), **kwargs):
    return load_config(path, opts, register=False, **kwargs)


def test_defaults_file_base_and_overrides_are_merged_in_that_order(write):
    write("base.yaml", "SEED: 1\nVERSION: 2\nMODEL:\n  SparseRCNN:\n    NUM_CLASSES: 7\n")
    path = write("config.yaml", "_BASE_: base.yaml\nSEED: 2\n")
    cfg = load(path, ["SOLVER.MAX_ITER", "9"])
    assert cfg.SEED == 2 and cfg.MODEL.SparseRCNN.NUM_CLASSES == 7 and cfg.SOLVER.MAX_ITER == 9
    assert cfg.MODEL.SparseRCNN.NHEADS == 8
    assert cfg.is_frozen()


@pytest.mark.parametrize("in_base", [False, True])
def test_python_tags_are_refused_and_the_file_that_has_them_named(write, tmp_path, in_base):
    trap = tmp_path / "trap"
    tagged = write("tagged.yaml", RUNS_CODE % trap)
    path = write("config.yaml", "_BASE_: tagged.yaml\nVERSION: 2\n") if in_base else tagged
    with pytest.raises(ConfigError, match=r"os\.system.*--allow-unsafe") as error:
        load(path)
    assert f"{tagged}, line 2" in str(error.value)
    assert not trap.exists()


def test_the_opt_out_allows_python_tags(write):
    write("base.yaml", "SEED: !!python/object/apply:abs [-5]\nVERSION: 2\n")
    path = write("config.yaml", "_BASE_: base.yaml\n")
    assert load(path, allow_unsafe=True).SEED == 5


@pytest.mark.parametrize(
    "text, key, nearest",
    [
        ("MODEL: {SparseRCNN: {NUM_CLASS: 3}}", "MODEL.SparseRCNN.NUM_CLASS", "NUM_CLASSES"),
        ("MODEL: {SPARSERCNN: {NUM_CLASSES: 3}}", "MODEL.SPARSERCNN", "MODEL.SparseRCNN?"),
        ("MODEL: {NUM_PROPOSALS: 3}", "MODEL.NUM_PROPOSALS", "MODEL.SparseRCNN.NUM_PROPOSALS"),
    ],
)
def test_an_unknown_key_in_a_file_is_named_with_the_nearest(write, text, key, nearest):
    path = write("config.yaml", text + "\nVERSION: 2\n")
    with pytest.raises(ConfigError) as error:
        load(path)
    message = str(error.value)
    assert path in message and f"no key {key}." in message and nearest in message


@pytest.mark.parametrize(
    "opts, expected",
    [
        (["SOLVER.MAXITER", "1"], "no key SOLVER.MAXITER. Did you mean SOLVER.MAX_ITER?"),
        (["model.weights", "x"], "Did you mean MODEL.WEIGHTS?"),
        (["MODEL.WEIGHTS", "a", "--resume"], "--resume must come before"),
        (["SEED"], "'SEED' has no key or no value"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
    ],
)
def test_mistakes_in_overrides_are_named(write, opts, expected):
    with pytest.raises(ConfigError) as error:
        load(write("config.yaml", "VERSION: 2\n"), opts)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("SEED: [1\nVERSION: 2\n", "line 2"),
        ("", "not a mapping of keys to values"),
        ("- 1\n", "not a mapping of keys to values"),
        ("_BASE_: config.yaml\n", "refers back to this file"),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        ("SOLVER: {MAX_ITER: many}\nVERSION: 2\n", "SOLVER.MAX_ITER"),
    ],
)
def test_broken_files_are_named(write, text, expected):
    path = write("config.yaml", text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert path in str(error.value) and expected in str(error.value)


@pytest.mark.parametrize("path", ["", "nowhere.yaml"])
def test_a_missing_config_is_an_error(path):
    with pytest.raises(ConfigError, match="--config-file|nowhere.yaml"):
        load(path)


def test_a_key_of_the_neck_that_the_builder_does_not_read_is_an_error(write):
    path = write("c.yaml", "VERSION: 2\nMODEL: {BACKBONE: {NAME: build_resnet_fpn_backbone}}")
    with pytest.raises(ConfigError, match="AGGREGATION msca has no effect.*attention_fpn"):
        load(path, ["MODEL.FPN.AGGREGATION", "msca"])
    with pytest.raises(ConfigError, match="RES5_ATTENTION projected has no effect"):
        load(path, ["MODEL.RESNETS.RES5_ATTENTION", "projected"])
    attends = ["MODEL.BACKBONE.NAME", "build_resnet_attention_fpn_backbone"]
    load(path, ["MODEL.FPN.AGGREGATION", "msca", *attends])
    with pytest.raises(ConfigError, match="RES4_DILATION 2 has no effect.*build_dilated_resnet"):
        load(path, ["MODEL.RESNETS.RES4_DILATION", "2"])
    dilated = ["MODEL.BACKBONE.NAME", "build_dilated_resnet_backbone"]
    load(path, ["MODEL.RESNETS.RES4_DILATION", "2", *dilated])
    with pytest.raises(ConfigError, match="RES5_ATTENTION projected has no effect"):
        load(path, ["MODEL.RESNETS.RES5_ATTENTION", "projected", *dilated])


def test_a_key_of_before_the_first_release_is_left_out(write):
    """Checkpoints of then, and the config.yaml of their runs, name it."""
    text = "VERSION: 2\nMODEL: {META_ARCHITECTURE: SparseRCNN, FPN: {DUAL_ATTENTION: false}}"
    assert "DUAL_ATTENTION" not in load(write("c.yaml", text)).MODEL.FPN
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    merge_text(cfg, text, "model.pth")
    assert cfg.MODEL.META_ARCHITECTURE == "SparseRCNN" and "DUAL_ATTENTION" not in cfg.MODEL.FPN


@pytest.mark.parametrize(
    "key, value, backbone",
    [
        ("MODEL.TIMM.NAME", "convnext_atto", "build_timm_fpn_backbone or build_timm_backbone"),
        ("MODEL.TIMM.PRETRAINED", "x.pth", "build_timm_fpn_backbone or build_timm_backbone"),
        ("MODEL.VIT.DEPTH", "3", "build_vit_backbone"),
        ("MODEL.VIT.PRETRAINED", "x.pth", "build_vit_backbone"),
    ],
)
def test_a_key_of_a_backbone_that_is_not_in_use_is_an_error(repository, key, value, backbone):
    path = str(repository / "configs/quickstart/sparsercnn.yaml")
    with pytest.raises(ConfigError, match=f"{key} {value} has no effect.*set that to {backbone}"):
        load(path, [key, value])
    load(path, [key, value, "MODEL.BACKBONE.NAME", backbone.partition(" ")[0]])


def test_every_key_of_these_backbones_is_known_to_the_check(repository):
    from sparsercnn.engine.config_check import _READ_WITH

    cfg = load(str(repository / "configs/quickstart/sparsercnn.yaml"))
    keys = {f"{part}.{key}" for part in ("TIMM", "VIT") for key in cfg.MODEL[part]}
    assert keys <= _READ_WITH.keys()


def test_a_key_of_danet_that_nothing_reads_is_an_error(repository):
    path = str(repository / "configs/quickstart/danet.yaml")
    projected = ["MODEL.DANET.ATTENTION", "projected"]
    mined = ["MODEL.SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining"]
    for key, value, switch in (
        ("MODEL.DANET.DROPOUT", "0.2", projected),
        ("MODEL.SEM_SEG_HEAD.LOSS_TOP_K", "0.5", mined),
    ):
        with pytest.raises(
            ConfigError, match=f"{key} {value} has no effect.*set that to {switch[1]}"
        ):
            load(path, [key, value])
        load(path, [key, value, *switch])
    load(path, ["MODEL.DANET.DROPOUT", "0.0"])


@pytest.mark.parametrize(
    "architecture,opts,expected",
    [
        ("GeneralizedRCNN", ["TEST.AUG.ENABLED", "True"], "AUG.ENABLED is for SparseRCNN, not"),
        ("SparseRCNN", ["TEST.SEM_SEG.FLIP", "True"], "SEM_SEG.FLIP True has no effect"),
        (
            "SparseRCNN",
            ["TEST.PRECISE_BN.ENABLED", "True", "SOLVER.EMA.ENABLED", "True"],
            "PRECISE_BN.ENABLED True has no effect.*SOLVER.EMA.ENABLED.*Set one",
        ),
        ("SparseRCNN", ["INPUT.SIZE_BUCKET", "-1"], "INPUT.SIZE_BUCKET is -1; it must"),
        ("GeneralizedRCNN", ["INPUT.SIZE_BUCKET", "128"], "SIZE_BUCKET 128 has no effect on Gen"),
        ("SparseRCNN", ["TEST.SIZE_BUCKET", "-1"], "TEST.SIZE_BUCKET is -1; it must"),
        (
            "SemanticSegmentor",
            ["TEST.SEM_SEG.SCALES", "()"],
            "SCALES is .*must be a list of 1 or more",
        ),
        ("SemanticSegmentor", ["TEST.SEM_SEG.STRIDE", "(8, 8)"], "STRIDE .* without CROP_SIZE"),
    ],
)
def test_settings_for_input_and_testing_are_checked_at_the_start(
    write, architecture, opts, expected
):
    path = write("c.yaml", f"VERSION: 2\nMODEL: {{META_ARCHITECTURE: {architecture}}}")
    load(path)
    with pytest.raises(ConfigError, match=expected):
        load(path, opts)


@pytest.mark.parametrize(
    "key, value",
    [("WEIGHT_DECAY_NORM", "0.01"), ("WEIGHT_DECAY_BIAS", "0.0"), ("BIAS_LR_FACTOR", "2.0")],
)
def test_detectron2s_keys_for_norms_and_biases_have_no_effect(key, value):
    with pytest.raises(ConfigError, match=f"SOLVER.{key} {value} has no effect.*NO_DECAY_NORM_B"):
        load("quickstart/sparsercnn", [f"SOLVER.{key}", value])


def test_precise_statistics_of_a_shared_mask_head_are_refused_at_the_start():
    precise = ["TEST.PRECISE_BN.ENABLED", "True"]
    with pytest.raises(ConfigError, match=r"batch norms that several stages share.*MASK\.SHARED"):
        load("quickstart/queryinst", precise)
    for opts in (
        ["MODEL.SparseRCNN.MASK.SHARED", "False"],
        ["MODEL.SparseRCNN.MASK.NORM", "GN"],
        ["MODEL.SparseRCNN.DEEP_SUPERVISION", "False"],
        ["MODEL.MASK_ON", "False"],
    ):
        load("quickstart/queryinst", precise + opts)


def test_patience_needs_evaluations():
    patient = ["SOLVER.PATIENCE", "2"]
    periodic, in_epochs = ["TEST.EVAL_PERIOD", "50"], ["TEST.EVAL_EPOCHS", "1"]
    for opts in (
        [],  # the quickstart evaluates at the end alone
        [*periodic, "DATASETS.TEST", "()"],
        [*periodic, "TEST.BEST_METRIC", ""],
    ):
        with pytest.raises(ConfigError, match=r"PATIENCE 2 needs evaluations.*TEST\.EVAL_EPOCHS"):
            load("quickstart/sparsercnn", patient + opts)
    for opts in (periodic, in_epochs):
        load("quickstart/sparsercnn", patient + opts)


def test_data_sets_are_registered(write, monkeypatch):
    seen = []
    monkeypatch.setattr("sparsercnn.engine.setup.register_datasets", seen.extend)
    load_config(write("c.yaml", "VERSION: 2\nDATASETS: {TRAIN: ['coco:a@b'], TEST: ['voc:c@d']}"))
    assert seen == ["coco:a@b", "voc:c@d"]


def test_the_demo_does_without_the_data(write, caplog):
    path = write("c.yaml", "VERSION: 2\nMODEL: {DEVICE: cpu}\nDATASETS: {TEST: ['coco:a.json@b']}")
    cfg = load_demo_config(path)
    assert cfg.DATASETS.TEST == ("coco:a.json@b",)
    assert choose_class_names(cfg, {}).things == []
    assert "Classes are numbered" in caplog.text and "a.json" in caplog.text


def parse(*arguments):
    return argument_parser().parse_args(list(arguments))


def test_command_line():
    args = parse("--config-file", "c", "--num-gpus", "0", "--allow-unsafe", "SEED", "1")
    assert args.allow_unsafe and args.num_gpus == 0 and args.opts == ["SEED", "1"]
    assert not parse().allow_unsafe


def test_setup_prepares_a_run_on_cpu(write, tmp_path):
    path = write("c.yaml", "VERSION: 2\nSEED: 3\nMODEL: {DEVICE: cuda}\n")
    output = str(tmp_path / "out")
    cfg = set_up_run(parse("--config-file", path, "--num-gpus", "0", "OUTPUT_DIR", output))
    first = torch.rand(1)
    assert cfg.MODEL.DEVICE == "cpu" and cfg.is_frozen()
    assert os.path.isfile(os.path.join(output, "config.yaml"))
    # The copy of the config loads as safely as the one it is made from.
    copy = load(os.path.join(output, "config.yaml"))
    assert yaml.safe_load(copy.dump()) == yaml.safe_load(cfg.dump())
    set_up_run(parse("--config-file", path, "--num-gpus", "0", "OUTPUT_DIR", output))
    assert torch.equal(torch.rand(1), first), "SEED seeds"


def test_a_gpu_that_is_not_there_is_an_error(write, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = parse("--config-file", write("c.yaml", "VERSION: 2\nMODEL: {DEVICE: cuda}\n"))
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE cpu.*--num-gpus 0"):
        set_up_run(args)


def test_more_gpus_than_there_are_is_an_error(write, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = load(write("c.yaml", "VERSION: 2\nMODEL: {DEVICE: cuda}\n"))
    check_devices(cfg, 2)
    with pytest.raises(ConfigError, match="there are 2"):
        check_devices(cfg, 3)
    on_cpu = load(write("c.yaml", "VERSION: 2\nMODEL: {DEVICE: cpu}\n"))
    check_devices(on_cpu, 1)
    with pytest.raises(ConfigError, match="--num-gpus 0"):
        check_devices(on_cpu, 2)


@pytest.mark.parametrize("available, expected", [(True, "cuda"), (False, "cpu")])
def test_the_device_is_chosen_unless_it_is_named(write, monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    unnamed, auto = write("plain.yaml", "SEED: 1\n"), write("auto.yaml", "MODEL: {DEVICE: auto}\n")
    for path in (unnamed, auto):
        assert expected == load_config(path).MODEL.DEVICE == get_config(path).MODEL.DEVICE
        assert load_config(path, choose_device=False).MODEL.DEVICE == "auto"
    named = load_config(unnamed, ["MODEL.DEVICE", "cuda:1"])
    assert named.MODEL.DEVICE == "cuda:1"


def test_half_precision_for_a_device_that_another_machine_chooses(write, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = write("half.yaml", "TEST: {DTYPE: float16}\n")
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        load_config(path)
    cfg = load_config(path, choose_device=False)
    check_gpus(cfg, 1)


def test_plain_detectron2_keeps_its_default_device():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    assert cfg.MODEL.DEVICE == "cuda"  # build_model takes no "auto"
