"""Preparation of a trained model for inference: fewer operations with the same results."""

import copy

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import fuse_conv_bn_weights

from ..errors import ConfigError
from ..modeling.head import Stage
from ..modeling.segmentation import with_sem_seg_inference
from ..modeling.slices import with_slices
from .timm_resnet import fold_timm_norms, plain_blocks, plain_stems

__all__ = ["check_optimization", "fold_norms", "optimize", "prepare_for_inference"]

_MODES = ("none", "fuse", "compile")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_for_inference(cfg, model):
    """:func:`optimize` according to TEST.OPTIMIZE and TEST.DTYPE; augmentation of segmentation
    models according to TEST.SEM_SEG, and detection in slices according to TEST.SLICES.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): of any meta-architecture, or an exported one, which is optimised already;
            not modified.

    Returns:
        nn.Module: with the interface of `model`, for inference only.
    """
    if not getattr(model, "is_exported", False):
        model = optimize(model, cfg.TEST.OPTIMIZE, cfg.TEST.DTYPE)
    return with_slices(cfg, with_sem_seg_inference(cfg, model))


def check_optimization(mode, dtype, device):
    """Raise the ConfigError that :func:`optimize` raises for such a model on `device`."""
    if mode not in _MODES:
        raise ConfigError(f"TEST.OPTIMIZE is '{mode}'; it must be one of {', '.join(_MODES)}.")
    if dtype not in _DTYPES:
        raise ConfigError(f"TEST.DTYPE is '{dtype}'; it must be one of {', '.join(_DTYPES)}.")
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise ConfigError("TEST.DTYPE float16 needs a GPU; on the CPU, set it to bfloat16.")


def optimize(model, mode="fuse", dtype="float32"):
    """Make a copy of a model that does the same with less work.

    * "fuse" folds batch norms, frozen or trained, into their convolutions. On the CPU,
      convolutions, their ReLUs and the sums of residual blocks become single calls of oneDNN, on
      weights that were brought into its layout beforehand. Maps are stored with channels last on
      the CPU, and in half precision on a GPU.
    * "compile" also compiles the backbone and the stages by :func:`torch.compile`, on a GPU with
      CUDA graphs. Each new size of images is compiled anew.

    With a half `dtype`, convolutions and matrix products are computed in it, from weights converted
    once. Boxes, the coordinates of pooling, and Sparse R-CNN's scores stay float32.

    Args:
        model (nn.Module): any meta-architecture of this project, or a wrapper of it.
        mode (str): "none", "fuse" or "compile".
        dtype (str): "float32", "bfloat16" or, on a GPU, "float16".

    Returns:
        nn.Module: in evaluation mode, without gradients; `model` itself with "none" and float32.

    Raises:
        ConfigError: unknown `mode` or `dtype`, or float16 on the CPU.
    """
    device = next(model.parameters()).device
    check_optimization(mode, dtype, device)
    if mode == "none" and dtype == "float32":
        return model
    dtype = _DTYPES[dtype]
    model = model.module if isinstance(model, DistributedDataParallel) else model
    # The given one may be in training, and go on.
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if mode != "none":
        fold_norms(model)
        if device.type == "cpu" or dtype != torch.float32:
            model.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        _convert_weights(model, dtype)
        model.forward = torch.autocast(device.type, dtype)(model.forward)
    if mode == "fuse" and device.type == "cpu" and _has_onednn(dtype):
        _fuse_convolutions(model)
    if mode == "compile":
        _compile(model, device)
    return model


def fold_norms(model):
    fold_timm_norms(model, _fold)
    for conv in model.modules():
        norm = getattr(conv, "norm", None)
        if not isinstance(conv, Conv2d) or not isinstance(norm, (FrozenBatchNorm2d, _BatchNorm)):
            continue
        if norm.running_mean is not None:
            _fold(conv, norm)
            conv.norm = None


def _fold(conv, norm):
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def _convert_weights(model, dtype):
    # Autocast would convert them in every forward pass.
    stages = [x for x in model.modules() if isinstance(x, Stage)]
    kept = {x for stage in stages for layer in stage.predictors for x in layer.modules()}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module not in kept:
            module.to(dtype)


def _compile(model, device):
    options = {"mode": "reduce-overhead"} if device.type == "cuda" else {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("backbone", "head", "sem_seg_head"):
            module.compile(**options)


def _has_onednn(dtype):
    onednn = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or onednn._is_mkldnn_bf16_supported()
    )


def _fuse_convolutions(model):
    """Replace the forward methods of convolutions, residual blocks and stems."""
    for module in model.modules():
        if type(module).forward is Conv2d.forward and _is_plain(module):
            module.forward = _FusedConv(module)
    for module in model.modules():
        forward = type(module).forward
        if forward in (BottleneckBlock.forward, BasicBlock.forward):
            convs = [getattr(module, name, None) for name in ("conv1", "conv2", "conv3")]
            convs = [conv.forward for conv in convs if conv is not None]
            if all(isinstance(conv, _FusedConv) and not conv.relu for conv in convs):
                module.forward = _FusedBlock(convs, module.shortcut)
        elif forward is BasicStem.forward and isinstance(module.conv1.forward, _FusedConv):
            module.forward = _FusedStem(module.conv1.forward)
    for network in plain_stems(model):
        network.conv1.forward = _FusedConv(network.conv1)
        network.conv1.forward.relu = True
        network.act1 = nn.Identity()
    for block, convs in plain_blocks(model):
        shortcut = block.downsample
        for conv in () if shortcut is None else shortcut.children():
            if type(conv) is nn.Conv2d:
                conv.forward = _FusedConv(conv)
        block.forward = _FusedBlock([_FusedConv(conv) for conv in convs], shortcut)


def _is_plain(conv):
    return (
        conv.norm is None
        and (conv.activation is None or _is_relu(conv.activation))
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def _is_relu(activation):
    return activation in (F.relu, F.relu_, torch.relu) or isinstance(activation, nn.ReLU)


class _FusedConv:
    """Convolution, optional sum and optional ReLU in one call of oneDNN."""

    def __init__(self, conv):
        self.plain = type(conv).forward.__get__(conv)
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.original = conv.weight
        self.weight = None
        self.bias = conv.bias
        self.dtype = conv.weight.dtype
        self.relu = getattr(conv, "activation", None) is not None

    def __call__(self, x, added=None, relu=False):
        """ReLU(conv(x) + added); `relu` in addition to the convolution's own activation."""
        if x.numel() == 0:
            return self.plain(x)
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if self.weight is None:  # which layout is best depends on the size of the maps
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.original, *self.geometry, x.shape
            )
        relu = "relu" if relu or self.relu else None
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *self.geometry, relu or "none", [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, added, self.weight, self.bias, *self.geometry, "add", 1.0, relu, [], ""
        )


class _FusedBlock:
    """Forward pass of a residual block: ReLU after each convolution, the last with the sum."""

    def __init__(self, convs, shortcut):
        self.convs = convs
        self.shortcut = shortcut

    def __call__(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for conv in self.convs[:-1]:
            x = conv(x, relu=True)
        return self.convs[-1](x, added=shortcut, relu=True)


class _FusedStem:
    """Forward pass of a ResNet's stem."""

    def __init__(self, conv):
        self.conv = conv

    def __call__(self, x):
        return F.max_pool2d(self.conv(x, relu=True), kernel_size=3, stride=2, padding=1)
