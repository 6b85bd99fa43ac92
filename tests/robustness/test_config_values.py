"""Every config key refuses what it cannot use, in one line that names the key, before anything is
built; and what says the same as a right value is right."""

import contextlib
import itertools
import os
import re

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from sparsercnn import add_sparsercnn_config
from sparsercnn.config_docs import make_page
from sparsercnn.config_schema import rows
from sparsercnn.engine import model_check
from sparsercnn.engine.config_check import check_config
from sparsercnn.engine.config_merge import merge_opts
from sparsercnn.engine.model_check import check_model
from sparsercnn.engine.overrides import flatten
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError
from sparsercnn.modeling.freezing import freeze

# Keys, values as on a command line, and what the message says beside the key.
REFUSED = """
MODEL.SparseRCNN.NUM_PROPOSALS | 0 | from 1 to 10,000
MODEL.SparseRCNN.NUM_PROPOSALS | -5 | from 1 to 10,000
MODEL.SparseRCNN.NUM_PROPOSALS | 1000000000 | from 1 to 10,000
MODEL.SparseRCNN.NUM_PROPOSALS | 2.5 | must be a whole number
MODEL.SparseRCNN.NUM_PROPOSALS | True | must be a whole number
MODEL.SparseRCNN.NUM_PROPOSALS | None | must be a whole number
MODEL.SparseRCNN.NUM_CLASSES | 0 | from 1
MODEL.SparseRCNN.NUM_HEADS | 0 | from 1 to 64
MODEL.SparseRCNN.NHEADS | 7 | does not divide HIDDEN_DIM 256
MODEL.SparseRCNN.NHEADS | 0 | from 1
MODEL.SparseRCNN.HIDDEN_DIM | 0 | from 1
MODEL.SparseRCNN.DIM_FEEDFORWARD | 1000000000 | from 1 to 65,536
MODEL.SparseRCNN.DROPOUT | 1.5 | below 1
MODEL.SparseRCNN.DROPOUT | nan | is nan; it must be a number
MODEL.SparseRCNN.ACTIVATION | tanh | relu or gelu
MODEL.SparseRCNN.NUM_CLS | -1 | from 0
MODEL.SparseRCNN.INTERACTION | dynamic_konv | registry has dual_attention, dynamic_conv
MODEL.SparseRCNN.INTERACTION | 3 | a name in the INTERACTION registry
MODEL.SparseRCNN.DIM_DYNAMIC | 0 | from 1
MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM | -1 | from 0
MODEL.SparseRCNN.DUAL_ATTENTION.PRE_NORM | 1 | True or False
MODEL.SparseRCNN.PROPOSALS.NAME | learnt | registry has dynamic, learned
MODEL.SparseRCNN.PROPOSALS.INIT | centre | image, center, grid or random
MODEL.SparseRCNN.PROPOSALS.NUM_EXPERTS | 0 | from 1
MODEL.SparseRCNN.PROPOSALS.TEMPERATURE | 0.5 | from 1
MODEL.SparseRCNN.MATCHER.NAME | greedy | registry has hungarian, optimal_transport
MODEL.SparseRCNN.MATCHER.K | 0 | from 1
MODEL.SparseRCNN.MATCHER.SINKHORN_EPS | 0.0 | from 0.0001
MODEL.SparseRCNN.MATCHER.ROUNDING | up | supply or largest_share
MODEL.SparseRCNN.CLASS_WEIGHT | -2.0 | from 0
MODEL.SparseRCNN.CLASS_WEIGHTS | (1.0, 0.0) | each a number above 0
MODEL.SparseRCNN.NO_OBJECT_WEIGHT | 0 | above 0
MODEL.SparseRCNN.ALPHA | -1 | from 0 to 1
MODEL.SparseRCNN.GAMMA | 1e999 | from 1 to 100, or 0
MODEL.SparseRCNN.GAMMA | 0.5 | from 1 to 100, or 0
MODEL.SparseRCNN.PRIOR_PROB | 0 | above 0 and below 1
MODEL.SparseRCNN.PRIOR_PROB | 1.0 | above 0 and below 1
MODEL.SparseRCNN.SCORE_THRESH_TEST | 2 | from 0 to 1
MODEL.SparseRCNN.NMS_THRESH_TEST | -0.1 | from 0 to 1
MODEL.DANET.ATTENTION | none | registry has parameter_free, projected
MODEL.DANET.DROPOUT | 1 | below 1
MODEL.SEM_SEG_HEAD.LOSS_TYPE | focal | cross_entropy or hard_pixel_mining
MODEL.SEM_SEG_HEAD.LOSS_TOP_K | 0 | above 0
MODEL.RESNETS.RES5_ATTENTION | full | registry has
MODEL.RESNETS.NORM | BatchNorm | FrozenBN
MODEL.RESNETS.RES5_DILATION | 3 | 1, 2 or 4
MODEL.FPN.AGGREGATION | mean | sum, mssa
MODEL.FPN.FUSE_TYPE | max | sum or avg
MODEL.BACKBONE.NAME | resnet50 | the BACKBONE registry has
MODEL.BACKBONE.FREEZE_AT | 9 | from 0 to 5
MODEL.META_ARCHITECTURE | SparseRCN | the META_ARCH registry has
MODEL.PROPOSAL_GENERATOR.NAME | RPM | the PROPOSAL_GENERATOR registry has
MODEL.ROI_HEADS.NAME | Cascade | the ROI_HEADS registry has
MODEL.ROI_MASK_HEAD.NAME | Mask | the ROI_MASK_HEAD registry has
MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION | 0 | from 1
MODEL.ROI_BOX_HEAD.POOLER_TYPE | Align | ROIAlignV2
MODEL.ROI_HEADS.IOU_THRESHOLDS | (0.5, 0.4) | must ascend
MODEL.RPN.IOU_LABELS | (0, 1) | have one label more
MODEL.DEVICE | gpu | must be auto, cpu, cuda
MODEL.DEVICE | cuda:x | must be auto, cpu, cuda
MODEL.WEIGHTS | 'a\\nb' | on one line
MODEL.PIXEL_MEAN | (1.0, 2.0) | has 2 values for the 3 channels
MODEL.PIXEL_STD | (1.0, 0.0, 1.0) | above 0
INPUT.FORMAT | GBR | BGR, RGB
INPUT.MIN_SIZE_TRAIN | () | 1 or more items
INPUT.MIN_SIZE_TRAIN | (0,) | from 1 to 16,384
INPUT.MIN_SIZE_TRAIN_SAMPLING | random | choice or range
INPUT.MIN_SIZE_TRAIN_SAMPLING | range | must be two sizes
INPUT.MAX_SIZE_TEST | 1000000000 | from 1 to 16,384
INPUT.RANDOM_FLIP | both | horizontal, vertical or none
INPUT.CROP.TYPE | square | absolute_range
INPUT.CROP.SIZE | (100, 100) | shares of the image
INPUT.SIZE_BUCKET | -1 | from 0
INPUT.MASK_FORMAT | rle | polygon or bitmask
DATASETS.TRAIN | (1, 2) | a text on one line
DATASETS.TRAIN | coco | a list of
DATALOADER.NUM_WORKERS | -1 | from 0 to 512
DATALOADER.NUM_WORKERS | 1000000000 | from 0 to 512
DATALOADER.SAMPLER_TRAIN | Sampler | TrainingSampler
SOLVER.OPTIMIZER | LAMB | ADAMW, SGD
SOLVER.BASE_LR | nan | must be a number above 0
SOLVER.BASE_LR | 0 | above 0
SOLVER.BASE_LR | -0.1 | above 0
SOLVER.BACKBONE_MULTIPLIER | -1.0 | from 0
MODEL.RESNETS.NORM | auto | for MODEL.BACKBONE.NAME build_dilated_resnet_backbone
MODEL.SEM_SEG_HEAD.NORM | auto | the DANetHead, and not for SemSegFPNHead
MODEL.ROI_HEADS.IN_FEATURES | () | 1 or more items
SOLVER.BOTTOM_UP_MULTIPLIER | -1.0 | from 0
SOLVER.ADAM_BETAS | (0.9,) | 2 items
SOLVER.ADAM_BETAS | (0.9, 1) | below 1
SOLVER.LR_SCHEDULER_NAME | Cosine | WarmupCosineLR
SOLVER.MAX_ITER | 0 | from 1
SOLVER.STEPS | (200, 100) | must ascend
SOLVER.WARMUP_METHOD | quadratic | linear or constant
SOLVER.IMS_PER_BATCH | 0 | from 1
SOLVER.ACCUMULATE_STEPS | 0 | from 1
SOLVER.CLIP_GRADIENTS.CLIP_TYPE | all | full_model
SOLVER.CLIP_GRADIENTS.CLIP_VALUE | 0 | above 0
SOLVER.AMP.DTYPE | half | float16 or bfloat16
SOLVER.CHECKPOINT_PERIOD | 0 | from 1
TEST.EVAL_PERIOD | -1 | from 0
TEST.DETECTIONS_PER_IMAGE | 0 | -1, or a whole number
TEST.COCO_EVAL | coco | auto, faster_coco_eval or pycocotools
TEST.OPTIMIZE | fast | none, fuse or compile
TEST.DTYPE | int8 | float32, bfloat16 or float16
TEST.EXPECTED_RESULTS | [['bbox', 'AP', 38.5]] | 4 items
TEST.AUG.MIN_SIZES | (0,) | from 1
OUTPUT_DIR | 5 | a text on one line
SEED | -2 | from -1
SEED | 99999999999999999999 | from -1
SEED | {'A': 1} | must be a whole number
VERSION | 3 | 1 or 2
"""
CASES = [[part.strip() for part in line.split(" | ")] for line in REFUSED.strip().splitlines()]
SPARSE = "MODEL: {META_ARCHITECTURE: SparseRCNN}"
HOSTILE = ["nan", float("nan"), float("inf"), -float("inf"), 10**400, -(10**30), None, "", "\0"]
HOSTILE += [
    "x" * 10**5,
    [],
    (),
    [[]],
    [None],
    [float("nan")] * 3,
    [10**400],
    True,
    0,
    -1,
    0.5,
    "(" * 999,
]


@pytest.fixture(scope="module")
def defaults():
    cfg = get_cfg()
    add_sparsercnn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SparseRCNN"
    return cfg


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def refused(action, *args):
    with pytest.raises(ConfigError) as error:
        action(*args)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1500
    return message


def load(path, *opts):
    return load_config(path, list(opts), register=False)


@pytest.mark.parametrize("key,value,expected", CASES, ids=[f"{k}={v}" for k, v, _ in CASES])
def test_a_value_is_refused(defaults, key, value, expected):
    cfg = defaults.clone()

    def action():
        merge_opts(cfg, [key, value])
        check_config(cfg, defaults)

    message = refused(action)
    section = key.rpartition(".")[0]
    assert key in message or (section in message and expected in message)
    assert expected in message


def problem(defaults, key, value):
    """What is said of a value, "" if it is right; no other exception is let through."""
    cfg = defaults.clone()
    with contextlib.suppress(ConfigError):
        merge_opts(cfg, [key, value])
        check_config(cfg, defaults)
        return ""
    return refused(lambda: (merge_opts(cfg, [key, value]), check_config(cfg, defaults)))


def test_any_value_of_any_key_is_right_or_refused_in_one_line(defaults):
    values = itertools.cycle(HOSTILE)
    for key in rows():
        for value in itertools.islice(values, 2):
            said = problem(defaults, key, value)
            names = not said or "nested too deeply" in said or key.rpartition(".")[2] in said
            assert names, (key, value, said)


def test_whatever_hypothesis_thinks_of(defaults):
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    values = st.recursive(leaves, st.lists, max_leaves=8)
    keys = st.sampled_from(sorted(rows()))

    @hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
    @hypothesis.given(keys, values)
    @hypothesis.example("CUDNN_BENCHMARK", "\n")
    def check(key, value):
        problem(defaults, key, value)

    check()


def test_a_whole_number_is_right_where_a_number_is_wanted(write):
    path = write(
        "VERSION: 2\nMODEL: {META_ARCHITECTURE: SparseRCNN, SparseRCNN: {NMS_THRESH_TEST: 0}}\n"
        "SOLVER: {WEIGHT_DECAY: 0, ADAM_BETAS: [0, 0.99]}\n"
    )
    cfg = load(path, "MODEL.SparseRCNN.GAMMA", "2", "MODEL.PIXEL_STD", "(58, 57, 57)")
    values = [cfg.MODEL.SparseRCNN.NMS_THRESH_TEST, cfg.SOLVER.WEIGHT_DECAY]
    values += [*cfg.SOLVER.ADAM_BETAS, cfg.MODEL.SparseRCNN.GAMMA, *cfg.MODEL.PIXEL_STD]
    assert values == [0, 0, 0, 0.99, 2, 58, 57, 57]
    assert {type(value) for value in values} == {float}


def test_whole_pixels_stay_whole(write):
    path = write("VERSION: 2\nINPUT: {CROP: {TYPE: absolute_range, SIZE: [384, 600]}}")
    assert [type(x) for x in load(path).INPUT.CROP.SIZE] == [int, int]


def test_all_defaults_are_right_and_of_the_type_that_is_named(defaults):
    for key, value in flatten(defaults):
        row = rows().get(key)
        if row is not None:
            assert row.allowed.accepts(value), key
            assert row.allowed.convert(value) == value, key
            assert isinstance(value, float) == (row.allowed.type == "float"), key


def test_keys_of_others_are_not_checked(defaults):
    cfg = defaults.clone()
    cfg.MODEL.OTHERS = CfgNode({"RATE": float("nan"), "NAME": "\0", "LIST": [None]})
    cfg.SOLVER.THEIRS = -1
    check_config(cfg, cfg.clone())


@pytest.mark.parametrize(
    "text,expected",
    [
        ("SEED: 1\nSEED: 2\n", "line 2: invalid YAML: the key 'SEED' is there twice"),
        ("MODEL: {MASK_ON: true, MASK_ON: false}", "'MASK_ON' is there twice"),
        ("a: &a [*a]", "contains itself"),
        ("SEED: " + "9" * 5000, "more than 100 digits"),
        ("SOLVER: {BASE_LR: .nan}", "BASE_LR is nan; it must be a number above 0"),
        ("SOLVER: {BASE_LR: .inf}", "BASE_LR is inf; it must be a number above 0"),
        ("SEED: 2020-13-45", "invalid YAML"),
        ("1: 2", "the key 1 is no text"),
        ("[1]: 2", "unhashable key"),
        ("SEED: !!bool maybe", "invalid YAML"),
        ("SEED: !!timestamp x", "invalid YAML"),
        ("SEED: !!int x", "invalid YAML"),
        ("SEED: !!set [1]", "invalid YAML"),
        ("SEED: !!binary ?", "invalid YAML"),
        ("SEED: !other 1", "is refused: could not determine a constructor"),
        ("TEST: {AUG: {ENABLED: true, MIN_SIZES: [64]}}\n" + SPARSE, "SCALE_RANGES has 13 entries"),
        ("MODEL: 3", "MODEL is 3"),
        ("MODEL: {SparseRCNN: [1]}", "MODEL.SparseRCNN is [1]"),
        ("SEED: {A: 1}", "SEED is"),
        ("SEED: '" + "-" * 10**5 + "1'", "nested too deeply"),
        ("[" * 10**5, "nested too deeply"),
        (b"\xff\xfe\x00", "invalid YAML"),
        (b"SEED: \x80", "invalid YAML"),
        ("SEED: \x07", "invalid YAML"),
        ("VERSION: 7", "VERSION is 7; it must be 1 or 2"),
        ("VERSION: two", "VERSION is 'two'; it must be 1 or 2"),
        ("_BASE_: 3", "_BASE_ must be the path"),
        ("_BASE_: [config.yaml, config.yaml]", "refers back to this file"),
        ("#" * 2_000_000, "larger than 1 MB"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{y}: &{y} [{', '.join([f'*{x}'] * 10)}]\n"
                for x, y in itertools.pairwise("abcdefghi")
            ),
            "over 100,000 parts",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_is_refused(write, text, expected):
    text = text if isinstance(text, bytes) or "VERSION" in text else f"{text}\nVERSION: 2\n"
    path = write(text)
    message = refused(load, path)
    of_file = path in message
    assert expected in message and (of_file or message.startswith(("SOLVER.", "TEST.")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read(write, encoding):
    assert load(write("VERSION: 2\nSEED: 3\n".encode(encoding))).SEED == 3


def test_a_pipe_is_not_waited_for(tmp_path, write):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "pipe.yaml is no file" in refused(load, write("_BASE_: pipe.yaml\nVERSION: 2\n"))


def test_a_url_that_cannot_be_read(capfd):
    message = refused(load, "http://127.0.0.1:9/config.yaml")
    assert "http://127.0.0.1:9/config.yaml cannot be read" in message


@pytest.mark.parametrize("key", ["SEED.X", "MODEL.DEVICE.c", "MODEL.MASKS", ".", "", "MODEL..X"])
def test_a_key_that_is_none(defaults, key):
    assert f"there is no key {key}" in refused(merge_opts, defaults.clone(), [key, "1"])


@pytest.mark.parametrize(
    "opts,expected",
    [
        (["MODEL.SparseRCNN.HIDDEN_DIM", 64], "p2 has 256 channels.*HIDDEN_DIM is 64"),
        (["MODEL.RESNETS.DEPTH", 51], "cannot be built"),
        (
            ["MODEL.ROI_HEADS.IN_FEATURES", ("p2", "p7")],
            "ROI_HEADS.IN_FEATURES has p7, and the maps of .* are p2, p3, p4, p5, p6",
        ),
        (
            ["MODEL.ROI_HEADS.IN_FEATURES", ("p2", "p4")],
            r"must double, got \[4, 16\]: in MODEL.ROI_HEADS.IN_FEATURES",
        ),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 250], "cannot be built.*divisible"),
        (
            [
                *("MODEL.SparseRCNN.DIM_FEEDFORWARD", 65536, "MODEL.SparseRCNN.HIDDEN_DIM", 16384),
                *("MODEL.FPN.OUT_CHANNELS", 16384),
            ],
            "needs at least .* GB, most of it for .* M parameters",
        ),
        (["SOLVER.IMS_PER_BATCH", 65536, "INPUT.MIN_SIZE_TRAIN", (800,)], "images of SOLVER.IMS"),
    ],
)
def test_a_model_that_cannot_be_built_or_held_is_refused(opts, expected):
    cfg = load_config("sparse_rcnn/sparsercnn.res50.100pro.1x", opts, register=False)
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    message = refused(lambda: check_model(cfg, training=True))
    assert re.search(expected, message)


@pytest.mark.parametrize(
    ("opts", "per_weight", "per_trained"),
    [
        ([], 4, 12),  # gradient and two moments
        (["MODEL.FREEZE", "['backbone']"], 4, 12),
        (["SOLVER.OPTIMIZER", "SGD"], 4, 8),
        (["SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", "0.0"], 4, 4),
    ],
)
def test_memory_is_counted_of_what_is_trained(monkeypatch, opts, per_weight, per_trained):
    small = ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "1", "INPUT.MIN_SIZE_TRAIN", "(16,)"]
    cfg = load_config("recipes/small_data", [*small, *opts], register=False)
    model = build_model(cfg)
    freeze(model, cfg.MODEL.FREEZE)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    weights, trained = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
    images = 4 * 3 * 16**2
    features = 2 * 50 * 128 * 7**2  # of 50 proposals
    needed = per_weight * weights + per_trained * trained + images + features
    monkeypatch.setattr(model_check, "_memory", lambda device: needed)
    check_model(cfg, training=True)
    monkeypatch.setattr(model_check, "_memory", lambda device: needed - 1)
    assert "needs at least" in refused(lambda: check_model(cfg, training=True))


def test_a_wrong_pattern_to_freeze_is_refused_at_the_start():
    opts = ["MODEL.DEVICE", "cpu", "MODEL.FREEZE", "['backbon']"]
    cfg = load_config("recipes/small_data", opts, register=False)
    message = refused(lambda: check_model(cfg, training=True))
    assert "MODEL.FREEZE: 'backbon' matches no weight" in message
    check_model(cfg)  # not trained


def test_the_page_of_keys_is_current(repository):
    assert (repository / "docs/config.md").read_text(encoding="utf-8") == make_page(), (
        "run python -m sparsercnn.config_docs docs/config.md"
    )
