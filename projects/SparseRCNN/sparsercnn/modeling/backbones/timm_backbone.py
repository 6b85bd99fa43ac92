"""Models of timm as backbones (github.com/huggingface/pytorch-image-models).

timm is imported when such a backbone is built: nothing else needs it.
"""

import difflib

import torch
from detectron2.config import configurable
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import ConfigError, abbreviate
from ...extras import require_extra
from ..freezing import keep_statistics
from ..norm import choose_norm

__all__ = ["TimmBackbone", "build_timm_backbone"]

_STAGES = {f"res{i}": i for i in range(1, 6)}
_LAST_STAGE = 5

# What a model does not take, by the name of timm's argument.
_REFUSED = {
    "drop_path_rate": "has no drop path: set MODEL.TIMM.DROP_PATH to 0",
    "output_stride": "has no dilated stages: set MODEL.TIMM.OUTPUT_STRIDE to 32, or choose a "
    "ResNet or a ConvNeXt",
    "strict_img_size": "takes images of one size alone; for a plain ViT, set MODEL.BACKBONE.NAME "
    "to build_vit_backbone, else choose another model",
    "features_only": "gives no feature maps, and cannot be a backbone",
}


class TimmBackbone(Backbone):
    """The stages of any model of timm that has ``features_only``, for images of any size.

    Maps are named as those of ResNets, from the end: the last stage is "res5", and the one at the
    stride of the stem, which some models have, "res1".
    """

    @configurable
    def __init__(
        self,
        *,
        name,
        out_features=("res2", "res3", "res4", "res5"),
        in_channels=3,
        drop_path=0.0,
        output_stride=32,
        norm="",
        freeze_at=0,
    ):
        """
        Args:
            name (str): of the model in timm, with or without the tag of weights, such as
                "convnext_tiny" or "resnet50.a1_in1k". Weights are random.
            out_features (sequence[str]): maps to give, finest first; later stages are left out.
            in_channels (int): of the image.
            drop_path (float): probability of dropping a residual for an image in the last block, in
                training.
            output_stride (int): of the last stage; below 32, the last stages are dilated.
            norm (str): what becomes of batch norms. "": they stay; "FrozenBN", "SyncBN"; or "auto",
                see :func:`~sparsercnn.modeling.norm.choose_norm`. Other norms stay in any case.
            freeze_at (int): stages that are not trained, the stem being the first, as timm groups
                parameters; batch norms in them keep their statistics.

        Raises:
            ConfigError: timm has no such model, or it cannot do what is asked for.
            MissingExtraError: timm is not installed.
        """
        super().__init__()
        options = {"in_chans": in_channels}
        if drop_path > 0:
            options["drop_path_rate"] = drop_path
        if output_stride != 32:
            options["output_stride"] = output_stride
        self.model_name, self.options = name, _with_free_size(name, options)
        with torch.device("meta"):
            whole = self.whole_model()
        indices = _indices(name, whole, out_features)
        self.net = _create(name, features_only=True, out_indices=indices, **self.options)
        info = self.net.feature_info
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        # Read by Backbone.output_shape.
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(out_features, info.reduction(), strict=True))
        #: Name of each weight in `net` -> its name in timm's whole model; None: it is not there.
        self.original_names = _original_names(self.net, whole)
        self._layers = {coarse: self._group(whole, coarse) for coarse in (True, False)}
        self._undecayed = set(getattr(whole, "no_weight_decay", set)())
        self.net = _with_norm(self.net, norm)
        self._freeze(freeze_at)  # the norms that will be trained with

    @classmethod
    def from_config(cls, cfg, input_shape):
        timm = cfg.MODEL.TIMM
        return {
            "name": timm.NAME,
            "out_features": timm.OUT_FEATURES,
            "in_channels": input_shape.channels,
            "drop_path": timm.DROP_PATH,
            "output_stride": timm.OUTPUT_STRIDE,
            "norm": choose_norm(timm.NORM, cfg.MODEL.DEVICE),
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self):
        # Patches at the edge of images of other sizes would be cut off.
        return max(self._out_feature_strides.values())

    def forward(self, x):
        """
        Args:
            x: (B, 3, H, W), of sides that `size_divisibility` divides.

        Returns:
            dict[str, Tensor]: by the names in `out_features`, each (B, C, H / stride, W / stride).
        """
        maps = self.net(x)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return dict(zip(self._out_features, maps, strict=True))

    def whole_model(self, **options):
        """The model of timm with all stages and without classifier, by :func:`timm.create_model`
        with further `options`, on the current default device."""
        return _create(self.model_name, num_classes=0, **self.options, **options)

    def layers(self):
        """Layers for the decay of the learning rate, as timm groups parameters: mostly blocks.

        Returns:
            dict[str, int]: by the name of each parameter, from 0 for the stem.

        Raises:
            ConfigError: timm has no groups for this model.
        """
        return self._grouped(False, "SOLVER.LAYER_DECAY")

    def undecayed(self):
        """Names (set[str]) of the parameters that weight decay must not pull towards 0, such as
        positions."""
        names = {name: self.original_names.get(name) for name, _ in self.net.named_parameters()}
        return {f"net.{name}" for name, original in names.items() if original in self._undecayed}

    def blocks(self):
        """The outermost modules (list[nn.Module]) with parts of their own that follow each other in
        a sequence: residual blocks, mostly.

        Raises:
            ConfigError: there are none.
        """
        found = []

        def visit(module):
            in_sequence = isinstance(module, nn.Sequential | nn.ModuleList)
            for child in module.children():
                is_sequence = isinstance(child, nn.Sequential | nn.ModuleList)
                if in_sequence and not is_sequence and any(True for _ in child.children()):
                    found.append(child)
                else:
                    visit(child)

        visit(self.net)
        if not found:
            raise ConfigError(
                "MODEL.ACTIVATION_CHECKPOINT.BACKBONE needs the residual blocks of timm's "
                f"{self.model_name}, and it is not known which of its modules they are. Set it to "
                "False, or choose another model."
            )
        return found

    def _group(self, whole, coarse):
        """Number of each parameter's group; None if timm has no groups."""
        from timm.models import group_parameters

        if not hasattr(whole, "group_matcher"):
            return None
        numbers = group_parameters(whole, whole.group_matcher(coarse=coarse), reverse=True)
        return {
            f"net.{name}": numbers.get(self.original_names[name])
            for name, _ in self.net.named_parameters()
        }

    def _grouped(self, coarse, key):
        numbers = self._layers[coarse]
        if numbers is None or None in numbers.values():
            raise ConfigError(
                f"{key} needs the layers of {self.model_name}, and timm does not say which they "
                "are. Leave it at its default; MODEL.FREEZE freezes weights by name."
            )
        return numbers

    def _freeze(self, freeze_at):
        if freeze_at == 0:
            return
        numbers = self._grouped(True, "MODEL.BACKBONE.FREEZE_AT")
        frozen = set()
        for name, parameter in self.named_parameters():
            if numbers[name] < freeze_at:
                parameter.requires_grad_(False)
                frozen.add(parameter)
        norms = [x for x in self.modules() if isinstance(x, _BatchNorm) and x.weight in frozen]
        keep_statistics(norms)


def _create(name, **options):
    """:func:`timm.create_model`, whose errors name the key to change."""
    import timm

    try:
        return timm.create_model(name, **options)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        for argument, reason in _REFUSED.items():
            if argument in str(error):
                raise ConfigError(f"MODEL.TIMM.NAME: timm's {name} {reason}.") from error
        raise ConfigError(f"MODEL.TIMM.NAME: timm cannot build {name}: {error}") from error


def _with_free_size(name, options):
    """The options, with that by which models of one size take others; timm must have the model."""
    require_extra("backbones", "timm")
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" The nearest names are {', '.join(near)}." if near else ""
        raise ConfigError(f"MODEL.TIMM.NAME is '{name}', which timm does not have.{hint}")
    try:
        known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:  # the tag
        names = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ConfigError(
            f"MODEL.TIMM.NAME is '{name}', of which timm has "
            f"{abbreviate(names, 8) or 'no weights'}."
        ) from error
    if known is not None and known.fixed_input_size:
        return {**options, "strict_img_size": False}
    return options


def _indices(name, whole, out_features):
    """Numbers of timm's feature maps for the names of maps."""
    info = getattr(whole, "feature_info", None) or ()
    strides = [stage["reduction"] for stage in info]
    if len(strides) > 1 and strides[-1] == strides[0]:
        raise ConfigError(
            f"MODEL.TIMM.NAME is '{name}', all of whose maps have a stride of {strides[0]}: for a "
            "plain ViT, set MODEL.BACKBONE.NAME to build_vit_backbone."
        )
    first = _LAST_STAGE - len(strides) + 1
    known = [stage for stage, number in _STAGES.items() if number >= first]
    wrong = [x for x in out_features if x not in known]
    if wrong or not out_features:
        raise ConfigError(
            f"MODEL.TIMM.OUT_FEATURES is {list(out_features)}; {name} has {', '.join(known)}."
        )
    if list(out_features) != sorted(set(out_features)):
        raise ConfigError(
            f"MODEL.TIMM.OUT_FEATURES is {list(out_features)}; it must begin with the finest."
        )
    return tuple(_STAGES[x] - first for x in out_features)


def _original_names(net, whole):
    """Names in `whole` of the weights of `net`, in which timm joins the first two parts of some
    names ("stages_0") or puts a prefix before all ("model.")."""
    known = set(whole.state_dict())
    heads = {
        f"{name}_{inner}": f"{name}.{inner}"
        for name, child in whole.named_children()
        for inner, _ in child.named_children()
    }
    names = {}
    for name in net.state_dict():
        head, _, rest = name.partition(".")
        candidates = (name, rest, f"{heads.get(head, head)}.{rest}")
        names[name] = next((x for x in candidates if x in known), None)
    return names


def _with_norm(net, norm):
    """The network with its batch norms replaced."""
    if norm in ("", "BN"):
        return net
    if norm == "SyncBN":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(net)
    if norm != "FrozenBN":
        raise ConfigError(f"MODEL.TIMM.NORM is '{norm}'; it must be '', FrozenBN, SyncBN or auto.")
    from timm.utils.model import freeze_batch_norm_2d

    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (nn.BatchNorm2d, nn.SyncBatchNorm):
                # Detectron2's takes less time than timm's where no gradient is needed.
                setattr(parent, name, FrozenBatchNorm2d.convert_frozen_batchnorm(child))
            elif isinstance(child, _BatchNorm):  # with an activation
                setattr(parent, name, freeze_batch_norm_2d(child))
    return net


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape):
    """A model of timm without a neck, such as for DANet, for MODEL.BACKBONE.NAME.

    Args:
        cfg (CfgNode): the whole config; MODEL.TIMM and MODEL.BACKBONE.FREEZE_AT are read.
        input_shape (ShapeSpec): shape of the image.

    Returns:
        TimmBackbone: with the outputs in MODEL.TIMM.OUT_FEATURES.
    """
    return TimmBackbone(cfg, input_shape)
