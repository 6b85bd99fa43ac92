"""Exported files as models: the interface of detectron2's, the code of a runtime."""

import functools
import warnings
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import detector_postprocess
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from ..errors import ConfigError, ExportError
from ..extras import require_extra
from .metadata import ExportMetadata

__all__ = ["ExportedModel", "load_exported", "load_exported_for"]


def load_exported(path, device="cpu", dtype="float32"):
    """Open a file that ``tools/export.py`` wrote.

    Args:
        path (str): a ``.onnx``, ``.xml`` or ``.pt2`` file.
        device (str): "cpu" or a GPU, "cuda" or "cuda:INDEX"; OpenVINO has the CPU only.
        dtype (str): type of the computation. "bfloat16" is OpenVINO's alone.

    Returns:
        ExportedModel: in evaluation mode.

    Raises:
        ExportError: the file is missing, is not an exported model, or the runtime lacks the device.
        ImportError: the runtime is not installed; the message names the extra.
    """
    path, device = Path(str(path)), torch.device(device)
    if path.suffix not in _OPENERS:
        raise ExportError(f"{path} must end in {', '.join(_OPENERS)} to be an exported model.")
    if not path.is_file():
        raise ExportError(f"The exported model {path} does not exist. Check the path.")
    name, packages, open_file = _OPENERS[path.suffix]
    if dtype != "float32" and (dtype != "bfloat16" or path.suffix != ".xml"):
        raise ConfigError(
            f"{path} is computed in float32 by {name}, not in {dtype}: set TEST.DTYPE float32. "
            "OpenVINO (.xml) also has bfloat16."
        )
    require_extra("export", *packages)
    try:
        session, strings = open_file(path, device, dtype)
    except ExportError:
        raise
    except Exception as error:  # each runtime has its own kinds
        first_line = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{path} cannot be opened by {name}: {first_line} Export the model again, or check "
            f"that the installed {name} is not older than the one it was exported with."
        ) from error
    return ExportedModel(session, ExportMetadata.from_strings(strings, path), device).eval()


def load_exported_for(cfg):
    """:func:`load_exported` for MODEL.WEIGHTS, MODEL.DEVICE and TEST.DTYPE of a config.

    Raises:
        ExportError: also if the file is of a model with other classes or another input.
    """
    path = cfg.MODEL.WEIGHTS
    model = load_exported(path, cfg.MODEL.DEVICE, cfg.TEST.DTYPE)
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError(
            f"TEST.AUG needs a model in PyTorch, but {path} is exported: set TEST.AUG.ENABLED "
            "False, or MODEL.WEIGHTS to a checkpoint."
        )
    if cfg.TEST.SIZE_BUCKET:
        raise ConfigError(
            f"TEST.SIZE_BUCKET {cfg.TEST.SIZE_BUCKET} has no effect on {path}, which is exported: "
            "set it to 0."
        )
    metadata = model.metadata
    from ..data.classes import num_classes

    for key, ours, theirs in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, metadata.system),
        ("the number of classes", num_classes(cfg), metadata.num_classes),
        ("INPUT.FORMAT", cfg.INPUT.FORMAT, metadata.input_format),
    ):
        if ours != theirs:
            raise ExportError(
                f"{path} was exported with {key} {theirs}, but the config has {ours}. Check that "
                "--config-file is the config of the exported model."
            )
    _check_built_in(cfg, path, metadata)
    return model


def _check_built_in(cfg, path, metadata):
    """Raise ExportError if the config has another value of a key that is part of the graph."""
    then = CfgNode.load_cfg(metadata.config)
    for key in _BUILT_IN.get(metadata.system, ()):
        old, new = (functools.reduce(getattr, key.split("."), x) for x in (then, cfg))
        if old != new:
            raise ExportError(
                f"{path} was exported with {key} {old}, which is part of it, but the config has "
                f"{new}. Set {old}, or export the model again with {new}."
            )


_BUILT_IN = {
    "SparseRCNN": (
        "MODEL.SparseRCNN.SCORE_THRESH_TEST",
        "MODEL.SparseRCNN.NMS_THRESH_TEST",
        "TEST.DETECTIONS_PER_IMAGE",
    ),
    "GeneralizedRCNN": (
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "TEST.DETECTIONS_PER_IMAGE",
    ),
}


class ExportedModel(nn.Module):
    """An exported model, called like the detectron2 model that it was made from.

    Attributes:
        metadata (ExportMetadata): what the file says about itself.
    """

    is_exported = True  # there is nothing to prepare for inference

    def __init__(self, session, metadata, device):
        """
        Args:
            session (callable): takes images (B, C, H, W) and sizes (B, 2) on any device, returns
                the outputs that `metadata` names, on `device`.
            metadata (ExportMetadata): of the file.
            device (torch.device): where the results are.
        """
        super().__init__()
        self.session = session
        self.metadata = metadata
        self.device = device
        self.input_format = metadata.input_format

    def forward(self, batched_inputs):
        """As the forward passes of detectron2's models in evaluation mode.

        Args:
            batched_inputs (list[dict]): per image "image", (3, H, W), in the channel order of the
                metadata, 0 to 255, and optionally "height" and "width" of the result.

        Returns:
            list[dict]: per image ``{"instances": Instances}``, without the detections of score 0,
            or ``{"sem_seg": Tensor}``, (K, height, width).

        Raises:
            ExportError: images with fractions for a model that was exported for bytes.
        """
        images, sizes = self._batch([x["image"] for x in batched_inputs])
        outputs = self.session(images, sizes)
        outputs = dict(zip(self.metadata.outputs, outputs, strict=True))
        results = []
        for index, (given, size) in enumerate(zip(batched_inputs, sizes.tolist(), strict=True)):
            target = given.get("height", size[0]), given.get("width", size[1])
            of_image = {name: x[index] for name, x in outputs.items()}
            make = self._segmentation if "logits" in outputs else _detections
            results.append(make(of_image, tuple(size), *target))
        return results

    def _batch(self, images):
        """The images in one tensor, and their sizes."""
        sizes = torch.tensor([x.shape[-2:] for x in images])
        side = self.metadata.smallest_side
        height, width = (max(size, side) for size in sizes.amax(0).tolist())
        padded = [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images]
        batch = torch.stack(padded)
        dtype = getattr(torch, self.metadata.input_dtype)
        if dtype == torch.uint8 and batch.is_floating_point():
            as_bytes = batch.clamp(0, 255).to(torch.uint8)
            if not torch.equal(as_bytes.to(batch.dtype), batch):
                raise ExportError(
                    "The images are not whole numbers from 0 to 255, which the exported model "
                    "takes; export it with --input-dtype float32."
                )
        return batch.to(dtype), sizes

    def _segmentation(self, outputs, size, height, width):
        logits = F.interpolate(
            outputs["logits"][None],
            scale_factor=float(self.metadata.stride),
            mode="bilinear",
            align_corners=False,
        )[0]
        return {"sem_seg": sem_seg_postprocess(logits, size, height, width)}


def _detections(outputs, size, height, width):
    found = outputs["scores"] > 0
    instances = Instances(size)
    instances.pred_boxes = Boxes(outputs["boxes"][found])
    instances.scores = outputs["scores"][found]
    instances.pred_classes = outputs["classes"][found]
    if "masks" in outputs:
        instances.pred_masks = outputs["masks"][found][:, None]
    return {"instances": detector_postprocess(instances, height, width)}


def _open_onnx(path, device, dtype):
    import onnxruntime

    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ExportError(
            f"The installed ONNX Runtime cannot use {device}: pip uninstall onnxruntime, then "
            "pip install onnxruntime-gpu, or set MODEL.DEVICE cpu."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    arguments = {"device_id": device.index or 0} if device.type == "cuda" else {}
    session = onnxruntime.InferenceSession(str(path), options, [(provider, arguments)])

    def run(images, sizes):
        given = {"images": images.cpu().numpy(), "sizes": sizes.cpu().numpy()}
        return [torch.from_numpy(x).to(device) for x in session.run(None, given)]

    return run, session.get_modelmeta().custom_metadata_map


def _open_openvino(path, device, dtype):
    import openvino

    if device.type != "cpu":
        raise ExportError(f"OpenVINO cannot use {device}; set MODEL.DEVICE cpu.")
    core = openvino.Core()
    model = core.read_model(path)
    keys = [key for key in ExportMetadata.names_in_files() if model.has_rt_info(key)]
    strings = {key: model.get_rt_info(key).astype(str) for key in keys}
    options = {
        # Left to itself, the runtime chooses half precision where the processor has it.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = core.compile_model(model, "CPU", options)

    def run(images, sizes):
        found = compiled([images.numpy(), sizes.numpy()])
        return [torch.from_numpy(found[x].copy()) for x in compiled.outputs]

    return run, strings


def _open_torch_export(path, device, dtype):
    import torchvision  # noqa: F401, registers its operators

    with zipfile.ZipFile(path) as file:
        names = [x.partition("/extra/")[2] for x in file.namelist()]
    strings = {name: "" for name in names if name}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes it
        program = torch.export.load(path, extra_files=strings)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    module = program.module()

    def run(images, sizes):
        with torch.inference_mode():
            return module(images.to(device), sizes.to(device))

    return run, strings


# Ending -> name of the runtime, packages, function that opens a file.
_OPENERS = {
    ".onnx": ("ONNX Runtime", ("onnxruntime",), _open_onnx),
    ".xml": ("OpenVINO", ("openvino",), _open_openvino),
    ".pt2": ("PyTorch", (), _open_torch_export),
}
