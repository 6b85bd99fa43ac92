"""The table of config keys: default, allowed values and meaning of each one that is read here.

``docs/config.md`` is made from it (``python -m sparsercnn.config_docs``). A key that has no row,
such as one of another project, is not checked. Upper limits only keep out what no machine can hold
or no training would end with.
"""

from collections import namedtuple

from .config_values import (
    Anything,
    Choice,
    Device,
    Either,
    Flag,
    Named,
    Number,
    Registered,
    Sequence,
    Text,
    Unset,
    Whole,
)

__all__ = ["OWN", "TABLE", "THEIRS", "Row", "rows"]

Row = namedtuple("Row", "allowed meaning default is_own")


def OWN(default, allowed, meaning):  # noqa: N802, rows of a table
    """A row of a key that this project adds to detectron2's."""
    return Row(allowed, meaning, default, True)


def THEIRS(allowed, meaning):  # noqa: N802
    """A row of a key of detectron2, which has the default."""
    return Row(allowed, meaning, None, False)


FLAG = Flag()
COUNT = Whole(1, 10_000)
COUNT_OR_NONE = Whole(0, 10_000)
LAYERS = Whole(0, 64)
WIDTH = Whole(1, 65_536)
ITERATIONS = Whole(1, 10**9)
ITERATIONS_OR_NONE = Whole(0, 10**9)
PIXELS = Whole(1, 16_384)
PIXELS_OR_NONE = Whole(0, 16_384)
SHARE = Number(0, 1)
WEIGHT = Number(0, 1e6)
POSITIVE = Number(above=0, high=1e6)
DROPOUT = Number(0, below=1)
CLASSES = Whole(1, 100_000)
LENGTH = Either(Whole(0), Number(0))  # whole pixels stay whole
NAMES = Sequence(Text())
OPTIONAL_EPOCHS = Either(Unset(), POSITIVE)
NORM = Choice(
    *("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
)
NORM_OR_AUTO = Choice("auto", *NORM.values)
POOLER = Choice("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")
BOX_LOSS = Choice("smooth_l1", "giou", "diou", "ciou")
BOX_WEIGHTS = Sequence(POSITIVE, 4, 5)
LABELS = Sequence(Choice(-1, 0, 1), 1)

TABLE = {
    "Sparse R-CNN": {
        "MODEL.SparseRCNN.NUM_CLASSES": OWN(80, CLASSES, "K"),
        "MODEL.SparseRCNN.NUM_PROPOSALS": OWN(300, COUNT, "N"),
        "MODEL.SparseRCNN.NUM_HEADS": OWN(
            6, Whole(1, 64), 'T, the stages ("heads" in the original) that refine the proposals'
        ),
        "MODEL.SparseRCNN.HIDDEN_DIM": OWN(
            256, WIDTH, "C, channels of proposal features and of the feature maps"
        ),
        "MODEL.SparseRCNN.NHEADS": OWN(
            8, COUNT, "heads of the self-attention among proposals; divides HIDDEN_DIM"
        ),
        "MODEL.SparseRCNN.DIM_FEEDFORWARD": OWN(
            2048, WIDTH, "hidden width of the feed-forward networks"
        ),
        "MODEL.SparseRCNN.DROPOUT": OWN(
            0.0, DROPOUT, "probability, in attention and after each sub-layer"
        ),
        "MODEL.SparseRCNN.ACTIVATION": OWN(
            "relu", Choice("relu", "gelu"), "of the feed-forward networks"
        ),
        "MODEL.SparseRCNN.NUM_CLS": OWN(1, LAYERS, "layers before the class logits"),
        "MODEL.SparseRCNN.NUM_REG": OWN(3, LAYERS, "layers before the box deltas"),
        "MODEL.SparseRCNN.SCORE_THRESH_TEST": OWN(
            0.0, SHARE, "detections below this score are dropped, in evaluation and demo alike"
        ),
        "MODEL.SparseRCNN.NMS_THRESH_TEST": OWN(
            0.0,
            SHARE,
            "IoU threshold of class-wise non-maximum suppression; 0: none, which suits the set "
            "loss",
        ),
    },
    "Losses of Sparse R-CNN": {
        "MODEL.SparseRCNN.CLASS_WEIGHT": OWN(
            2.0, WEIGHT, "λcls, of the loss and of the matching cost"
        ),
        "MODEL.SparseRCNN.GIOU_WEIGHT": OWN(
            2.0, WEIGHT, "λgiou, of the loss and of the matching cost"
        ),
        "MODEL.SparseRCNN.L1_WEIGHT": OWN(5.0, WEIGHT, "λL1, of the loss and of the matching cost"),
        "MODEL.SparseRCNN.DEEP_SUPERVISION": OWN(
            True, FLAG, "losses on all stages; False: on the last only"
        ),
        "MODEL.SparseRCNN.NO_OBJECT_WEIGHT": OWN(
            0.1,
            POSITIVE,
            'class weight of "no object" in the softmax loss; unused with the focal loss',
        ),
        "MODEL.SparseRCNN.CLASS_WEIGHTS": OWN(
            (),
            Sequence(POSITIVE, 0, 100_000),
            "factors on the class loss, one per class in their order, for those that are rare; (): "
            "all 1",
        ),
        "MODEL.SparseRCNN.USE_FOCAL": OWN(
            True,
            FLAG,
            'sigmoid focal loss; False: softmax cross-entropy with a "no object" class',
        ),
        "MODEL.SparseRCNN.ALPHA": OWN(0.25, SHARE, "α of the focal loss"),
        "MODEL.SparseRCNN.GAMMA": OWN(
            2.0,
            Either(Number(1, 100), Number(0, 0)),
            "γ of the focal loss; between 0 and 1, gradients of certain predictions are not finite",
        ),
        "MODEL.SparseRCNN.PRIOR_PROB": OWN(
            0.01, Number(above=0, below=1), "p, initial score of every class"
        ),
    },
    "Masks of Sparse R-CNN": {
        "MODEL.SparseRCNN.MASK.NAME": OWN(
            "dynamic",
            Registered("MASK_HEAD"),
            "the mask head of each stage, with MODEL.MASK_ON: dynamic, QueryInst's",
        ),
        "MODEL.SparseRCNN.MASK.SHARED": OWN(
            False, FLAG, "one mask head for all stages: fewer parameters"
        ),
        "MODEL.SparseRCNN.MASK.WEIGHT": OWN(8.0, WEIGHT, "of the dice loss"),
        "MODEL.SparseRCNN.MASK.POOLER_RESOLUTION": OWN(
            14,
            Whole(2, 256),
            "r, side of the RoI features; masks have twice as many cells. Type and sampling ratio "
            "of the pooling are those of ROI_BOX_HEAD",
        ),
        "MODEL.SparseRCNN.MASK.DIM_DYNAMIC": OWN(
            64, WIDTH, "channels between the two matrices that a proposal feature generates"
        ),
        "MODEL.SparseRCNN.MASK.NUM_CONV": OWN(4, LAYERS, "3x3 convolutions after them"),
        "MODEL.SparseRCNN.MASK.CONV_DIM": OWN(256, WIDTH, "their channels"),
        "MODEL.SparseRCNN.MASK.NORM": OWN("BN", NORM_OR_AUTO, "their norm; '': none"),
    },
    "Interaction of proposals and RoI features": {
        "MODEL.SparseRCNN.INTERACTION": OWN(
            "dynamic_conv",
            Registered("INTERACTION"),
            "how a proposal feature interacts with its RoI feature: dynamic_conv, dual_attention",
        ),
        "MODEL.SparseRCNN.NUM_DYNAMIC": OWN(
            2, Whole(1, 64), "matrices generated per proposal; dynamic_conv has 2"
        ),
        "MODEL.SparseRCNN.DIM_DYNAMIC": OWN(
            64, WIDTH, "channels between the two matrices of dynamic_conv"
        ),
        "MODEL.SparseRCNN.DUAL_ATTENTION.NUM_CBAM": OWN(
            4, LAYERS, "repetitions of dynamic CBAM; 0 disables the branch"
        ),
        "MODEL.SparseRCNN.DUAL_ATTENTION.NUM_TRANSFORMER": OWN(
            1, LAYERS, "layers of the RoI transformer; 0 disables the branch"
        ),
        "MODEL.SparseRCNN.DUAL_ATTENTION.DYNAMIC_CBAM": OWN(
            True,
            FLAG,
            "the CBAM's attention weights come from the proposal; False: from the RoI feature",
        ),
        "MODEL.SparseRCNN.DUAL_ATTENTION.PRE_NORM": OWN(
            True,
            FLAG,
            "LayerNorm over all C x r x r values of a RoI before they are projected",
        ),
        "MODEL.SparseRCNN.DUAL_ATTENTION.ROI_CHUNK": OWN(
            0,
            Whole(0, 10**9),
            "number of RoIs whose activations are in memory at a time; the backward pass "
            "recomputes them, which saves memory on small GPUs. 0: all RoIs at once, nothing is "
            "recomputed",
        ),
    },
    "Proposals": {
        "MODEL.SparseRCNN.PROPOSALS.NAME": OWN(
            "learned",
            Registered("PROPOSALS"),
            "source of the initial boxes and features: learned, or dynamic, experts that are mixed "
            "for each image",
        ),
        "MODEL.SparseRCNN.PROPOSALS.INIT": OWN(
            "image", Choice("image", "center", "grid", "random"), "initial boxes"
        ),
        "MODEL.SparseRCNN.PROPOSALS.NUM_EXPERTS": OWN(
            4, Whole(1, 256), "E, of dynamic proposals; 1: the same as learned"
        ),
        "MODEL.SparseRCNN.PROPOSALS.TEMPERATURE": OWN(
            30.0,
            Number(1, 1e6),
            "initial τ of the softmax over experts, which falls linearly to 1",
        ),
        "MODEL.SparseRCNN.PROPOSALS.ANNEAL_ITERS": OWN(
            3000, ITERATIONS_OR_NONE, "iterations until τ is 1"
        ),
        "MODEL.SparseRCNN.PROPOSALS.STANDARDIZE": OWN(
            False,
            FLAG,
            "standardise the map from which the weights are computed to mean 0 and deviation 1 per "
            "image, which makes the weights depend on the image. Not in the paper",
        ),
    },
    "Assignment of proposals to objects": {
        "MODEL.SparseRCNN.MATCHER.NAME": OWN(
            "hungarian", Registered("MATCHER"), "hungarian, or optimal_transport"
        ),
        "MODEL.SparseRCNN.MATCHER.K": OWN(
            3, COUNT, "units of an object at the last stage of optimal transport"
        ),
        "MODEL.SparseRCNN.MATCHER.DYNAMIC_K": OWN(
            False,
            FLAG,
            "k of an object is not K but the sum of its TOP_Q largest IoUs with the stage's boxes, "
            "rounded down",
        ),
        "MODEL.SparseRCNN.MATCHER.TOP_Q": OWN(8, COUNT, "q"),
        "MODEL.SparseRCNN.MATCHER.STEP": OWN(
            0.5, WEIGHT, "k is this much smaller per earlier stage; at least 1"
        ),
        "MODEL.SparseRCNN.MATCHER.SINKHORN_EPS": OWN(
            0.005,
            Number(1e-4, 1e6),
            "entropic regularisation: the solver does not resolve smaller differences of costs",
        ),
        "MODEL.SparseRCNN.MATCHER.SINKHORN_ITERS": OWN(30, COUNT, "iterations of the solver"),
        "MODEL.SparseRCNN.MATCHER.ROUNDING": OWN(
            "supply",
            Choice("supply", "largest_share"),
            "how the transport plan becomes an assignment. supply: an object takes at most k "
            "proposals, rounded up, and wins ties with the background. largest_share: the paper's "
            "rule unchanged, each proposal goes to the object, or background, with the largest "
            "share of it",
        ),
    },
    "Model": {
        "MODEL.META_ARCHITECTURE": THEIRS(
            Registered("META_ARCH"), "SparseRCNN, GeneralizedRCNN (cascade), SemanticSegmentor"
        ),
        "MODEL.DEVICE": THEIRS(
            Device(),
            "where the model runs; auto: on a GPU if there is one, otherwise on the CPU. So do "
            "all programs and sparsercnn.get_config unless it is set; cuda is detectron2's default",
        ),
        "MODEL.WEIGHTS": THEIRS(
            Text(),
            "the checkpoint to start from or to evaluate, also the folder of a run; '': none",
        ),
        "MODEL.MASK_ON": THEIRS(FLAG, "mask heads, of Sparse R-CNN and of the cascade"),
        "MODEL.KEYPOINT_ON": THEIRS(FLAG, "detectron2's keypoint head"),
        "MODEL.LOAD_PROPOSALS": THEIRS(FLAG, "read proposals that were computed beforehand"),
        "MODEL.PIXEL_MEAN": THEIRS(
            Sequence(Number(), 1, 16), "subtracted from each channel, in the order of INPUT.FORMAT"
        ),
        "MODEL.PIXEL_STD": THEIRS(
            Sequence(Number(above=0), 1, 16), "then each channel is divided by it"
        ),
        "MODEL.FREEZE": OWN(
            (),
            NAMES,
            "names of weights or modules that training leaves as they are, batch norms with their "
            'statistics; "*" stands for anything: ("backbone.bottom_up", "head.head_series.0")',
        ),
        "MODEL.CHANNELS_LAST": OWN(
            True,
            FLAG,
            "weights of convolutions with the channels last in memory, and so the maps that they "
            "compute. Values, names and results stay the same, up to rounding",
        ),
        "MODEL.ACTIVATION_CHECKPOINT.BACKBONE": OWN(
            False,
            FLAG,
            "recompute activations in the backward pass, block by block: less memory, more time",
        ),
        "MODEL.ACTIVATION_CHECKPOINT.HEAD": OWN(False, FLAG, "the same, stage by stage"),
    },
    "Backbone": {
        "MODEL.BACKBONE.NAME": THEIRS(
            Registered("BACKBONE"),
            "build_resnet_fpn_backbone, build_resnet_attention_fpn_backbone, "
            "build_dilated_resnet_backbone, build_timm_fpn_backbone, build_timm_backbone, "
            "build_vit_backbone ...",
        ),
        "MODEL.BACKBONE.FREEZE_AT": THEIRS(
            Whole(0, 5),
            "stages that are not trained, the stem being the first; 0: none. Of a plain ViT, a "
            "quarter of the blocks is a stage",
        ),
        "MODEL.RESNETS.DEPTH": THEIRS(COUNT, "of a ResNet: 18, 34, 50, 101 or 152"),
        "MODEL.RESNETS.OUT_FEATURES": THEIRS(NAMES, "maps that are computed, such as res2 to res5"),
        "MODEL.RESNETS.NUM_GROUPS": THEIRS(COUNT, "of the 3x3 convolutions; ResNeXt has 32 or 64"),
        "MODEL.RESNETS.WIDTH_PER_GROUP": THEIRS(WIDTH, "channels of each group in res2"),
        "MODEL.RESNETS.NORM": THEIRS(
            NORM_OR_AUTO,
            "FrozenBN for published weights; auto, for build_dilated_resnet_backbone: SyncBN with "
            "several GPUs, else BN",
        ),
        "MODEL.RESNETS.STRIDE_IN_1X1": THEIRS(
            FLAG, "stride in a block's first 1x1 convolution, as in MSRA's weights, or in its 3x3"
        ),
        "MODEL.RESNETS.STEM_OUT_CHANNELS": THEIRS(WIDTH, "channels of the stem"),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": THEIRS(
            WIDTH, "channels of res2; each later stage has twice as many"
        ),
        "MODEL.RESNETS.RES4_DILATION": OWN(
            1,
            Choice(1, 2),
            "of build_dilated_resnet_backbone: 2 with RES5_DILATION 4 has output stride 8, 1 with "
            "2 has 16",
        ),
        "MODEL.RESNETS.RES5_DILATION": THEIRS(Choice(1, 2, 4), "dilation of res5"),
        "MODEL.RESNETS.RES5_MULTI_GRID": OWN(
            [],
            Sequence(Whole(1, 64)),
            "factor on RES5_DILATION for each block of res5; []: 1 for all. DANet's paper uses "
            "[1, 2, 4]",
        ),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": THEIRS(
            Sequence(FLAG, 4, 4), "deformable convolutions in res2 to res5"
        ),
        "MODEL.RESNETS.DEFORM_MODULATED": THEIRS(FLAG, "modulated ones (DCNv2)"),
        "MODEL.RESNETS.DEFORM_NUM_GROUPS": THEIRS(COUNT, "groups of deformable convolutions"),
        "MODEL.RESNETS.RES5_ATTENTION": OWN(
            "",
            Registered("DANET_ATTENTION", ("",)),
            "parameter_free or projected: DANet's two attentions at the end of a detector's res5, "
            "before the neck. Only build_resnet_attention_fpn_backbone reads this key; with "
            "AGGREGATION sum its neck is the ordinary FPN",
        ),
    },
    "Backbone of timm": {
        "MODEL.TIMM.NAME": OWN(
            "",
            Text(),
            "a model of timm with features_only: convnext_tiny, swin_tiny_patch4_window7_224, "
            "resnet50.a1_in1k ... Read by build_timm_fpn_backbone, whose neck is that of "
            "FPN.AGGREGATION, and by build_timm_backbone, without neck; both need the extra "
            "backbones",
        ),
        "MODEL.TIMM.PRETRAINED": OWN(
            "",
            Text(),
            "weights of a training that begins without MODEL.WEIGHTS: a file with timm's names or "
            "those of the model's authors, or timm, which downloads those that timm has under "
            "NAME; '': random ones",
        ),
        "MODEL.TIMM.OUT_FEATURES": OWN(
            ("res2", "res3", "res4", "res5"),
            NAMES,
            "maps that are computed, finest first. The last stage is res5, one at the stride of "
            "the stem res1",
        ),
        "MODEL.TIMM.DROP_PATH": OWN(
            0.0,
            DROPOUT,
            "probability of dropping the last block's residual for an image, in training; from 0 "
            "at the first block it rises linearly",
        ),
        "MODEL.TIMM.OUTPUT_STRIDE": OWN(
            32,
            Choice(8, 16, 32),
            "of res5; 8 and 16 dilate the last stages, of models that can, for DANet",
        ),
        "MODEL.TIMM.NORM": OWN(
            "",
            Choice("", "FrozenBN", "SyncBN", "auto"),
            "what batch norms become; '': they stay. FrozenBN for pretrained weights in small "
            "batches; auto: SyncBN with several GPUs. Other norms stay in any case",
        ),
    },
    "Plain ViT": {
        "MODEL.VIT.PRETRAINED": OWN(
            "",
            Text(),
            "file of weights of a training that begins without MODEL.WEIGHTS: MAE's, timm's or "
            "converted ones. Positions and patches of another size are made to fit. '': random "
            "weights",
        ),
        "MODEL.VIT.PATCH_SIZE": OWN(
            16, Choice(4, 8, 16, 32), "side of a patch in pixels; of build_vit_backbone, as all VIT"
        ),
        "MODEL.VIT.EMBED_DIM": OWN(768, WIDTH, "channels; ViT-B has 768, S 384, L 1024"),
        "MODEL.VIT.DEPTH": OWN(12, Whole(1, 64), "blocks; ViT-B and S have 12, L 24"),
        "MODEL.VIT.NUM_HEADS": OWN(12, COUNT, "heads of attention; ViT-B has 12, S 6, L 16"),
        "MODEL.VIT.MLP_RATIO": OWN(4.0, POSITIVE, "hidden width of the MLPs over EMBED_DIM"),
        "MODEL.VIT.PRETRAIN_SIZE": OWN(
            224,
            PIXELS,
            "side of the images for which the table of positions is made; it is interpolated to "
            "others",
        ),
        "MODEL.VIT.WINDOW_SIZE": OWN(
            14, Whole(0, 1024), "side of the windows of attention, in patches; 0: the whole map"
        ),
        "MODEL.VIT.GLOBAL_BLOCKS": OWN(
            (2, 5, 8, 11),
            Sequence(Whole(0, 63)),
            "blocks, from 0, that attend to the whole map in any case",
        ),
        "MODEL.VIT.DROP_PATH": OWN(0.0, DROPOUT, "as MODEL.TIMM.DROP_PATH"),
    },
    "Neck": {
        "MODEL.FPN.AGGREGATION": OWN(
            "sum",
            Choice("sum", "mssa", "mssa_adp", "msca", "msca_adp"),
            "how build_resnet_attention_fpn_backbone and build_timm_fpn_backbone join the levels "
            "of the pyramid; sum: detectron2's FPN",
        ),
        "MODEL.FPN.IN_FEATURES": THEIRS(NAMES, "maps of the backbone, finest first"),
        "MODEL.FPN.OUT_CHANNELS": THEIRS(WIDTH, "channels of all levels; HIDDEN_DIM must be equal"),
        "MODEL.FPN.NORM": THEIRS(NORM, "norm of the neck's convolutions; '': none"),
        "MODEL.FPN.FUSE_TYPE": THEIRS(Choice("sum", "avg"), "sum or mean, in detectron2's FPN"),
    },
    "Region proposals of the cascade": {
        "MODEL.PROPOSAL_GENERATOR.NAME": THEIRS(
            Registered("PROPOSAL_GENERATOR", ("PrecomputedProposals",)), "RPN"
        ),
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": THEIRS(
            Whole(0), "proposals with a shorter side are dropped, in pixels"
        ),
        "MODEL.ANCHOR_GENERATOR.NAME": THEIRS(Registered("ANCHOR_GENERATOR"), "of the anchors"),
        "MODEL.ANCHOR_GENERATOR.SIZES": THEIRS(
            Sequence(Either(LENGTH, Sequence(LENGTH, 1)), 1),
            "sides of anchors in pixels, a list per level",
        ),
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": THEIRS(
            Sequence(Either(POSITIVE, Sequence(POSITIVE, 1)), 1), "height over width, per level"
        ),
        "MODEL.ANCHOR_GENERATOR.OFFSET": THEIRS(
            Number(0, below=1), "of the first anchor's centre, as a share of the stride"
        ),
        "MODEL.RPN.HEAD_NAME": THEIRS(Registered("RPN_HEAD"), "of the RPN's head"),
        "MODEL.RPN.IN_FEATURES": THEIRS(NAMES, "maps that the RPN reads"),
        "MODEL.RPN.BOUNDARY_THRESH": THEIRS(
            Whole(-1), "anchors that lie further outside are not used; -1: all are"
        ),
        "MODEL.RPN.IOU_THRESHOLDS": THEIRS(
            Sequence(SHARE, 1), "limits of IoU between the labels below"
        ),
        "MODEL.RPN.IOU_LABELS": THEIRS(LABELS, "0 background, -1 ignored, 1 object"),
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": THEIRS(Whole(1, 10**6), "anchors with a loss, per image"),
        "MODEL.RPN.POSITIVE_FRACTION": THEIRS(SHARE, "share of objects among them"),
        "MODEL.RPN.BBOX_REG_LOSS_TYPE": THEIRS(BOX_LOSS, "loss of the boxes"),
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": THEIRS(WEIGHT, "factor on it"),
        "MODEL.RPN.BBOX_REG_WEIGHTS": THEIRS(BOX_WEIGHTS, "of dx, dy, dw, dh"),
        "MODEL.RPN.SMOOTH_L1_BETA": THEIRS(WEIGHT, "where L1 begins; 0: everywhere"),
        "MODEL.RPN.LOSS_WEIGHT": THEIRS(WEIGHT, "factor on both losses of the RPN"),
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": THEIRS(Whole(1), "best proposals before NMS, in training"),
        "MODEL.RPN.PRE_NMS_TOPK_TEST": THEIRS(Whole(1), "the same in inference"),
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": THEIRS(Whole(1), "after NMS, in training"),
        "MODEL.RPN.POST_NMS_TOPK_TEST": THEIRS(Whole(1), "after NMS, in inference"),
        "MODEL.RPN.NMS_THRESH": THEIRS(SHARE, "IoU threshold of the NMS"),
        "MODEL.RPN.CONV_DIMS": THEIRS(
            Sequence(Either(Choice(-1), WIDTH), 1),
            "channels of the head's convolutions; -1: as many as the maps have",
        ),
    },
    "Heads on regions": {
        "MODEL.ROI_HEADS.NAME": THEIRS(
            Registered("ROI_HEADS"),
            "CascadeMaskROIHeads: Cascade Mask R-CNN with a mask head for each stage; "
            "CascadeROIHeads: with one",
        ),
        "MODEL.ROI_HEADS.NUM_CLASSES": THEIRS(CLASSES, "K of the cascade"),
        "MODEL.ROI_HEADS.IN_FEATURES": THEIRS(
            Sequence(Text(), 1),
            "maps from which regions are pooled, finest first; Sparse R-CNN reads it, too",
        ),
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": THEIRS(Sequence(SHARE, 1), "between the labels below"),
        "MODEL.ROI_HEADS.IOU_LABELS": THEIRS(LABELS, "0 background, -1 ignored, 1 object"),
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": THEIRS(
            Whole(1, 10**6), "regions with a loss, per image"
        ),
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": THEIRS(SHARE, "share of objects among them"),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": THEIRS(SHARE, "detections below it are dropped"),
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": THEIRS(
            SHARE, "IoU threshold of the NMS, of the cascade and of TEST.AUG"
        ),
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": THEIRS(FLAG, "objects are proposals, in training"),
        "MODEL.ROI_BOX_HEAD.NAME": THEIRS(Registered("ROI_BOX_HEAD", ("",)), "of the box head"),
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": THEIRS(
            POOLER, "Sparse R-CNN has ROIAlignV2 and ROIAlign"
        ),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": THEIRS(
            Whole(1, 256), "r, the side of a RoI feature; Sparse R-CNN reads it, too"
        ),
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": THEIRS(
            Whole(0, 64), "samples per bin and axis; 0: as many as the bin has pixels"
        ),
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": THEIRS(BOX_LOSS, "loss of the boxes"),
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": THEIRS(WEIGHT, "factor on it"),
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": THEIRS(BOX_WEIGHTS, "of dx, dy, dw, dh"),
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": THEIRS(WEIGHT, "where L1 begins; 0: everywhere"),
        "MODEL.ROI_BOX_HEAD.NUM_FC": THEIRS(LAYERS, "fully connected layers"),
        "MODEL.ROI_BOX_HEAD.FC_DIM": THEIRS(WIDTH, "their width"),
        "MODEL.ROI_BOX_HEAD.NUM_CONV": THEIRS(LAYERS, "convolutions before them"),
        "MODEL.ROI_BOX_HEAD.CONV_DIM": THEIRS(WIDTH, "their channels"),
        "MODEL.ROI_BOX_HEAD.NORM": THEIRS(NORM, "their norm"),
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": THEIRS(FLAG, "one box for all classes"),
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": THEIRS(
            FLAG, "masks are trained on refined boxes"
        ),
        "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": THEIRS(
            Sequence(SHARE, 1, 64), "IoU threshold of each stage"
        ),
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": THEIRS(
            Sequence(BOX_WEIGHTS, 1, 64), "of dx, dy, dw, dh, for each stage"
        ),
        "MODEL.CASCADE_MASK_ROI_HEADS.STAGE_LOSS_WEIGHTS": OWN(
            (1.0, 0.5, 0.25),
            Sequence(WEIGHT, 1, 64),
            "factor on all losses of a stage of CascadeMaskROIHeads; one per entry of "
            "ROI_BOX_CASCADE_HEAD.IOUS",
        ),
        "MODEL.ROI_MASK_HEAD.NAME": THEIRS(Registered("ROI_MASK_HEAD"), "of the mask head"),
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": THEIRS(Choice("", *POOLER.values), "of its pooling"),
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": THEIRS(Whole(1, 256), "side of its input"),
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": THEIRS(Whole(0, 64), "as for boxes"),
        "MODEL.ROI_MASK_HEAD.NUM_CONV": THEIRS(LAYERS, "convolutions"),
        "MODEL.ROI_MASK_HEAD.CONV_DIM": THEIRS(WIDTH, "their channels"),
        "MODEL.ROI_MASK_HEAD.NORM": THEIRS(NORM, "their norm"),
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": THEIRS(FLAG, "one mask for all classes"),
    },
    "Segmentation": {
        "MODEL.SEM_SEG_HEAD.NAME": THEIRS(Registered("SEM_SEG_HEADS"), "DANetHead"),
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": THEIRS(NAMES, "maps that it reads; DANetHead: one"),
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": THEIRS(
            Whole(0, 2**31 - 1), "label of pixels without a class"
        ),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": THEIRS(CLASSES, "K; of label maps at most 255"),
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": THEIRS(WIDTH, "C of its convolutions"),
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": THEIRS(
            COUNT, "of detectron2's own head, not of DANetHead"
        ),
        "MODEL.SEM_SEG_HEAD.NORM": THEIRS(NORM_OR_AUTO, "see MODEL.RESNETS.NORM"),
        "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": THEIRS(WEIGHT, "factor on each loss"),
        "MODEL.SEM_SEG_HEAD.LOSS_TYPE": OWN(
            "cross_entropy",
            Choice("cross_entropy", "hard_pixel_mining"),
            "loss of DANetHead, named as in detectron2's DeepLab. cross_entropy: mean over all "
            "labelled pixels; hard_pixel_mining: over those of the batch with the largest loss",
        ),
        "MODEL.SEM_SEG_HEAD.LOSS_TOP_K": OWN(
            0.2, Number(above=0, high=1), "fraction of labelled pixels mined, at least one pixel"
        ),
        "MODEL.DANET.ATTENTION": OWN(
            "parameter_free",
            Registered("DANET_ATTENTION"),
            "position and channel attention of DANetHead. parameter_free: queries, keys and values "
            "are the feature itself. projected: the paper's",
        ),
        "MODEL.DANET.DROPOUT": OWN(
            0.1,
            DROPOUT,
            "DANetHead with projected: probability of dropping a channel before each predictor, in "
            "training. parameter_free has no dropout",
        ),
    },
    "Images": {
        "INPUT.FORMAT": THEIRS(
            Choice(
                *("BGR", "RGB", "L", "F", "YUV-BT.601", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I")
            ),
            "channels of an image, and their order",
        ),
        "INPUT.MIN_SIZE_TRAIN": THEIRS(
            Sequence(PIXELS, 1), "shorter side of a training image: one of these, drawn at random"
        ),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": THEIRS(
            Choice("choice", "range"), "range: between the two of MIN_SIZE_TRAIN"
        ),
        "INPUT.MAX_SIZE_TRAIN": THEIRS(PIXELS, "the longer side is at most this"),
        "INPUT.MIN_SIZE_TEST": THEIRS(
            PIXELS_OR_NONE, "shorter side in inference; 0: images keep their size"
        ),
        "INPUT.MAX_SIZE_TEST": THEIRS(PIXELS, "the longer side is at most this, in inference"),
        "INPUT.RANDOM_FLIP": THEIRS(
            Choice("horizontal", "vertical", "none"), "of half the training images"
        ),
        "INPUT.CROP.ENABLED": THEIRS(FLAG, "crop training images at random"),
        "INPUT.CROP.TYPE": THEIRS(
            Choice("relative_range", "relative", "absolute", "absolute_range"),
            "what CROP.SIZE is",
        ),
        "INPUT.CROP.SIZE": THEIRS(
            Sequence(Either(PIXELS, Number(above=0, high=1)), 2, 2),
            "height and width: shares of the image, or pixels, as TYPE says",
        ),
        "INPUT.MASK_FORMAT": THEIRS(Choice("polygon", "bitmask"), "of masks, in training"),
        "INPUT.SIZE_BUCKET": OWN(
            0,
            PIXELS_OR_NONE,
            "Sparse R-CNN pads a training batch to height and width that are multiples of this, so "
            "that few sizes occur and cuDNN's search (CUDNN_BENCHMARK) and compilation start anew "
            "for few. 0: of the backbone's stride, the least that it needs",
        ),
        "INPUT.LSJ.ENABLED": OWN(
            False,
            FLAG,
            "large-scale jitter, in place of MIN_SIZE_TRAIN and CROP; see [recipes.md](recipes.md)",
        ),
        "INPUT.LSJ.SIZE": OWN(
            (1024, 1024), Sequence(PIXELS, 2, 2), "height and width of the largest image"
        ),
        "INPUT.LSJ.SCALE": OWN(
            (0.1, 2.0),
            Sequence(Number(above=0, high=64), 2, 2),
            "an image is resized to fit into SIZE times a factor of this range, and cropped to "
            "SIZE",
        ),
        "INPUT.MOSAIC.ENABLED": OWN(
            False, FLAG, "four images around a point, in the size of the first"
        ),
        "INPUT.MOSAIC.PROB": OWN(0.5, SHARE, "share of the images that become mosaics"),
        "INPUT.MOSAIC.CENTER": OWN(
            (0.3, 0.7), Sequence(SHARE, 2, 2), "range of the point, in shares of width and height"
        ),
        "INPUT.MOSAIC.SCALE": OWN(
            (0.5, 1.0),
            Sequence(Number(above=0, high=64), 2, 2),
            "range of the factors by which the images are resized",
        ),
        "INPUT.COPY_PASTE.ENABLED": OWN(
            False,
            FLAG,
            "paste objects of other images, along their masks; one without mask as its box",
        ),
        "INPUT.COPY_PASTE.PROB": OWN(0.5, SHARE, "share of the images that get objects"),
        "INPUT.COPY_PASTE.SHARE": OWN(0.5, SHARE, "share of the other image's objects"),
        "INPUT.MIXUP.ENABLED": OWN(False, FLAG, "blend two images, with the objects of both"),
        "INPUT.MIXUP.PROB": OWN(0.5, SHARE, "share of the images that are blended"),
        "INPUT.MIXUP.ALPHA": OWN(
            32.0, POSITIVE, "α, the share of the first image is drawn from Beta(α, α)"
        ),
        "INPUT.ALBUMENTATIONS": OWN(
            (),
            Sequence(Named()),
            "transforms of the library albumentations (extra `albumentations`), applied to each "
            "image first: mappings of `name` and that transform's arguments, such as {name: "
            "Rotate, limit: 10}",
        ),
        "INPUT.SLIVERS.MIN_SIDE": OWN(
            2.0,
            WEIGHT,
            "with LSJ, MOSAIC, COPY_PASTE, MIXUP or ALBUMENTATIONS, an object is dropped, and "
            "counted in data/slivers, if a side of its box is shorter, in pixels of the training "
            "image",
        ),
        "INPUT.SLIVERS.MIN_VISIBLE": OWN(
            0.1, SHARE, "and likewise if less than this share of it is left"
        ),
    },
    "Data": {
        "DATASETS.TRAIN": THEIRS(NAMES, "data sets by name or location, see [data.md](data.md)"),
        "DATASETS.TEST": THEIRS(NAMES, "the same for evaluation"),
        "DATASETS.SKIP_INVALID": OWN(
            False,
            FLAG,
            "leave out unreadable images and invalid annotations; they are counted and logged. "
            "False: stop with an error that names the first ones",
        ),
        "DATALOADER.NUM_WORKERS": THEIRS(Whole(0, 512), "processes that read images, per GPU"),
        "DATALOADER.TIMEOUT": OWN(
            600.0,
            WEIGHT,
            "seconds to wait for a batch of these processes before the run stops with the images "
            "that they are at; 0: without limit",
        ),
        "DATALOADER.RESTARTS": OWN(
            0,
            COUNT_OR_NONE,
            "how often a training starts them anew after one was killed or stood still, which "
            "changes no batch; 0: it stops",
        ),
        "DATALOADER.ASPECT_RATIO_GROUPING": THEIRS(
            FLAG, "wide images and tall ones in batches of their own"
        ),
        "DATALOADER.SAMPLER_TRAIN": THEIRS(
            Choice("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"),
            "order of the training images",
        ),
        "DATALOADER.REPEAT_THRESHOLD": THEIRS(
            SHARE, "of RepeatFactorTrainingSampler: rarer classes are repeated"
        ),
        "DATALOADER.RANDOM_SUBSET_RATIO": OWN(
            1.0,
            Number(above=0, high=1),
            "of RandomSubsetTrainingSampler: share of the images that it draws, once, from the "
            "SEED; detectron2 0.6 reads the key and lacks it",
        ),
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": THEIRS(FLAG, "train only on images with objects"),
    },
    "Training": {
        "SOLVER.OPTIMIZER": OWN(
            "ADAMW", Choice("ADAMW", "SGD", "AdamW", "adamw", "sgd"), "the optimizer"
        ),
        "SOLVER.BASE_LR": THEIRS(POSITIVE, "learning rate after the warm-up"),
        "SOLVER.BACKBONE_MULTIPLIER": OWN(
            1.0, WEIGHT, "learning rate of the backbone, with its neck, over BASE_LR"
        ),
        "SOLVER.BOTTOM_UP_MULTIPLIER": OWN(
            1.0,
            WEIGHT,
            "further factor on the learning rate of the backbone without its neck, such as the "
            "ResNet below an FPN",
        ),
        "SOLVER.LAYER_DECAY": OWN(
            1.0,
            Number(above=0, high=1),
            "learning rate of the backbone's layer i of L, as a factor: LAYER_DECAY^(L + 1 - i), "
            "with the stem, or patches and positions, as layer 0; 1: all alike",
        ),
        "SOLVER.NEW_LAYERS_MULTIPLIER": OWN(
            1.0,
            WEIGHT,
            "factor on the learning rate of weights that MODEL.WEIGHTS does not have, wholly or in "
            "part",
        ),
        "SOLVER.MOMENTUM": THEIRS(Number(0, below=1), "of SGD"),
        "SOLVER.NESTEROV": THEIRS(FLAG, "of SGD, with a momentum"),
        "SOLVER.ADAM_BETAS": OWN((0.9, 0.999), Sequence(Number(0, below=1), 2, 2), "β of AdamW"),
        "SOLVER.ADAM_EPS": OWN(1e-8, SHARE, "ε of AdamW"),
        "SOLVER.WEIGHT_DECAY": THEIRS(
            SHARE, "of all parameters, also norms, whatever WEIGHT_DECAY_NORM says"
        ),
        "SOLVER.NO_DECAY_NORM_BIAS": OWN(
            False,
            FLAG,
            "no weight decay on norms and biases, as is usual with transformers, because decay "
            "pulls a norm's scale, which starts at 1, towards 0. The original Sparse R-CNN and the "
            "published attention FPNs decay all parameters. Positions of a ViT or Swin have none "
            "in any case",
        ),
        "SOLVER.LR_SCHEDULER_NAME": THEIRS(
            Choice("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"), "learning-rate schedule"
        ),
        "SOLVER.MAX_ITER": THEIRS(ITERATIONS, "iterations"),
        "SOLVER.EPOCHS": OWN(
            None,
            OPTIONAL_EPOCHS,
            "length in epochs of DATASETS.TRAIN, without the images that are left out; sets "
            "MAX_ITER and, in proportion, STEPS",
        ),
        "SOLVER.STEPS": THEIRS(
            Sequence(ITERATIONS_OR_NONE),
            "of WarmupMultiStepLR: iterations, ascending, at which the rate is multiplied by GAMMA",
        ),
        "SOLVER.STEP_FRACTIONS": OWN(
            None,
            Either(Unset(), Sequence(Number(above=0, below=1))),
            "sets STEPS, as fractions of the schedule: (0.8, 0.95)",
        ),
        "SOLVER.GAMMA": THEIRS(Number(above=0, high=1), "see STEPS"),
        "SOLVER.BASE_LR_END": OWN(
            0.0,
            WEIGHT,
            "final rate of WarmupCosineLR, at most BASE_LR; detectron2 0.6 lacks the key",
        ),
        "SOLVER.POLY_LR_POWER": OWN(
            0.9,
            Number(above=0, high=100),
            "of WarmupPolyLR, as in detectron2's DeepLab: BASE_LR x (1 - iteration / MAX_ITER)^"
            "POLY_LR_POWER",
        ),
        "SOLVER.POLY_LR_CONSTANT_ENDING": OWN(
            0.0, SHARE, "lower bound of that rate, as a fraction of BASE_LR"
        ),
        "SOLVER.WARMUP_ITERS": THEIRS(ITERATIONS_OR_NONE, "of the warm-up"),
        "SOLVER.WARMUP_FRACTION": OWN(
            None,
            Either(Unset(), Number(0, below=1)),
            "sets WARMUP_ITERS, as a fraction of the schedule: 0.05",
        ),
        "SOLVER.WARMUP_FACTOR": THEIRS(SHARE, "rate at its start, as a fraction"),
        "SOLVER.WARMUP_METHOD": THEIRS(Choice("linear", "constant"), "its course"),
        "SOLVER.IMS_PER_BATCH": THEIRS(
            Whole(1, 65_536), "images of all GPUs together, per forward pass"
        ),
        "SOLVER.REFERENCE_WORLD_SIZE": THEIRS(
            Whole(0, 65_536),
            "GPUs that the config was made for; rates and iterations are scaled to those in use. "
            "0: nothing is scaled",
        ),
        "SOLVER.ACCUMULATE_STEPS": OWN(
            1,
            COUNT,
            "number of batches whose gradients are accumulated per optimizer step. One iteration "
            "is one optimizer step, on IMS_PER_BATCH x ACCUMULATE_STEPS images",
        ),
        "SOLVER.EXACT_ACCUMULATION": OWN(
            False,
            FLAG,
            "with ACCUMULATE_STEPS: exact gradients of one big batch even if the divisor of a loss "
            "is known only after the forward pass (optimal transport, softmax loss), at the cost "
            "of one more forward pass per batch. False: such batches are weighted by their "
            "objects, which is close",
        ),
        "SOLVER.CLIP_GRADIENTS.ENABLED": THEIRS(FLAG, "clip gradients"),
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": THEIRS(
            Choice("full_model", "norm", "value"),
            "by the norm of all together, by that of each parameter, or each value",
        ),
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": THEIRS(POSITIVE, "the largest that is kept"),
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE": THEIRS(Number(above=0, finite=False), "p of the norm"),
        "SOLVER.AMP.ENABLED": THEIRS(FLAG, "mixed precision"),
        "SOLVER.AMP.DTYPE": OWN("float16", Choice("float16", "bfloat16"), "with AMP.ENABLED"),
        "SOLVER.COMPILE": OWN(
            False,
            FLAG,
            "train with backbone, neck and stages compiled by torch.compile; needs a C++ compiler, "
            "on GPUs Triton. Evaluation is not compiled",
        ),
        "SOLVER.SKIP_NON_FINITE": OWN(
            False,
            FLAG,
            "skip an iteration with a non-finite loss, with a warning. False: stop with a report",
        ),
        "SOLVER.CHECKPOINT_PERIOD": THEIRS(ITERATIONS, "iterations between checkpoints"),
        "SOLVER.CHECKPOINT_MINUTES": OWN(
            0.0,
            WEIGHT,
            "beside those of CHECKPOINT_PERIOD, model_latest.pth is overwritten when the last "
            "checkpoint is this many minutes old; 0: only before an evaluation, and when a signal "
            "ends the run",
        ),
        "SOLVER.CHECKPOINT_MAX_TO_KEEP": OWN(
            0, COUNT_OR_NONE, "checkpoints of CHECKPOINT_PERIOD that are kept, the newest; 0: all"
        ),
        "SOLVER.CHECKPOINT_EPOCHS": OWN(None, OPTIONAL_EPOCHS, "sets CHECKPOINT_PERIOD, in epochs"),
        "SOLVER.PATIENCE": OWN(
            0,
            COUNT_OR_NONE,
            "stop after so many evaluations in a row without a better TEST.BEST_METRIC; 0: never",
        ),
        "SOLVER.EMA.ENABLED": OWN(
            False,
            FLAG,
            "exponential moving average of the weights. Each evaluation is of the average and, "
            'with "_raw" behind its tasks, of the weights themselves; checkpoints hold the average '
            "as their model",
        ),
        "SOLVER.EMA.DECAY": OWN(
            0.9998,
            Number(0, below=1),
            "the decay is min(DECAY, (1 + t) / (WARMUP + t)) at update t: until it reaches DECAY, "
            "the average spans about 1 / WARMUP of the updates so far",
        ),
        "SOLVER.EMA.WARMUP": OWN(10.0, Number(1), "see DECAY; 1: DECAY from the start"),
        "SOLVER.EMA.START_ITER": OWN(0, ITERATIONS_OR_NONE, "the first iteration that counts"),
    },
    "Evaluation": {
        "TEST.EVAL_PERIOD": THEIRS(
            ITERATIONS_OR_NONE, "iterations between evaluations; 0: at the end only"
        ),
        "TEST.EVAL_EPOCHS": OWN(None, OPTIONAL_EPOCHS, "sets EVAL_PERIOD, in epochs"),
        "TEST.EXPECTED_RESULTS": THEIRS(
            Sequence(Sequence(Anything(), 4, 4)),
            "[task, metric, value, tolerance] that --eval-only verifies",
        ),
        "TEST.DETECTIONS_PER_IMAGE": THEIRS(
            Either(Choice(-1), Whole(1, 10**6)),
            "detections kept per image. -1: unset, which means NUM_PROPOSALS for Sparse R-CNN, as "
            "in the original, and 100 for detectron2's own models",
        ),
        "TEST.SIZE_BUCKET": OWN(
            0,
            PIXELS_OR_NONE,
            "INPUT.SIZE_BUCKET in inference, where padding changes detections slightly; not for "
            "exported models",
        ),
        "TEST.COCO_EVAL": OWN(
            "auto",
            Choice("auto", "faster_coco_eval", "pycocotools"),
            "COCO metrics; auto uses faster-coco-eval if it is installed, otherwise pycocotools",
        ),
        "TEST.BEST_METRIC": OWN(
            "bbox/AP",
            Text(),
            "metric that selects model_best.pth, TASK/METRIC as in the tables printed after "
            "evaluation; '': none. The highest value is best, for MR (CrowdHuman) the lowest. With "
            "several test sets, the first one counts",
        ),
        "TEST.OPTIMIZE": OWN(
            "fuse",
            Choice("none", "fuse", "compile"),
            "preparation of the model for inference, in evaluation and demo alike. fuse: batch "
            "norms folded into convolutions and faster layouts, the same results. compile: "
            "torch.compile too, which takes minutes and pays on a GPU with images of few sizes "
            "(SIZE_BUCKET)",
        ),
        "TEST.DTYPE": OWN(
            "float32",
            Choice("float32", "bfloat16", "float16"),
            "of convolutions and matrix products; boxes and scores are float32 in any case. "
            "float16 needs a GPU",
        ),
        "TEST.SEM_SEG.SCALES": OWN(
            (1.0,),
            Sequence(Number(above=0, high=64), 1),
            "semantic segmentation, in evaluation and demo alike: class probabilities are averaged "
            "over these factors of the test size",
        ),
        "TEST.SEM_SEG.FLIP": OWN(False, FLAG, "and over each image and its mirror image"),
        "TEST.SEM_SEG.CROP_SIZE": OWN(
            (),
            Sequence(PIXELS, 0, 2),
            "an image larger than this (height, width) after scaling is covered by windows of that "
            "size; overlaps are averaged. (): no windows",
        ),
        "TEST.SEM_SEG.STRIDE": OWN(
            (),
            Sequence(PIXELS, 0, 2),
            "(vertical, horizontal) distance of windows; (): two thirds of CROP_SIZE",
        ),
        "TEST.SLICES.ENABLED": OWN(
            False,
            FLAG,
            "detect in overlapping slices of large images, in evaluation, demo and of exported "
            "models alike; see [recipes.md](recipes.md#large-images)",
        ),
        "TEST.SLICES.SIZE": OWN(
            (640, 640),
            Sequence(PIXELS, 2, 2),
            "height and width of a slice, in pixels of the image as it is; each is resized to "
            "INPUT.MIN_SIZE_TEST",
        ),
        "TEST.SLICES.OVERLAP": OWN(
            0.2, Number(0, below=1), "share of a slice that the next one has too, at least"
        ),
        "TEST.SLICES.WHOLE": OWN(
            True, FLAG, "look at the whole image too, for objects larger than a slice"
        ),
        "TEST.SLICES.MERGE_THRESH": OWN(
            0.5,
            SHARE,
            "detections of a class from different slices are one if their intersection is above "
            "this share of the smaller box, or of their union if neither ends near a cut",
        ),
        "TEST.SLICES.MAX_DETECTIONS": OWN(
            1000, Whole(1, 10**6), "kept per image, of all slices together"
        ),
        "TEST.SLICES.BATCH_SIZE": OWN(4, COUNT, "slices that are computed together"),
        "TEST.AUG.ENABLED": THEIRS(FLAG, "another evaluation, with test-time augmentation"),
        "TEST.AUG.MIN_SIZES": OWN(
            (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800, 800),
            Sequence(PIXELS, 1),
            "shorter sides of the image, for INPUT.MIN_SIZE_TEST 800: unless they are set, they, "
            "MAX_SIZE and SCALE_RANGES are scaled in proportion to that",
        ),
        "TEST.AUG.MAX_SIZE": THEIRS(PIXELS, "the longer side is at most this"),
        "TEST.AUG.FLIP": THEIRS(FLAG, "and mirror images"),
        "TEST.AUG.CVPODS_TTA": OWN(
            True, FLAG, "merge by soft voting, as cvpods does; False: class-wise NMS"
        ),
        "TEST.AUG.SCALE_FILTER": OWN(
            True,
            FLAG,
            "keep from each size only boxes whose sqrt(area) lies in its range below",
        ),
        "TEST.AUG.SCALE_RANGES": OWN(
            (
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
            ),
            Sequence(Sequence(LENGTH, 2, 2)),
            "one range per size, in pixels of the resized image",
        ),
        "TEST.PRECISE_BN.ENABLED": THEIRS(FLAG, "new statistics of batch norms before evaluation"),
        "TEST.PRECISE_BN.NUM_ITER": THEIRS(ITERATIONS, "batches for them"),
    },
    "The run": {
        "IMPORT": OWN(
            [],
            NAMES,
            'modules of one\'s own, such as ["mypackage.mymodule"], which are imported before all '
            "other keys are read: their classes register themselves, and `add_config(cfg)` in them "
            "adds their keys",
        ),
        "OUTPUT_DIR": THEIRS(Text(), "folder of checkpoints, logs and results"),
        "TRACKERS": OWN(
            ("tensorboard",),
            Sequence(Choice("tensorboard", "csv", "wandb", "mlflow")),
            "where a training's metrics go beside metrics.json: TensorBoard, metrics.csv, Weights "
            "& Biases (extra `wandb`), MLflow (extra `mlflow`); see "
            "[recipes.md](recipes.md#trackers)",
        ),
        "SEED": THEIRS(
            Whole(-1, 2**31 - 1), "of all random numbers; -1: a run differs from the next"
        ),
        "CUDNN_BENCHMARK": THEIRS(FLAG, "let cuDNN search for the fastest convolutions"),
        "VIS_PERIOD": THEIRS(ITERATIONS_OR_NONE, "iterations between pictures; 0: none"),
        "VERSION": THEIRS(Choice(1, 2), "of the config's keys, as detectron2 counts them"),
    },
}


def rows():
    """dict: key -> :class:`Row`, of all groups."""
    return {key: row for group in TABLE.values() for key, row in group.items()}
