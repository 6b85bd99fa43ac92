import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, get_norm
from torch import nn

from ..interaction.dynamic_conv import DynamicMixing
from ..layers import xavier_matrices
from ..norm import choose_norm
from .build import MASK_HEAD_REGISTRY

__all__ = ["DynamicMaskHead"]


@MASK_HEAD_REGISTRY.register("dynamic")
class DynamicMaskHead(nn.Module):
    """The dynamic mask head of QueryInst (Instances as Queries, ICCV 2021, section 3.2).

    Each proposal feature generates two matrices that act on its RoI feature. Convolutions and an
    upsampling by 2 follow, as in Mask R-CNN. With the defaults and K = 80, a head has 11,066,320
    parameters.
    """

    @configurable
    def __init__(
        self, *, hidden_dim, num_classes, dim_dynamic=64, num_conv=4, conv_dim=256, norm="BN"
    ):
        """
        Args:
            hidden_dim (int): C.
            num_classes (int): K.
            dim_dynamic (int): channels between the two matrices.
            num_conv (int): 3x3 convolutions.
            conv_dim (int): their channels.
            norm (str): their norm, see :func:`detectron2.layers.get_norm`; "": none. The published
                models have "BN", with the statistics of the RoIs that are trained.
        """
        super().__init__()
        self.interaction = DynamicMixing(hidden_dim, dim_dynamic)
        channels = hidden_dim
        for i in range(num_conv):
            conv = Conv2d(
                channels,
                conv_dim,
                kernel_size=3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, conv_dim),
                activation=nn.ReLU(),
            )
            self.add_module(f"mask_fcn{i + 1}", conv)
            channels = conv_dim
        self.num_conv = num_conv
        self.deconv = ConvTranspose2d(channels, conv_dim, kernel_size=2, stride=2)
        self.predictor = Conv2d(conv_dim, num_classes, kernel_size=1)
        xavier_matrices(self)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg):
        sparse = cfg.MODEL.SparseRCNN
        return {
            "hidden_dim": sparse.HIDDEN_DIM,
            "num_classes": sparse.NUM_CLASSES,
            "dim_dynamic": sparse.MASK.DIM_DYNAMIC,
            "num_conv": sparse.MASK.NUM_CONV,
            "conv_dim": sparse.MASK.CONV_DIM,
            "norm": choose_norm(sparse.MASK.NORM, cfg.MODEL.DEVICE),
        }

    def forward(self, queries, roi_features, classes):
        """
        Args:
            queries: (R, C).
            roi_features: (R, C, r, r).
            classes: (R,), int64, in [0, K).

        Returns:
            Tensor: (R, 2 r, 2 r), logits.
        """
        r = roi_features.shape[-1]
        x = self.interaction(queries, roi_features).mT.unflatten(2, (r, r))
        for i in range(self.num_conv):
            x = getattr(self, f"mask_fcn{i + 1}")(x)
        x = F.relu(self.deconv(x))
        # Of the predictor's K maps, one is wanted. All of them would take a quarter of the memory.
        weight, bias = self.predictor.weight[classes], self.predictor.bias[classes]
        logits = torch.bmm(weight.flatten(2).mT, x.flatten(2)).unflatten(2, (2 * r, 2 * r))
        return logits.squeeze(1) + bias[:, None, None]
