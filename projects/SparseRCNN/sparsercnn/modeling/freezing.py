"""Parts of a model that training leaves as they are, by name."""

import difflib
import fnmatch
import logging
import types

from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ConfigError

__all__ = ["freeze", "keep_statistics"]


def freeze(model, patterns):
    """Exclude parameters from training, and keep batch norms among them from updating their
    statistics, in place. Names in the state dict stay.

    A frozen batch norm normalises by its running statistics in training too, as in inference.

    Args:
        model (nn.Module): the model.
        patterns (sequence[str]): names in the state dict, or of modules, whose content is meant;
            "*" stands for anything, "?" for one character: "backbone", "head.head_series.[0-2].*".

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """
    if not patterns:
        return
    # A module may be called otherwise in the state dict, and then has both names here.
    names = {id(p): {name} for name, p in model.named_parameters()}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), set()).add(name)
    known = sorted(set().union(*names.values()))
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in known):
            nearest = difflib.get_close_matches(pattern, _modules(known), n=3, cutoff=0.4)
            hint = f" The nearest names are {', '.join(nearest)}." if nearest else ""
            raise ConfigError(f"MODEL.FREEZE: '{pattern}' matches no weight of the model.{hint}")

    def is_frozen(tensor):
        return any(_matches(name, patterns) for name in names[id(tensor)])

    parameters = list(model.parameters())
    for parameter in filter(is_frozen, parameters):
        parameter.requires_grad_(False)
    if not any(p.requires_grad for p in parameters):
        raise ConfigError(f"MODEL.FREEZE {list(patterns)} leaves nothing to train.")
    norms = [x for x in model.modules() if isinstance(x, _BatchNorm) and x.track_running_stats]
    norms = [x for x in norms if is_frozen(x.running_mean)]
    keep_statistics(norms)
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    logging.getLogger(__name__).info(
        f"Frozen: {frozen / 1e6:.1f} of {sum(p.numel() for p in parameters) / 1e6:.1f} million "
        f"parameters, and the statistics of {len(norms)} batch norms."
    )


def keep_statistics(norms):
    """Keep batch norms (sequence[nn.Module]) in evaluation mode, in place: they normalise by their
    running statistics, and do not update them."""
    for norm in norms:
        norm.train = types.MethodType(_stay, norm)
        norm.eval()


def _stay(module, mode=True):
    """``train`` of a module that is always in evaluation mode."""
    return type(module).train(module, False)


def _matches(name, patterns):
    return any(
        fnmatch.fnmatchcase(name, x) or fnmatch.fnmatchcase(name, f"{x}.*") for x in patterns
    )


def _modules(names):
    """Names of weights and of all modules above them."""
    parts = [name.split(".") for name in names]
    return sorted({".".join(x[:depth]) for x in parts for depth in range(1, len(x) + 1)})
