"""What tests/engine/test_processes.py runs: all systems, in processes that each start once.

``python processes_program.py FOLDER`` makes FOLDER/results_N.json for N of 1, 2, 3: losses of the
first steps by name of the case, and what evaluations saw.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from sparsercnn.engine.arguments import argument_parser
from sparsercnn.engine.data_parallel import distribute
from sparsercnn.engine.processes import run_processes
from sparsercnn.engine.setup import load_config
from sparsercnn.engine.solver import build_optimizer
from sparsercnn.engine.train_step import TrainStep
from sparsercnn.engine.trainer import Trainer
from sparsercnn.errors import DataError, UserError

NUM_STEPS = 3
SIZE = 32

_SGD = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.01", "MODEL.RESNETS.NORM", "FrozenBN"]
_TINY = [
    *_SGD, "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FPN.NORM", "",
    "MODEL.SparseRCNN.HIDDEN_DIM", "32",
    "MODEL.SparseRCNN.NHEADS", "4", "MODEL.SparseRCNN.DIM_FEEDFORWARD", "64",
    "MODEL.SparseRCNN.DIM_DYNAMIC", "8", "MODEL.SparseRCNN.NUM_HEADS", "2",
    "MODEL.SparseRCNN.NUM_PROPOSALS", "6",
]  # fmt: skip
_TRANSPORT = ["MODEL.SparseRCNN.MATCHER.NAME", "optimal_transport"]
_HUNGARIAN = ["MODEL.SparseRCNN.MATCHER.NAME", "hungarian"]
_SOFTMAX = [*_HUNGARIAN, "MODEL.SparseRCNN.USE_FOCAL", "False"]
_MASKS = [
    *_TINY, "MODEL.MASK_ON", "True", "MODEL.SparseRCNN.MASK.POOLER_RESOLUTION", "4",
    "MODEL.SparseRCNN.MASK.NUM_CONV", "1", "MODEL.SparseRCNN.MASK.CONV_DIM", "8",
    "MODEL.SparseRCNN.MASK.NORM", "",
]  # fmt: skip
# All regions are taken: a sample of them would be another one in each process.
_CASCADE = [
    *_SGD, "SOLVER.BASE_LR", "0.001", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.FPN.NORM", "",
    "MODEL.ROI_HEADS.NAME", "CascadeMaskROIHeads", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", "1.0",
    "MODEL.RPN.SMOOTH_L1_BETA", "0.1111", "MODEL.RPN.CONV_DIMS", "[16]",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "4096", "MODEL.RPN.POSITIVE_FRACTION", "1.0",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "256",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0", "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
]  # fmt: skip
_DANET = [
    *_SGD, "SOLVER.BASE_LR", "0.001", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN",
]  # fmt: skip
_DANET_ON_VIT = [
    *_SGD, "SOLVER.BASE_LR", "0.001", "MODEL.BACKBONE.NAME", "build_vit_backbone",
    "MODEL.RESNETS.RES4_DILATION", "1",
    "MODEL.VIT.PATCH_SIZE", "8", "MODEL.VIT.EMBED_DIM", "16", "MODEL.VIT.DEPTH", "1",
    "MODEL.VIT.NUM_HEADS", "2", "MODEL.VIT.GLOBAL_BLOCKS", "()", "MODEL.FPN.OUT_CHANNELS", "8",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", '["p3"]', "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN",
]  # fmt: skip

# Name -> config and options. With "like accumulation", one process takes the parts of the other
# processes one after the other, and otherwise all images at once.
CASES = {
    "hungarian": ("Base-R18", [*_TINY, *_HUNGARIAN]),
    "optimal transport": ("Base-R18", [*_TINY, *_TRANSPORT]),
    "masks": ("Base-R18", [*_MASKS, *_TRANSPORT]),
    "softmax": ("Base-R18", [*_TINY, *_SOFTMAX]),
    "dual attention": ("dual_attention", _TINY),
    "cascade with masks": ("cascade_mask_rcnn", _CASCADE),
    "cascade, like accumulation": ("cascade_mask_rcnn", _CASCADE),
    "danet": ("danet", _DANET),
    "danet on a ViT": ("danet", _DANET_ON_VIT),
    "three of four maps": (
        "Base-R18",
        [*_TINY, *_HUNGARIAN, "MODEL.ROI_HEADS.IN_FEATURES", "['p3', 'p4', 'p5']"],
    ),
    "softmax, accumulated": ("Base-R18", [*_TINY, *_SOFTMAX, "SOLVER.EXACT_ACCUMULATION", "True"]),
    "hungarian, accumulated": ("Base-R18", [*_TINY, *_HUNGARIAN]),
    "optimal transport, accumulated": (
        "Base-R18",
        [*_TINY, *_TRANSPORT, "SOLVER.EXACT_ACCUMULATION", "True"],
    ),
}  # fmt: skip


def draw_images(number, seed=0):
    """Training inputs of one size, with 1 to 4 objects, masks and label maps."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for i in range(number):
        instances = Instances((SIZE, SIZE))
        corners = torch.randint(0, 15, (1 + i % 4, 2), generator=generator).float()
        sides = torch.randint(8, 17, (1 + i % 4, 2), generator=generator).float()
        boxes = torch.cat([corners, corners + sides], dim=1)
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.arange(len(boxes)) % 2
        instances.gt_masks = PolygonMasks(
            [[[x1, y1, x2, y1, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
        )
        pixels = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 4, (SIZE, SIZE), generator=generator)
        images.append({"image": pixels, "instances": instances, "sem_seg": labels})
    return images


def share_of(images, rank, size):
    return images[rank::size]


def batches_of(name, size, rank, num_parts):
    """Micro-batches of one of `size` processes, or of one that stands for `num_parts` of them."""
    if name == "cascade with masks":  # means over regions agree if all have equally many
        images = [image for image in draw_images(2) for _ in range(num_parts)]
    else:
        images = draw_images(6)
    if name.endswith("like accumulation"):
        parts = [share_of(images, i, num_parts) for i in range(num_parts)]
        return parts if size == 1 else [parts[rank]]
    if name.endswith("accumulated"):
        halves = [images, draw_images(6, seed=1)[::-1]]
        return [share_of(half, rank, size) for half in halves]
    return [share_of(images, rank, size)]


def first_losses(name, num_parts):
    """Losses and norm of the gradient at each of the first steps (list[dict])."""
    config, options = CASES[name]
    cfg = load_config(f"quickstart/{config}", options, register=False)
    size, rank = comm.get_world_size(), comm.get_rank()
    batches = batches_of(name, size, rank, num_parts)
    cfg.defrost()
    cfg.SOLVER.ACCUMULATE_STEPS = len(batches)
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    model = distribute(cfg, model)
    step = TrainStep(cfg, model, (batch for _ in range(NUM_STEPS) for batch in batches), optimizer)
    losses = []
    with EventStorage() as storage:
        for step.iter in range(NUM_STEPS):
            storage.iter = step.iter
            step.run_step()
            latest = {key: value for key, (value, _) in storage.latest().items()}
            losses.append({k: v for k, v in latest.items() if "loss" in k or k == "grad_norm"})
    return losses


def configure(folder, output, *options):
    options = [
        *["OUTPUT_DIR", f"{folder}/{output}", "SEED", "4", "SOLVER.IMS_PER_BATCH", "6"],
        *["SOLVER.STEPS", "()", "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"],
        *["SOLVER.CHECKPOINT_PERIOD", "100", "INPUT.RANDOM_FLIP", "none", *options, *_SGD],
        *["MODEL.FPN.NORM", ""],
    ]
    return load_config(f"{folder}/tiny.yaml", options)


def train(folder, output, num_steps, resume=False):
    """A run of the trainer with its own loader; total losses of all iterations (list[float]),
    with those of before it was resumed."""
    cfg = configure(folder, output, "SOLVER.MAX_ITER", str(num_steps), "DATASETS.TEST", "()")
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    if not comm.is_main_process():
        return []
    return [value for value, _ in trainer.storage.history("total_loss").values()]


def evaluate(folder):
    """(image id, box, score) of all detections, by data set, of a model whose batch norms have
    other statistics in each process, as after training."""
    found = {}
    for name in ("squares", "two"):
        output = f"eval_{name}_{comm.get_world_size()}"
        data = f"coco:{folder}/{name}.json@{folder}"
        cfg = configure(folder, output, "DATASETS.TEST", f"('{data}',)")
        torch.manual_seed(0)
        model = build_model(cfg)
        for key, value in model.named_buffers():
            if key.endswith("running_mean"):
                value += 0.1 * comm.get_rank()
        Trainer.test(cfg, model)
        comm.synchronize()
        if comm.is_main_process():
            path = f"{cfg.OUTPUT_DIR}/inference/coco_instances_results.json"
            results = json.loads(Path(path).read_text())
            found[name] = [[x["image_id"], *x["bbox"], x["score"]] for x in results]
    return found


def run(args):
    """All that one number of processes does; then one of them fails, as it is told."""
    folder, number = Path(args.folder), comm.get_world_size()
    results = {"losses": {name: first_losses(name, number) for name in CASES}}
    if number == 2:
        results["trained"] = train(folder, "resumed", 2)
    else:
        results["trained"] = train(folder, "resumed", 4, resume=True)
    results["evaluated"] = evaluate(folder)
    results["local"] = [comm.get_local_rank(), comm.get_local_size()]
    if comm.is_main_process():
        (folder / f"results_{number}.json").write_text(json.dumps(results))
    comm.synchronize()
    if comm.get_rank() == 1:
        if number == 2:
            raise DataError("made up by rank 1")
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def main(folder):
    torch.set_num_threads(1)
    errors = {}
    for number in (2, 3):
        args = argument_parser().parse_args(["--num-processes", str(number)])
        args.folder = folder
        try:
            run_processes(run, args)
        except UserError as error:
            errors[number] = [type(error).__name__, str(error)]
    losses = {2: {name: first_losses(name, 2) for name in CASES}}
    losses[3] = {
        # All others take the same images, whatever they are compared with.
        name: first_losses(name, 3) if name.startswith("cascade") else expected
        for name, expected in losses[2].items()
    }
    alone = {
        "losses": losses,
        "trained": train(folder, "whole", 4),
        "evaluated": evaluate(folder),
    }
    Path(folder, "results_1.json").write_text(json.dumps({**alone, "errors": errors}))


if __name__ == "__main__":
    main(sys.argv[1])
