"""The devices that a config or a command line may ask for on this machine."""

import os

import torch

from ..config_values import Device, as_text
from ..errors import ConfigError

__all__ = ["check_device", "check_devices", "check_gpus_here", "visible_gpus"]


def check_devices(cfg, num_gpus=1):
    """Raise ConfigError if the config or the command line asks for GPUs that are not available.

    Args:
        cfg (CfgNode): the whole config; MODEL.DEVICE is read.
        num_gpus (int): processes on this machine, each with its own GPU.
    """
    check_device(cfg.MODEL.DEVICE, "MODEL.DEVICE")
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        if num_gpus > 1:
            raise ConfigError(
                f"--num-gpus {num_gpus} needs MODEL.DEVICE cuda, but MODEL.DEVICE is "
                f"{cfg.MODEL.DEVICE}. On the CPU: --num-gpus 0, or --num-processes {num_gpus}."
            )
        return
    check_gpus_here(num_gpus)


def check_device(name, source):
    """Raise ConfigError unless torch can use a device.

    Args:
        name (str): of the device, such as "cuda:0".
        source (str): where the user has set it, for the message.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{source} is {as_text(name)}; it must be {Device.names}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{source} is {name}, but PyTorch finds no usable GPU. To run on the CPU, set {source} "
            "cpu (for training also: --num-gpus 0)."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"{source} is {name}; the GPUs here are cuda:0 to cuda:{count - 1}.")
    if device.type not in ("cpu", "cuda") and not _is_available(device.type):
        raise ConfigError(f"{source} is {name}, which is not on this machine; set it to cpu.")


def check_gpus_here(num_gpus, is_alone=True):
    """Raise ConfigError if this machine has fewer GPUs than the processes on it need.

    Args:
        num_gpus (int): processes on this machine.
        is_alone (bool): there are no other machines. One process, which is what is started without
            any option, then needs no GPU.
    """
    if num_gpus < 0:
        raise ConfigError(f"--num-gpus is {num_gpus}; it must be 0 or more.")
    count = torch.cuda.device_count()
    if num_gpus > max(count, int(is_alone)):
        raise ConfigError(
            f"--num-gpus {num_gpus} is too many: there are {count} GPUs"
            f"{'; for the CPU, use --num-gpus 0 and MODEL.DEVICE cpu' if count == 0 else ''}."
        )


def _is_available(device_type):
    """Whether torch can use a type of device, such as "mps"."""
    module = getattr(torch, device_type, None) or getattr(torch.backends, device_type, None)
    return bool(module and getattr(module, "is_available", bool)())


def visible_gpus():
    """The GPUs of this machine that may be used (list[str]), as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = torch.cuda.device_count()
    return visible.split(",")[:found] if visible else [str(i) for i in range(found)]
