"""Every configuration key that this project adds to detectron2's, with its default."""

import logging

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

__all__ = ["add_sparsercnn_config", "detections_per_image", "read_renamed_keys"]


def add_sparsercnn_config(cfg: CN) -> None:
    """Add the keys of Sparse R-CNN and its variants to a detectron2 config, in place.

    All keys of the original Sparse R-CNN project keep their name, meaning and default; its YAML
    files load unchanged.

    Args:
        cfg (CfgNode): a config as returned by :func:`detectron2.config.get_cfg`.
    """
    # Modules of one's own, such as ["mypackage.mymodule"], which are imported before all other keys
    # are read: their classes register themselves, and `add_config(cfg)` in them adds their keys.
    cfg.IMPORT = []
    _add_model_keys(cfg)
    _add_solver_keys(cfg)
    _add_data_and_test_keys(cfg)


def read_renamed_keys(cfg):
    """Move values set under the old name of a key to its new name, in place.

    Args:
        cfg (CfgNode): the whole config, not frozen.
    """
    model = cfg.MODEL
    if model.FPN.DUAL_ATTENTION:
        model.FPN.DUAL_ATTENTION = False
        model.RESNETS.RES5_ATTENTION = model.DANET.ATTENTION
        if model.BACKBONE.NAME == "build_resnet_fpn_backbone":
            model.BACKBONE.NAME = "build_resnet_attention_fpn_backbone"
        logging.getLogger(__name__).warning(
            "MODEL.FPN.DUAL_ATTENTION is deprecated but still accepted. Set "
            f"MODEL.RESNETS.RES5_ATTENTION '{model.RESNETS.RES5_ATTENTION}' and "
            "MODEL.BACKBONE.NAME build_resnet_attention_fpn_backbone instead."
        )


def detections_per_image(cfg):
    """Number of detections that Sparse R-CNN keeps per image, with or without TEST.AUG.

    Args:
        cfg (CfgNode): the whole config.

    Returns:
        int: TEST.DETECTIONS_PER_IMAGE, or the number of proposals N if it is negative; at most N.
    """
    num_proposals = cfg.MODEL.SparseRCNN.NUM_PROPOSALS
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return num_proposals if limit < 0 else min(limit, num_proposals)


def _add_model_keys(cfg):
    cfg.MODEL.SparseRCNN = CN()
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 80
    cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 300  # N

    # The stages (called "heads" in the original) that refine the proposals.
    cfg.MODEL.SparseRCNN.NUM_HEADS = 6  # T, the number of stages
    cfg.MODEL.SparseRCNN.HIDDEN_DIM = 256  # C, of proposal features and of the feature maps
    cfg.MODEL.SparseRCNN.NHEADS = 8  # heads of the self-attention among proposals
    cfg.MODEL.SparseRCNN.DIM_FEEDFORWARD = 2048
    cfg.MODEL.SparseRCNN.DROPOUT = 0.0
    cfg.MODEL.SparseRCNN.ACTIVATION = "relu"  # relu | gelu
    cfg.MODEL.SparseRCNN.NUM_CLS = 1  # layers before the class logits
    cfg.MODEL.SparseRCNN.NUM_REG = 3  # layers before the box deltas

    # How a proposal feature interacts with its RoI feature; a name in INTERACTION_REGISTRY.
    cfg.MODEL.SparseRCNN.INTERACTION = "dynamic_conv"
    # Dynamic convolution.
    cfg.MODEL.SparseRCNN.NUM_DYNAMIC = 2  # matrices generated per proposal
    cfg.MODEL.SparseRCNN.DIM_DYNAMIC = 64  # channels between the two matrices
    # Dual attention: RoI transformer and dynamic CBAM. The defaults are the paper's.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION = CN()
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM = 4  # repetitions; 0 disables the branch
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_TRANSFORMER = 1  # layers; 0 disables the branch
    # True: the CBAM's attention weights come from the proposal. False: from the RoI feature.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.DYNAMIC_CBAM = True
    # LayerNorm over all C x r x r values of a RoI before they are projected.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.PRE_NORM = True
    # Number of RoIs whose activations are in memory at a time; the backward pass recomputes them,
    # which saves memory on small GPUs. 0: all RoIs at once, nothing is recomputed.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.ROI_CHUNK = 0

    # Source of the initial boxes and features; a name in PROPOSALS_REGISTRY.
    cfg.MODEL.SparseRCNN.PROPOSALS = CN()
    cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "learned"  # learned | dynamic
    cfg.MODEL.SparseRCNN.PROPOSALS.INIT = "image"  # initial boxes: image | center | grid | random
    # Dynamic proposals: experts mixed for each image.
    cfg.MODEL.SparseRCNN.PROPOSALS.NUM_EXPERTS = 4  # E; 1: the same as learned
    # tau of the softmax over experts decreases linearly from TEMPERATURE to 1 over ANNEAL_ITERS
    # iterations.
    cfg.MODEL.SparseRCNN.PROPOSALS.TEMPERATURE = 30.0
    cfg.MODEL.SparseRCNN.PROPOSALS.ANNEAL_ITERS = 3000
    # True: standardise the map from which the weights are computed to mean 0 and deviation 1 per
    # image, which makes the weights depend on the image. Not in the paper.
    cfg.MODEL.SparseRCNN.PROPOSALS.STANDARDIZE = False

    # Assignment of proposals to objects in training; a name in MATCHER_REGISTRY.
    cfg.MODEL.SparseRCNN.MATCHER = CN()
    cfg.MODEL.SparseRCNN.MATCHER.NAME = "hungarian"  # hungarian | optimal_transport
    # Optimal transport: several proposals per object.
    cfg.MODEL.SparseRCNN.MATCHER.K = 3  # units of an object at the last stage
    # True: k of an object is not K but the sum of its TOP_Q (q) largest IoUs with the stage's
    # boxes, rounded down.
    cfg.MODEL.SparseRCNN.MATCHER.DYNAMIC_K = False
    cfg.MODEL.SparseRCNN.MATCHER.TOP_Q = 8
    cfg.MODEL.SparseRCNN.MATCHER.STEP = 0.5  # k is this much smaller per earlier stage; min 1
    # Entropic regularisation: the solver does not resolve smaller differences of costs.
    cfg.MODEL.SparseRCNN.MATCHER.SINKHORN_EPS = 0.005
    cfg.MODEL.SparseRCNN.MATCHER.SINKHORN_ITERS = 30
    # How the transport plan becomes an assignment. supply: an object takes at most k proposals,
    # rounded up, and wins ties with the background. largest_share: the paper's rule unchanged,
    # each proposal goes to the object, or background, with the largest share of it.
    cfg.MODEL.SparseRCNN.MATCHER.ROUNDING = "supply"

    # Weights of the losses and of the matching costs (lambda_cls, lambda_giou, lambda_L1).
    cfg.MODEL.SparseRCNN.CLASS_WEIGHT = 2.0
    cfg.MODEL.SparseRCNN.GIOU_WEIGHT = 2.0
    cfg.MODEL.SparseRCNN.L1_WEIGHT = 5.0
    cfg.MODEL.SparseRCNN.DEEP_SUPERVISION = True  # losses on all stages; False: on the last only
    # Class weight of "no object" in the softmax loss; unused with the focal loss.
    cfg.MODEL.SparseRCNN.NO_OBJECT_WEIGHT = 0.1

    # Factors on the class loss, one per class in their order, for those that are rare; (): all 1.
    cfg.MODEL.SparseRCNN.CLASS_WEIGHTS = ()

    # Sigmoid focal loss; False: softmax cross-entropy with a "no object" class.
    cfg.MODEL.SparseRCNN.USE_FOCAL = True
    cfg.MODEL.SparseRCNN.ALPHA = 0.25
    cfg.MODEL.SparseRCNN.GAMMA = 2.0
    cfg.MODEL.SparseRCNN.PRIOR_PROB = 0.01  # p, initial score of every class

    # Detections below this score are dropped, in evaluation and demo alike.
    cfg.MODEL.SparseRCNN.SCORE_THRESH_TEST = 0.0
    # IoU threshold of class-wise non-maximum suppression; 0: none, which suits the set loss.
    cfg.MODEL.SparseRCNN.NMS_THRESH_TEST = 0.0

    # Position and channel attention (DANet), in DANetHead.
    cfg.MODEL.DANET = CN()
    # parameter_free: queries, keys and values are the feature itself. projected: the paper's.
    cfg.MODEL.DANET.ATTENTION = "parameter_free"
    # DANetHead with projected: probability of dropping a channel before each predictor, in
    # training. parameter_free has no dropout.
    cfg.MODEL.DANET.DROPOUT = 0.1
    # Loss of DANetHead, named as in detectron2's DeepLab. cross_entropy: mean over all labelled
    # pixels | hard_pixel_mining: mean over the labelled pixels of the batch with the largest loss.
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "cross_entropy"
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TOP_K = 0.2  # fraction of labelled pixels mined, at least one
    # "" | parameter_free | projected: DANet's two attentions at the end of a detector's res5,
    # before the neck. Only build_resnet_attention_fpn_backbone reads this key; with AGGREGATION
    # "sum" its neck is the ordinary FPN.
    cfg.MODEL.RESNETS.RES5_ATTENTION = ""
    cfg.MODEL.FPN.DUAL_ATTENTION = False  # old name of RES5_ATTENTION, see read_renamed_keys
    # Dilated ResNets: RES4_DILATION 2 with RES5_DILATION 4 has output stride 8, 1 with 2 has 16.
    cfg.MODEL.RESNETS.RES4_DILATION = 1
    # Factor on RES5_DILATION for each block of res5; []: 1 for all. The paper uses [1, 2, 4].
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = []

    # How build_resnet_attention_fpn_backbone joins the levels of the pyramid:
    # sum (detectron2's FPN) | mssa | mssa_adp | msca | msca_adp
    cfg.MODEL.FPN.AGGREGATION = "sum"

    # ROI_HEADS.NAME "CascadeMaskROIHeads": Cascade Mask R-CNN with a mask head for each stage.
    cfg.MODEL.CASCADE_MASK_ROI_HEADS = CN()
    # Factor on all losses of a stage; one per entry of ROI_BOX_CASCADE_HEAD.IOUS.
    cfg.MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS = (1.0, 0.5, 0.25)

    # Recompute activations in the backward pass instead of keeping them: less memory, more time.
    cfg.MODEL.ACTIVATION_CHECKPOINT = CN()
    cfg.MODEL.ACTIVATION_CHECKPOINT.BACKBONE = False  # block by block
    cfg.MODEL.ACTIVATION_CHECKPOINT.HEAD = False  # stage by stage

    # Names of weights or modules that training leaves as they are, batch norms with their
    # statistics; "*" stands for anything: ("backbone.bottom_up", "head.head_series.0").
    cfg.MODEL.FREEZE = ()

    # Weights of convolutions with the channels last in memory, and so the maps that they compute.
    # Values, names and results stay the same, up to rounding.
    cfg.MODEL.CHANNELS_LAST = True


def _add_solver_keys(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # ADAMW | SGD
    cfg.SOLVER.ADAM_BETAS = (0.9, 0.999)
    cfg.SOLVER.ADAM_EPS = 1e-8
    cfg.SOLVER.BASE_LR_END = 0.0  # final rate of WarmupCosineLR; detectron2 0.6 lacks the key
    # WarmupPolyLR, as in detectron2's DeepLab: BASE_LR x (1 - iteration / MAX_ITER)^POLY_LR_POWER.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # lower bound of the rate, as a fraction of BASE_LR
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of the backbone over BASE_LR
    # Factor on the learning rate of weights that MODEL.WEIGHTS does not have, wholly or in part.
    cfg.SOLVER.NEW_LAYERS_MULTIPLIER = 1.0
    # True: no weight decay on norms and biases, as is usual with transformers, because decay pulls
    # a norm's scale, which starts at 1, towards 0. The original Sparse R-CNN and the published
    # attention FPNs decay all parameters.
    cfg.SOLVER.NO_DECAY_NORM_BIAS = False
    # Number of batches whose gradients are accumulated per optimizer step. One iteration is one
    # optimizer step, on IMS_PER_BATCH x ACCUMULATE_STEPS images.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # With ACCUMULATE_STEPS: exact gradients of one big batch even if the divisor of a loss is known
    # only after the forward pass (optimal transport, softmax loss), at the cost of one more forward
    # pass per batch. False: such batches are weighted by their objects, which is close.
    cfg.SOLVER.EXACT_ACCUMULATION = False
    cfg.SOLVER.AMP.DTYPE = "float16"  # float16 | bfloat16, with AMP.ENABLED
    # True: train with backbone, neck and stages compiled by torch.compile; needs a C++ compiler, on
    # GPUs Triton. Evaluation is not compiled.
    cfg.SOLVER.COMPILE = False
    # Schedules in epochs of DATASETS.TRAIN, without the images that are left out, and in fractions
    # of the schedule. None: not set; the key in iterations counts.
    cfg.SOLVER.EPOCHS = None  # sets MAX_ITER and, in proportion, STEPS
    cfg.SOLVER.CHECKPOINT_EPOCHS = None  # sets CHECKPOINT_PERIOD
    cfg.SOLVER.STEP_FRACTIONS = None  # sets STEPS: (0.8, 0.95)
    cfg.SOLVER.WARMUP_FRACTION = None  # sets WARMUP_ITERS: 0.05
    # Stop after so many evaluations in a row without a better TEST.BEST_METRIC; 0: never.
    cfg.SOLVER.PATIENCE = 0
    # Exponential moving average of the weights. Each evaluation is of the average and, with "_raw"
    # behind its tasks, of the weights themselves; checkpoints hold the average as their model.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    # The decay is min(DECAY, (1 + t) / (WARMUP + t)) at update t: until it reaches DECAY, the
    # average spans about 1 / WARMUP of the updates so far.
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.EMA.WARMUP = 10.0  # 1: DECAY from the start
    cfg.SOLVER.EMA.START_ITER = 0  # the first iteration that counts
    # True: skip an iteration with a non-finite loss, with a warning. False: stop with a report.
    cfg.SOLVER.SKIP_NON_FINITE = False


def _add_data_and_test_keys(cfg):
    # Sparse R-CNN pads a batch to height and width that are multiples of this, so that few sizes
    # occur and cuDNN's search (CUDNN_BENCHMARK) and compilation start anew for few. 0: of the
    # backbone's stride, the least that it needs. INPUT: in training; TEST: in inference, where
    # padding changes detections slightly.
    cfg.INPUT.SIZE_BUCKET = 0
    cfg.TEST.SIZE_BUCKET = 0

    # Share of the images that SAMPLER_TRAIN RandomSubsetTrainingSampler draws, once, from the SEED;
    # detectron2 0.6 reads the key and lacks it.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0

    # True: leave out unreadable images and invalid annotations; they are counted and logged.
    # False: stop with an error that names the first ones.
    cfg.DATASETS.SKIP_INVALID = False

    cfg.TEST.EVAL_EPOCHS = None  # as SOLVER.EPOCHS; sets EVAL_PERIOD

    # Detections kept per image. -1: unset, which means NUM_PROPOSALS for Sparse R-CNN, as in the
    # original; with detectron2's default of 100, a 100 set by the user could not be recognised.
    # Detectron2's own models take -1 as "no limit"; `sparsercnn.engine.setup.load_config` restores
    # their 100.
    if cfg.TEST.DETECTIONS_PER_IMAGE == get_cfg().TEST.DETECTIONS_PER_IMAGE:
        cfg.TEST.DETECTIONS_PER_IMAGE = -1

    # COCO metrics: "auto" uses faster-coco-eval if it is installed, otherwise pycocotools.
    cfg.TEST.COCO_EVAL = "auto"  # auto | faster_coco_eval | pycocotools
    # Metric that selects model_best.pth, "TASK/METRIC" as in the tables printed after evaluation;
    # "": none. The highest value is best, for MR (CrowdHuman) the lowest. With several test sets,
    # the first one counts.
    cfg.TEST.BEST_METRIC = "bbox/AP"

    # Preparation of the model for inference, in evaluation and demo alike. none | fuse: batch norms
    # folded into convolutions and faster layouts, the same results | compile: torch.compile too,
    # which takes minutes and pays on a GPU with images of few sizes (SIZE_BUCKET).
    cfg.TEST.OPTIMIZE = "fuse"
    # Of convolutions and matrix products; boxes and scores are float32 in any case.
    cfg.TEST.DTYPE = "float32"  # float32 | bfloat16 | float16 (GPU only)

    # Semantic segmentation, in evaluation and demo alike: class probabilities are averaged over
    # these factors of the test size and, with FLIP, over each image and its mirror image.
    cfg.TEST.SEM_SEG = CN()
    cfg.TEST.SEM_SEG.SCALES = (1.0,)
    cfg.TEST.SEM_SEG.FLIP = False
    # An image larger than CROP_SIZE (height, width) after scaling is covered by windows of that
    # size, STRIDE (vertical, horizontal) apart; overlaps are averaged. (): no windows.
    cfg.TEST.SEM_SEG.CROP_SIZE = ()
    cfg.TEST.SEM_SEG.STRIDE = ()  # (): two thirds of CROP_SIZE

    # Test-time augmentation. These sizes are for INPUT.MIN_SIZE_TEST 800; with another one, they,
    # MAX_SIZE and SCALE_RANGES are scaled in proportion, unless MIN_SIZES is set.
    cfg.TEST.AUG.MIN_SIZES = (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800, 800)
    # Merge by soft voting, as cvpods does. False: class-wise NMS.
    cfg.TEST.AUG.CVPODS_TTA = True
    # Keep from each size only boxes whose sqrt(area) lies in its range below, in pixels of the
    # resized image.
    cfg.TEST.AUG.SCALE_FILTER = True
    cfg.TEST.AUG.SCALE_RANGES = (
        [96, 10000],
        [96, 10000],
        [64, 10000],
        [64, 10000],
        [64, 10000],
        [0, 10000],
        [0, 10000],
        [0, 256],
        [0, 256],
        [0, 192],
        [0, 192],
        [0, 96],
        [0, 10000],
    )
