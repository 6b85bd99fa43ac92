"""The stages that refine proposals (Sparse R-CNN, section 3.2)."""

import math

import torch
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn

from ..errors import ConfigError
from .classification import build_classification
from .interaction import build_interaction
from .layers import get_activation, xavier_matrices
from .pooler import PyramidRoIAlign

__all__ = ["IterativeHead", "Stage"]

_BOX_WEIGHTS = (2.0, 2.0, 1.0, 1.0)  # of dx, dy, dw, dh
# Upper bound of dw and dh: a box may grow from 16 to 100,000 pixels in one stage.
_SCALE_CLAMP = math.log(100000.0 / 16)


class Stage(nn.Module):
    """One refinement: self-attention of proposals, interaction with their RoI features, and new
    boxes. The head calls :meth:`reset_parameters`; before, weights have torch's initialisation.
    """

    @configurable
    def __init__(
        self,
        *,
        interaction,
        num_logits,
        hidden_dim=256,
        num_attention_heads=8,
        dim_feedforward=2048,
        dropout=0.0,
        activation="relu",
        num_cls_layers=1,
        num_reg_layers=3,
    ):
        """
        Args:
            interaction (nn.Module): see :mod:`sparsercnn.modeling.interaction`.
            num_logits (int): K, or K + 1 if the last one is "no object".
            hidden_dim (int): C.
            num_attention_heads (int): of the self-attention among proposals.
            dim_feedforward (int): hidden width of the feed-forward network.
            dropout (float): probability, in attention and after each sub-layer.
            activation (str): of the feed-forward network, relu or gelu.
            num_cls_layers (int): layers before the class logits.
            num_reg_layers (int): layers before the box deltas.
        """
        super().__init__()
        self.activation = get_activation(activation)
        self.self_attn = nn.MultiheadAttention(
            hidden_dim, num_attention_heads, dropout=dropout, batch_first=True
        )
        self.inst_interact = interaction
        self.linear1 = nn.Linear(hidden_dim, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)
        self.norm3 = nn.LayerNorm(hidden_dim)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)
        self.cls_module = _tower(num_cls_layers, hidden_dim)
        self.reg_module = _tower(num_reg_layers, hidden_dim)
        self.class_logits = nn.Linear(hidden_dim, num_logits)
        self.bboxes_delta = nn.Linear(hidden_dim, 4)
        self.box_transform = Box2BoxTransform(weights=_BOX_WEIGHTS, scale_clamp=_SCALE_CLAMP)

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        return {
            "interaction": build_interaction(cfg),
            "num_logits": build_classification(cfg).num_logits(sparse.NUM_CLASSES),
            "hidden_dim": sparse.HIDDEN_DIM,
            "num_attention_heads": sparse.NHEADS,
            "dim_feedforward": sparse.DIM_FEEDFORWARD,
            "dropout": sparse.DROPOUT,
            "activation": sparse.ACTIVATION,
            "num_cls_layers": sparse.NUM_CLS,
            "num_reg_layers": sparse.NUM_REG,
        }

    def reset_parameters(self):
        """Initialise the stage's own matrices Xavier-uniform, and the interaction by its method of
        this name, if it has one."""
        # In the order of registration, so that a seed always gives the same weights.
        for module in self.children():
            if module is not self.inst_interact:
                xavier_matrices(module)
            elif hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(self, roi_features, boxes, proposal_features):
        """
        Args:
            roi_features: (B * N, C, r, r).
            boxes: (B, N, 4), absolute xyxy, from which the RoI features were pooled.
            proposal_features: (B, N, C).

        Returns:
            tuple: class logits (B, N, K) and refined boxes (B, N, 4), both in float32; proposal
            features (B, N, C) for the next stage; and those that the interaction got, after the
            self-attention and its LayerNorm, (B, N, C).
        """
        B, N, C = proposal_features.shape
        x = proposal_features
        attended = self.self_attn(x, x, x, need_weights=False)[0]
        queries = x = self.norm1(x + self.dropout1(attended))
        update = self.inst_interact(x.flatten(0, 1), roi_features).view(B, N, C)
        x = self.norm2(x + self.dropout2(update))
        update = self.linear2(self.dropout(self.activation(self.linear1(x))))
        x = self.norm3(x + self.dropout3(update))

        return *self._predict(x, boxes), x, queries

    def _predict(self, x, boxes):
        # In float32 whatever the features are: float16 above 1,024 rounds to whole pixels, and
        # bfloat16 in these small layers costs more AP than in all others together.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            class_logits = self.class_logits(self.cls_module(x))
            deltas = self.bboxes_delta(self.reg_module(x))
            refined = self.box_transform.apply_deltas(
                deltas.flatten(0, 1), boxes.float().flatten(0, 1)
            )
        return class_logits, refined.view_as(boxes)

    @property
    def predictors(self):
        """list[nn.Module]: the layers that predict classes and boxes, always in float32."""
        return [self.cls_module, self.class_logits, self.reg_module, self.bboxes_delta]


class IterativeHead(nn.Module):
    """A sequence of stages, each of which refines the boxes and features of the previous one."""

    @configurable
    def __init__(self, *, stages, pooler, prior_prob=None):
        """
        Args:
            stages (list[Stage]): T stages, each with its own weights.
            pooler (nn.Module): ``pooler(pooler.prepare(features), boxes)``, (B * N, C, r, r); see
                :class:`~sparsercnn.modeling.PyramidRoIAlign`.
            prior_prob (float): initial score of every class; None: torch's initialisation.
        """
        super().__init__()
        self.box_pooler = pooler
        self.head_series = nn.ModuleList(stages)
        for stage in self.head_series:
            stage.reset_parameters()
        if prior_prob is not None:
            for stage in self.head_series:
                nn.init.constant_(stage.class_logits.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg, input_shape):
        sparse = cfg.MODEL.SparseRCNN
        for name in cfg.MODEL.ROI_HEADS.IN_FEATURES:
            if name not in input_shape:
                raise ConfigError(
                    f"MODEL.ROI_HEADS.IN_FEATURES has {name}, and the maps of "
                    f"{cfg.MODEL.BACKBONE.NAME} are {', '.join(input_shape)}."
                )
            if input_shape[name].channels != sparse.HIDDEN_DIM:
                raise ConfigError(
                    f"Feature map {name} has {input_shape[name].channels} channels, but "
                    f"MODEL.SparseRCNN.HIDDEN_DIM is {sparse.HIDDEN_DIM}; they must agree "
                    "(MODEL.FPN.OUT_CHANNELS sets the maps')."
                )
        return {
            "stages": [Stage(cfg) for _ in range(sparse.NUM_HEADS)],
            "pooler": PyramidRoIAlign(cfg, input_shape),
            "prior_prob": build_classification(cfg).prior_prob,
        }

    def forward(self, features, boxes, proposal_features):
        """
        Args:
            features (list[Tensor]): the pyramid's maps, finest first, each (B, C, H_l, W_l); or
                what the pooler's `prepare` makes of them.
            boxes: (B, N, 4), absolute xyxy.
            proposal_features: (B, N, C).

        Returns:
            tuple: class logits (T, B, N, K) and boxes (T, B, N, 4) of all stages, and the proposal
            features (T, B, N, C) that their interactions got.
        """
        of_stages = []
        pyramid = self.box_pooler.prepare(features)
        for stage in self.head_series:
            roi_features = self.box_pooler(pyramid, boxes)
            class_logits, boxes, proposal_features, queries = stage(
                roi_features, boxes, proposal_features
            )
            of_stages.append((class_logits, boxes, queries))
            boxes = boxes.detach()
        return tuple(torch.stack(results) for results in zip(*of_stages, strict=True))


def _tower(num_layers, hidden_dim):
    layers = []
    for _ in range(num_layers):
        layers += [nn.Linear(hidden_dim, hidden_dim, bias=False), nn.LayerNorm(hidden_dim)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
