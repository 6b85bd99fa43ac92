"""Inference of an exported model, to compare with PyTorch."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.modeling import build_model

from ..analysis import calm_frozen_norms
from ..export import load_exported
from ..export.exporters import FORMATS, export_model
from ..extras import require_extra
from ..inference.class_names import ClassNames
from .passes import InferencePass

__all__ = ["RUNTIMES", "RuntimePass", "require_runtime"]


class _Runtime(NamedTuple):
    """How a model is exported and run.

    Attributes:
        package (str): that runs it.
        form (str): of the file, one of FORMATS.
        dtype (str): type of the computation; "": TEST.DTYPE.
        int8 (bool): quantise it, calibrated on the measured batch.
    """

    package: str
    form: str
    dtype: str = ""
    int8: bool = False


RUNTIMES = {
    "onnxruntime": _Runtime("onnxruntime", "onnx"),
    "openvino": _Runtime("openvino", "openvino"),
    "openvino-bfloat16": _Runtime("openvino", "openvino", dtype="bfloat16"),
    "openvino-int8": _Runtime("openvino", "openvino", int8=True),
}


def require_runtime(name):
    """Raise ImportError if what exports to or runs in one of RUNTIMES is not installed."""
    runtime = RUNTIMES[name]
    nncf = ["nncf"] if runtime.int8 else []
    require_extra("export", "onnx", "onnxscript", runtime.package, *nncf)


class RuntimePass(InferencePass):
    """Detections of one batch by an exported model, whose weights are those of a config's model."""

    def __init__(self, runtime, cfg, batch):
        """
        Args:
            runtime (str): of RUNTIMES.
            cfg (CfgNode): the whole config; TEST.DTYPE is the type of the computation.
            batch (list[dict]): see :func:`~sparsercnn.analysis.inputs.make_batch`.
        """
        torch.manual_seed(0)
        model = calm_frozen_norms(build_model(cfg)).eval()
        _, form, dtype, int8 = RUNTIMES[runtime]
        images = [x["image"] for x in batch] if int8 else None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{FORMATS[form][0]}"
            export_model(cfg, model, ClassNames(), form, path, calibration=images)
            self.model = load_exported(path, cfg.MODEL.DEVICE, dtype or cfg.TEST.DTYPE)
            self.file_bytes = sum(x.stat().st_size for x in Path(folder).iterdir())
        self.batch = batch
        self.dtype = torch.float32
        self.device = str(self.model.device)

    def resident_bytes(self):
        """Bytes of the file; what a runtime makes of it is its own."""
        return self.file_bytes
