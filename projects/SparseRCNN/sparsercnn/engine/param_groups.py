"""Groups of parameters with their learning rates and weight decay."""

from detectron2.solver.build import get_default_optimizer_params
from tabulate import tabulate

from ..errors import abbreviate
from ..modeling.backbones.layers import bottom_up_of, layers_of, undecayed_of

__all__ = ["build_param_groups", "describe_layer_decay"]


def build_param_groups(cfg, model, new=()):
    """Group the trainable parameters by learning rate and weight decay.

    The order depends only on the model and the config; a resumed run relies on it to assign the
    optimizer's moments to parameters.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): the model.
        new (sequence[str]): names in its state dict of weights that MODEL.WEIGHTS did not have.

    Returns:
        list[dict]: groups with `params`, `lr` and `weight_decay`. Parameters of ``model.backbone``
        have lr BASE_LR x BACKBONE_MULTIPLIER, those below its neck BOTTOM_UP_MULTIPLIER times as
        much, and those in `new` NEW_LAYERS_MULTIPLIER times as much; with NO_DECAY_NORM_BIAS, norms
        and biases have no decay, nor have the scales of residual blocks. Positions and tokens of a
        backbone have none in any case. With LAYER_DECAY d, the rate of the backbone's layer i of L
        is d^(L + 1 - i) times as much, that of the neck is not.

    Raises:
        ConfigError: LAYER_DECAY is not 1, and the backbone's layers are not known.
    """
    solver = cfg.SOLVER
    spared = {}
    if solver.NO_DECAY_NORM_BIAS:
        # Not every bias is named "bias": attention has an in_proj_bias.
        leaves = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
        biases = sorted(leaf for leaf in leaves if leaf.endswith("bias"))
        spared = {
            "weight_decay_norm": 0.0,
            "overrides": {bias: {"weight_decay": 0.0} for bias in biases},
        }
    groups = get_default_optimizer_params(
        model, base_lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **spared
    )
    backbone = getattr(model, "backbone", None)
    if backbone is not None:
        for part, multiplier in (
            (backbone, solver.BACKBONE_MULTIPLIER),
            (bottom_up_of(backbone), solver.BOTTOM_UP_MULTIPLIER),
        ):
            groups = _with_rate_of(set(part.parameters()), multiplier, groups)
        groups = _split(
            undecayed_of(backbone, scales=solver.NO_DECAY_NORM_BIAS), groups, weight_decay=0.0
        )
        groups = _with_layer_decay(solver.LAYER_DECAY, backbone, groups)
    state = model.state_dict(keep_vars=True)
    added = {state[name] for name in new}
    return _with_rate_of(added, solver.NEW_LAYERS_MULTIPLIER, groups)


def _with_rate_of(parameters, multiplier, groups):
    """The groups, split so that the learning rate of some parameters is multiplied."""
    if multiplier == 1.0:
        return groups
    return _split(parameters, groups, lr=lambda rate: rate * multiplier)


def _split(parameters, groups, **changes):
    """The groups, split so that some parameters have other values; a function changes the old
    one."""
    split = []
    for group in groups:
        inside = [p for p in group["params"] if p in parameters]
        outside = [p for p in group["params"] if p not in parameters]
        changed = {k: x(group[k]) if callable(x) else x for k, x in changes.items()}
        split += [{**group, "params": outside}] if outside else []
        split += [{**group, **changed, "params": inside}] if inside else []
    return split


def _with_layer_decay(decay, backbone, groups):
    """The groups, split by the layers of the backbone, with falling rates from last to first."""
    if decay == 1.0:
        return groups
    layers = layers_of(backbone)
    last = max(layers.values())
    for layer in range(last + 1):
        of_layer = {p for p, number in layers.items() if number == layer}
        groups = _with_rate_of(of_layer, decay ** (last + 1 - layer), groups)
    return groups


def describe_layer_decay(cfg, model, new=()):
    """The rates that SOLVER.LAYER_DECAY gives, for the log.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): the model.
        new (sequence[str]): see :func:`build_param_groups`.

    Returns:
        str: a table of layers: their modules, number of parameters, learning rate as a factor on
        BASE_LR, and after the warm-up; the lowest and the highest where there are several.

    Raises:
        ConfigError: see :func:`build_param_groups`.
    """
    layers, base_rate = layers_of(model.backbone), cfg.SOLVER.BASE_LR
    groups = build_param_groups(cfg, model, new)
    rate_of = {p: group["lr"] for group in groups for p in group["params"]}
    in_backbone = set(model.backbone.parameters())
    rows = {layer: [] for layer in range(max(layers.values()) + 1)}
    for name, parameter in model.named_parameters():
        part = layers.get(parameter, "neck" if parameter in in_backbone else "head")
        rows.setdefault(part, []).append((name, parameter))
    lines = []
    for part, found in rows.items():
        names = [_module_of(name) for name, _ in found] if part in layers.values() else []
        rates = [rate_of[p] for _, p in found if p in rate_of]
        lines.append(
            [
                part,
                abbreviate(list(dict.fromkeys(names)), 2),
                f"{sum(p.numel() for _, p in found):,}",
                _range(rate / base_rate for rate in rates) if rates else "frozen",
                _range(rates) if rates else "0",
            ]
        )
    headers = ["layer", "modules", "parameters", "factor", "rate"]
    align = ("left", "left", "right", "right", "right")
    return tabulate(lines, headers, colalign=align, disable_numparse=True)


def _range(values):
    """One number, or the lowest and the highest of several."""
    values = sorted(values)
    return " to ".join(dict.fromkeys(f"{x:.4g}" for x in (values[0], values[-1])))


def _module_of(name):
    """The name of a weight of the backbone's up to the number of its block."""
    parts = name.removeprefix("backbone.").removeprefix("bottom_up.").split(".")
    numbers = [i for i, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts[:2])
