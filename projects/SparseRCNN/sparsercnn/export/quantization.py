"""Eight-bit models by NNCF, calibrated on images."""

import numpy as np
import torch
from detectron2.data.transforms import AugInput

from ..errors import ExportError

__all__ = ["quantize", "read_images"]


def read_images(predictor, paths):
    """
    Args:
        predictor (Predictor): reads and resizes them.
        paths (list[str]): image files.

    Returns:
        list[Tensor]: (3, H, W), as the model gets them in evaluation.

    Raises:
        ImageError: a file cannot be read.
    """
    images = []
    for path in paths:
        resized = AugInput(predictor.read(path))
        predictor.augmentations(resized)
        images.append(torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1))))
    return images


def quantize(model, images, metadata):
    """Quantise the convolutions and matrix products of a model.

    Args:
        model (onnx.ModelProto | openvino.Model): in float32.
        images (list[Tensor]): (3, H, W), for calibration.
        metadata (ExportMetadata): of the model.

    Returns:
        the same type.

    Raises:
        ExportError: there are no images.
    """
    import nncf

    if not images:
        raise ExportError("--int8 needs at least one calibration image.")
    dtype = metadata.input_dtype

    def make_input(image):
        sizes = np.array([image.shape[1:]], dtype=np.int64)
        return {"images": image[None].numpy().astype(dtype), "sizes": sizes}

    return nncf.quantize(
        model,
        nncf.Dataset(images, make_input),
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )
