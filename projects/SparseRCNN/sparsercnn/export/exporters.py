"""Writing a trained model to a file that runs without this package's model code."""

import contextlib
import functools
import logging
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor

from ..errors import ConfigError, ExportError
from ..extras import require_extra
from ..modeling import SparseRCNN, TimmBackbone
from ..modeling.segmentation import DANetHead
from .cascade import CascadeGraph
from .graph import DetectorGraph, SegmentorGraph, smallest_side
from .metadata import describe
from .quantization import quantize

__all__ = ["FORMATS", "Traced", "build_graph", "export_model", "trace"]

_EXAMPLE_SIZE = (2, 96, 136)  # B, H, W of the tracing; all three are dynamic
_OPSET = 20
_NO_BYTES = ("YUV-BT.601",)  # input formats that are not of type uint8


def export_model(cfg, model, labels, form, path, *, input_dtype=None, calibration=None, check=None):
    """Write one file of a trained model, and for OpenVINO its ``.bin`` beside the ``.xml``.

    Args:
        cfg (CfgNode): the whole config.
        model (nn.Module): with its weights; not modified.
        labels (ClassNames): names of its classes.
        form (str): a key of FORMATS.
        path (str): the file, with the ending of its format, in an existing folder.
        input_dtype (str): "uint8" or "float32", of the images; None: that which images read in
            INPUT.FORMAT have.
        calibration (list[Tensor]): images (3, H, W) for int8, as the data loader resizes them;
            None: float32.
        check (callable): called with the path of the complete file before it is moved to `path`;
            raises an error if it is not good.

    Returns:
        what `check` returns.

    Raises:
        ExportError: the model or the combination of arguments is not supported.
        ImportError: a package is missing; the message names the extra.
    """
    path = Path(path)
    write = _checked_writer(cfg, form, path, input_dtype, calibration)
    input_dtype = input_dtype or ("float32" if cfg.INPUT.FORMAT in _NO_BYTES else "uint8")
    graph = build_graph(model)
    metadata = describe(cfg, graph, smallest_side(graph.model), input_dtype, labels)
    metadata.precision = "float32" if calibration is None else "int8"
    traced = Traced(graph, metadata)
    # In a folder of its own beside the target: OpenVINO writes two files of given names.
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        write(traced, folder / path.name, calibration)
        result = check(str(folder / path.name)) if check else None
        # The one that a reader opens comes last.
        for file in sorted(folder.iterdir(), key=lambda x: x.name == path.name):
            os.replace(file, path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def build_graph(model):
    """
    Args:
        model (nn.Module): a trained model of this project; not modified.

    Returns:
        nn.Module: its inference, called with tensors; see :mod:`~sparsercnn.export.graph`.

    Raises:
        ExportError: the model is of another kind.
    """
    if isinstance(model, SparseRCNN):
        return DetectorGraph(model).eval()
    if type(model) is GeneralizedRCNN:
        return CascadeGraph(model).eval()
    if isinstance(model, SemanticSegmentor) and isinstance(model.sem_seg_head, DANetHead):
        return SegmentorGraph(model).eval()
    head = getattr(model, "sem_seg_head", None)
    raise ExportError(
        f"{type(model).__name__}{f' with {type(head).__name__}' if head else ''} cannot be "
        "exported; supported are SparseRCNN, GeneralizedRCNN with a cascade, and "
        "SemanticSegmentor with DANetHead."
    )


def trace(graph, dtype=torch.uint8):
    """The :class:`torch.export.ExportedProgram` of a graph, for batches of any size of images.

    Args:
        graph (nn.Module): from :func:`build_graph`.
        dtype (torch.dtype): of the images.

    Raises:
        ExportError: the exporter cannot follow the code of a model of timm.
    """
    B, H, W = _EXAMPLE_SIZE
    images = torch.zeros(B, len(graph.model.pixel_mean), H, W, dtype=dtype)
    sizes = torch.tensor([[H, W], [H - 20, W - 30]])
    batch = torch.export.Dim("batch", min=1)
    least = smallest_side(graph.model)
    sides = {name: torch.export.Dim(name, min=least) for name in ("height", "width")}
    shapes = {"images": {0: batch, 2: sides["height"], 3: sides["width"]}, "sizes": {0: batch}}
    backbone = graph.model.backbone
    bottom_up = getattr(backbone, "bottom_up", backbone)
    try:
        with _plain_attention(), _without_inner_warnings(), torch.no_grad():
            return torch.export.export(graph, (images, sizes), dynamic_shapes=shapes)
    except RuntimeError as error:
        if not isinstance(bottom_up, TimmBackbone):
            raise
        raise ExportError(
            f"MODEL.TIMM.NAME: timm's {bottom_up.model_name} cannot be exported, since PyTorch's "
            "exporter cannot follow its code for images of any size. ResNets and ConvNeXts can be, "
            f"and plain ViTs (build_vit_backbone). {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0][:200]}"
        ) from error


@contextlib.contextmanager
def _plain_attention():
    """Without the fused kernel of :class:`torch.nn.MultiheadAttention`, which no runtime has."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def _without_inner_warnings():
    """Without those of the exporters' own code, which concern nobody else."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


class Traced:
    """A traced graph and what is said about it; converted to ONNX once, when first asked for."""

    def __init__(self, graph, metadata):
        """
        Args:
            graph (nn.Module): from :func:`build_graph`.
            metadata (ExportMetadata): for the file.
        """
        self.metadata = metadata
        self.program = trace(graph, getattr(torch, metadata.input_dtype))

    @functools.cached_property
    def onnx(self):
        """onnx.ModelProto: without metadata. PyTorch can convert a program only once."""
        with _without_inner_warnings():
            exported = torch.onnx.export(
                self.program,
                input_names=["images", "sizes"],
                output_names=self.metadata.outputs,
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
        return _name_axes(exported.model_proto)


def _name_axes(model):
    """The onnx.ModelProto with readable names for sizes that the exporter has numbered."""
    symbols = [x.dim_param for x in model.graph.input[0].type.tensor_type.shape.dim]
    batch, _, height, width = (re.escape(x) for x in symbols)
    names = {rf"\b{batch}\b": "batch", rf"\b{height}\b": "height", rf"\b{width}\b": "width"}
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            for symbol, name in names.items():
                if dimension.dim_param:
                    dimension.dim_param = re.sub(symbol, name, dimension.dim_param)
    return model


def _write_torch_export(traced, path, calibration):
    torch.export.save(traced.program, path, extra_files=traced.metadata.to_strings())


def _write_onnx(traced, path, calibration):
    import onnx

    model = traced.onnx
    if calibration is not None:
        model = quantize(model, calibration, traced.metadata)
    onnx.helper.set_model_props(model, traced.metadata.to_strings())
    onnx.save(model, path)


def _write_openvino(traced, path, calibration):
    import openvino

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(traced.onnx.SerializeToString())
        file.flush()
        # Not convert_model, which reports its use to OpenVINO's makers.
        model = openvino.Core().read_model(file.name)
    if calibration is not None:
        model = quantize(model, calibration, traced.metadata)
    for key, value in traced.metadata.to_strings().items():
        model.set_rt_info(value, key)
    openvino.save_model(model, path, compress_to_fp16=False)


# Name -> ending of the file, function that writes it, extra and packages that this needs.
FORMATS = {
    "torch_export": (".pt2", _write_torch_export, ()),
    "onnx": (".onnx", _write_onnx, ("onnx", "onnxscript")),
    "openvino": (".xml", _write_openvino, ("onnx", "onnxscript", "openvino")),
}


def _checked_writer(cfg, form, path, input_dtype, calibration):
    ending, write, packages = FORMATS[form]
    if path.suffix != ending:
        raise ConfigError(f"--output {path}: files of format {form} end in {ending}.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {path}: its folder does not exist; make it.")
    if cfg.TEST.SIZE_BUCKET:
        raise ConfigError(
            f"TEST.SIZE_BUCKET {cfg.TEST.SIZE_BUCKET} is for models in PyTorch; an exported one "
            "pads images as little as it can. Set it to 0."
        )
    if input_dtype == "uint8" and cfg.INPUT.FORMAT in _NO_BYTES:
        raise ConfigError(f"INPUT.FORMAT {cfg.INPUT.FORMAT} needs --input-dtype float32.")
    if calibration is not None:
        if form not in ("onnx", "openvino"):
            raise ConfigError(f"--int8 needs --format onnx or openvino, not {form}.")
        packages += ("nncf",)
    require_extra("export", *packages)
    return write
