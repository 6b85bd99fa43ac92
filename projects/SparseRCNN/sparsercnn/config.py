"""Every configuration key that this project adds to detectron2's, with its default."""

import logging

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

__all__ = ["add_sparsercnn_config", "detections_per_image", "read_renamed_keys"]


def add_sparsercnn_config(cfg):
    """Add the keys of Sparse R-CNN and its variants to a detectron2 config, in place.

    All keys of the original Sparse R-CNN project keep their name, meaning and default, so that
    its YAML files load unchanged.

    Args:
        cfg (CfgNode): a config as returned by :func:`detectron2.config.get_cfg`.
    """
    _add_model_keys(cfg)
    _add_solver_keys(cfg)
    _add_data_and_test_keys(cfg)


def read_renamed_keys(cfg):
    """Give keys that have a new name the values that the config has under the old one, in place.

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
            "MODEL.FPN.DUAL_ATTENTION is now MODEL.RESNETS.RES5_ATTENTION "
            f"'{model.RESNETS.RES5_ATTENTION}', with MODEL.BACKBONE.NAME "
            "build_resnet_attention_fpn_backbone. The old name is still read."
        )


def detections_per_image(cfg):
    """How many detections of an image Sparse R-CNN keeps, with test-time augmentation or without.

    Args:
        cfg (CfgNode): the whole config.

    Returns:
        int: TEST.DETECTIONS_PER_IMAGE, or all N proposals where that is negative; never more
        than N.
    """
    num_proposals = cfg.MODEL.SparseRCNN.NUM_PROPOSALS
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return num_proposals if limit < 0 else min(limit, num_proposals)


def _add_model_keys(cfg):
    cfg.MODEL.SparseRCNN = CN()
    cfg.MODEL.SparseRCNN.NUM_CLASSES = 80
    cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 300  # N

    # The stages ("heads") that refine the proposals.
    cfg.MODEL.SparseRCNN.NUM_HEADS = 6  # T, the number of stages
    cfg.MODEL.SparseRCNN.HIDDEN_DIM = 256  # C, of proposal features and of the feature maps
    cfg.MODEL.SparseRCNN.NHEADS = 8  # attention heads among the proposals
    cfg.MODEL.SparseRCNN.DIM_FEEDFORWARD = 2048
    cfg.MODEL.SparseRCNN.DROPOUT = 0.0
    cfg.MODEL.SparseRCNN.ACTIVATION = "relu"  # relu | gelu
    cfg.MODEL.SparseRCNN.NUM_CLS = 1  # layers before the class logits
    cfg.MODEL.SparseRCNN.NUM_REG = 3  # layers before the box deltas

    # How a proposal feature meets its RoI feature; a name in INTERACTION_REGISTRY.
    cfg.MODEL.SparseRCNN.INTERACTION = "dynamic_conv"
    # Dynamic convolution.
    cfg.MODEL.SparseRCNN.NUM_DYNAMIC = 2  # matrices generated per proposal
    cfg.MODEL.SparseRCNN.DIM_DYNAMIC = 64  # channels between the two matrices
    # Dual attention: RoI transformer and dynamic CBAM. The defaults are the paper's.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION = CN()
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM = 4  # repetitions; 0: no such branch
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.NUM_TRANSFORMER = 1  # layers; 0: no such branch
    # Attention weights of the CBAM come from the proposal; False: from the RoI feature itself.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.DYNAMIC_CBAM = True
    # LayerNorm over all C x r x r values of a RoI before they are projected.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.PRE_NORM = True
    # RoIs whose activations are in memory at a time, for small GPUs: the backward pass computes
    # them again. 0: all.
    cfg.MODEL.SparseRCNN.DUAL_ATTENTION.ROI_CHUNK = 0

    # Where the first boxes and features come from; a name in PROPOSALS_REGISTRY.
    cfg.MODEL.SparseRCNN.PROPOSALS = CN()
    cfg.MODEL.SparseRCNN.PROPOSALS.NAME = "learned"  # learned | dynamic
    cfg.MODEL.SparseRCNN.PROPOSALS.INIT = "image"  # boxes at first: image | center | grid | random
    # Dynamic proposals: experts mixed for each image.
    cfg.MODEL.SparseRCNN.PROPOSALS.NUM_EXPERTS = 4  # E; 1: the same as learned
    # tau of the softmax over experts falls linearly from this to 1 over ANNEAL_ITERS iterations.
    cfg.MODEL.SparseRCNN.PROPOSALS.TEMPERATURE = 30.0
    cfg.MODEL.SparseRCNN.PROPOSALS.ANNEAL_ITERS = 3000
    # True: the map that the weights come from has mean 0 and deviation 1 in each image, so that
    # the weights depend on the image; not in the paper.
    cfg.MODEL.SparseRCNN.PROPOSALS.STANDARDIZE = False

    # Which proposal answers for which object in training; a name in MATCHER_REGISTRY.
    cfg.MODEL.SparseRCNN.MATCHER = CN()
    cfg.MODEL.SparseRCNN.MATCHER.NAME = "hungarian"  # hungarian | optimal_transport
    # Optimal transport: one object, several proposals.
    cfg.MODEL.SparseRCNN.MATCHER.K = 3  # units of an object at the last stage
    # k of each object from its IoUs with the stage's boxes, instead of K: the sum of the TOP_Q (q)
    # largest of them, rounded down.
    cfg.MODEL.SparseRCNN.MATCHER.DYNAMIC_K = False
    cfg.MODEL.SparseRCNN.MATCHER.TOP_Q = 8
    cfg.MODEL.SparseRCNN.MATCHER.STEP = 0.5  # units fewer per stage before the last; at least 1
    # Costs that differ by less are equal to the solver.
    cfg.MODEL.SparseRCNN.MATCHER.SINKHORN_EPS = 0.005
    cfg.MODEL.SparseRCNN.MATCHER.SINKHORN_ITERS = 30
    # From the plan to an assignment. supply: an object takes at most k proposals, rounded up, and
    # wins a tie with the background. largest_share: each proposal goes to the largest share in it,
    # the paper's rule as it stands.
    cfg.MODEL.SparseRCNN.MATCHER.ROUNDING = "supply"

    # Weights of the losses and of the matching costs (lambda_cls, lambda_giou, lambda_L1).
    cfg.MODEL.SparseRCNN.CLASS_WEIGHT = 2.0
    cfg.MODEL.SparseRCNN.GIOU_WEIGHT = 2.0
    cfg.MODEL.SparseRCNN.L1_WEIGHT = 5.0
    cfg.MODEL.SparseRCNN.DEEP_SUPERVISION = True  # losses on all stages, not on the last alone
    # Class weight of "no object" in the softmax loss; unused with the focal loss.
    cfg.MODEL.SparseRCNN.NO_OBJECT_WEIGHT = 0.1

    # Sigmoid focal loss; False: softmax cross-entropy with a "no object" class.
    cfg.MODEL.SparseRCNN.USE_FOCAL = True
    cfg.MODEL.SparseRCNN.ALPHA = 0.25
    cfg.MODEL.SparseRCNN.GAMMA = 2.0
    cfg.MODEL.SparseRCNN.PRIOR_PROB = 0.01  # p, the score that every class starts at

    # Detections below this score are dropped, in evaluation and demo alike.
    cfg.MODEL.SparseRCNN.SCORE_THRESH_TEST = 0.0
    # IoU threshold of class-wise non-maximum suppression; 0: none, the set loss needs none.
    cfg.MODEL.SparseRCNN.NMS_THRESH_TEST = 0.0

    # Position and channel attention (DANet), in DANetHead.
    cfg.MODEL.DANET = CN()
    # parameter_free: queries, keys and values are the feature itself. projected: the paper's.
    cfg.MODEL.DANET.ATTENTION = "parameter_free"
    # DANetHead with projected: share of channels that are dropped before each predictor, in
    # training. There is no dropout with parameter_free.
    cfg.MODEL.DANET.DROPOUT = 0.1
    # Loss of DANetHead, as detectron2's DeepLab names it: cross_entropy, the mean over all pixels
    # with a class | hard_pixel_mining, over those of the batch with the largest loss.
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "cross_entropy"
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TOP_K = 0.2  # their share of the pixels with a class; at least one
    # "" | parameter_free | projected: both attentions at the end of a detector's res5, before the
    # neck. build_resnet_attention_fpn_backbone reads it; its AGGREGATION "sum" is the ordinary FPN.
    cfg.MODEL.RESNETS.RES5_ATTENTION = ""
    cfg.MODEL.FPN.DUAL_ATTENTION = False  # what it was before, see read_renamed_keys
    # Dilated ResNets: RES4_DILATION 2 with RES5_DILATION 4 has output stride 8, 1 with 2 has 16.
    cfg.MODEL.RESNETS.RES4_DILATION = 1
    # A factor of RES5_DILATION for each block of res5; []: 1 for all. The paper's: [1, 2, 4].
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = []

    # How build_resnet_attention_fpn_backbone joins the levels of the pyramid:
    # sum (detectron2's FPN) | mssa | mssa_adp | msca | msca_adp
    cfg.MODEL.FPN.AGGREGATION = "sum"

    # ROI_HEADS.NAME "CascadeMaskROIHeads": Cascade Mask R-CNN with a mask head for each stage.
    cfg.MODEL.CASCADE_MASK_ROI_HEADS = CN()
    # Weights of all losses of each stage; one for each of ROI_BOX_CASCADE_HEAD.IOUS.
    cfg.MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS = (1.0, 0.5, 0.25)

    # Recompute activations in the backward pass instead of keeping them: less memory, more time.
    cfg.MODEL.ACTIVATION_CHECKPOINT = CN()
    cfg.MODEL.ACTIVATION_CHECKPOINT.BACKBONE = False  # block by block
    cfg.MODEL.ACTIVATION_CHECKPOINT.HEAD = False  # stage by stage


def _add_solver_keys(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # ADAMW | SGD
    cfg.SOLVER.ADAM_BETAS = (0.9, 0.999)
    cfg.SOLVER.ADAM_EPS = 1e-8
    cfg.SOLVER.BASE_LR_END = 0.0  # where WarmupCosineLR ends; detectron2 0.6 lacks the key
    # WarmupPolyLR, as in detectron2's DeepLab: BASE_LR x (1 - iteration / MAX_ITER)^POLY_LR_POWER.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # the fraction of BASE_LR below which it does not fall
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of the backbone over BASE_LR
    # True: weight decay spares norms and biases, as usual with transformers, since it draws to 0 a
    # norm's scale, too, which starts at 1. Original Sparse R-CNN and the published attention FPNs
    # decay everything.
    cfg.SOLVER.NO_DECAY_NORM_BIAS = False
    # Batches whose gradients are added up before one optimizer step; one iteration is one step,
    # on IMS_PER_BATCH x ACCUMULATE_STEPS images.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # With ACCUMULATE_STEPS: the gradients of one big batch also where losses are divided by what
    # only a forward pass tells (optimal transport, softmax loss). It makes one more forward pass of
    # each batch. False: such batches are weighted by their objects, which is close.
    cfg.SOLVER.EXACT_ACCUMULATION = False
    cfg.SOLVER.AMP.DTYPE = "float16"  # float16 | bfloat16, with AMP.ENABLED
    # True: skip an iteration with a non-finite loss, with a warning. False: stop with a report.
    cfg.SOLVER.SKIP_NON_FINITE = False


def _add_data_and_test_keys(cfg):
    # True: leave out unreadable images and invalid annotations, counted and logged.
    # False: stop with an error that names the first of them.
    cfg.DATASETS.SKIP_INVALID = False

    # Detections kept of each image. -1: not set, which is NUM_PROPOSALS in Sparse R-CNN, as in the
    # original. Detectron2's default of 100 could not be told from a 100 that was asked for; its own
    # models, which take -1 for no limit, get it back from `sparsercnn.engine.setup.load_config`.
    if cfg.TEST.DETECTIONS_PER_IMAGE == get_cfg().TEST.DETECTIONS_PER_IMAGE:
        cfg.TEST.DETECTIONS_PER_IMAGE = -1

    # COCO metrics: "auto" takes faster-coco-eval when it is installed, else pycocotools.
    cfg.TEST.COCO_EVAL = "auto"  # auto | faster_coco_eval | pycocotools
    # The metric whose best checkpoint is kept as model_best.pth, "TASK/METRIC" as in the tables
    # printed after evaluation; "": none. The highest value is best, of MR (CrowdHuman) the lowest.
    # With several test sets, the first counts.
    cfg.TEST.BEST_METRIC = "bbox/AP"

    # Semantic segmentation, in evaluation and demo alike: the mean of the class probabilities over
    # these factors of the test size, and over each image and its mirror image.
    cfg.TEST.SEM_SEG = CN()
    cfg.TEST.SEM_SEG.SCALES = (1.0,)
    cfg.TEST.SEM_SEG.FLIP = False
    # An image larger than this (height, width), after scaling, is covered by windows of this size,
    # STRIDE (vertical, horizontal) apart, and they are averaged where they overlap. (): no windows.
    cfg.TEST.SEM_SEG.CROP_SIZE = ()
    cfg.TEST.SEM_SEG.STRIDE = ()  # (): two thirds of CROP_SIZE

    # Test-time augmentation.
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
