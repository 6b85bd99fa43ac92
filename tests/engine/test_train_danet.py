"""The segmentor behind the same trainer: a run of a few iterations, evaluated as configured."""

import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sparsercnn.engine.setup import load_config
from sparsercnn.engine.trainer import Trainer
from sparsercnn.modeling.segmentation.sem_seg_inference import SemSegInference


@pytest.fixture
def cfg(tmp_path, repository):
    """The quickstart's model with few channels, on four images of two halves."""
    for stem in "abcd":
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
        labels = np.zeros((32, 48), dtype=np.uint8)
        labels[:, 24:] = 1
        labels[:2] = 255
        pixels = np.where(labels[..., None] == 1, 200, 30).repeat(3, 2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{stem}.png")
    (tmp_path / "classes.txt").write_text("left\nright\nnowhere\n")
    entry = f"semseg:{tmp_path}/images@{tmp_path}/labels"
    options = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
        "DATASETS.TRAIN": (entry,),
        "DATASETS.TEST": (entry,),
        "SOLVER.MAX_ITER": 30,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.IMS_PER_BATCH": 4,
        "INPUT.MIN_SIZE_TRAIN": (32,),
        "INPUT.MIN_SIZE_TEST": 32,
        "INPUT.RANDOM_FLIP": "none",
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
        "SEED": 1,
    }
    flat = [x for pair in options.items() for x in pair]
    yield load_config(str(repository / "configs/quickstart/danet.yaml"), flat)
    DatasetCatalog.remove(entry)
    MetadataCatalog.remove(entry)


def test_a_run_learns_and_is_evaluated(cfg, tmp_path):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    metrics = trainer.train()["sem_seg"]
    assert metrics["pACC"] > 90 and metrics["IoU-left"] > 80 and metrics["IoU-right"] > 80
    assert math.isnan(metrics["ACC-nowhere"])
    assert (tmp_path / "out" / "model_best.pth").exists()

    evaluated = Trainer.test(cfg, trainer.model)["sem_seg"]
    assert evaluated == pytest.approx(metrics, nan_ok=True)


def test_evaluation_follows_the_key(cfg, monkeypatch):
    calls = []
    forward = SemSegInference.forward
    monkeypatch.setattr(
        SemSegInference, "forward", lambda self, x: calls.append(len(x)) or forward(self, x)
    )
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    Trainer.test(cfg, model)
    assert not calls
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.SEM_SEG.FLIP, cfg.TEST.SEM_SEG.CROP_SIZE = True, (24, 24)
    metrics = Trainer.test(cfg, model)["sem_seg"]
    assert calls == [1] * 4 and 0 <= metrics["mIoU"] <= 100
    assert not model.training
