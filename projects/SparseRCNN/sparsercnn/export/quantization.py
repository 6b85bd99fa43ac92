"""Eight-bit models by NNCF, calibrated on images."""

import numpy as np

from ..errors import ExportError
from ..image_files import resize_for_model

__all__ = ["quantize", "read_images"]


def read_images(predictor, paths):
    """
    Args:
        predictor (Predictor): reads and resizes them.
        paths (list[str]): image files.

    Returns:
        list[Tensor]: (3, H, W), as the model gets them in evaluation.

    Raises:
        ImageError: a file cannot be read or resized.
    """
    return [resize_for_model(predictor.read(x), predictor.augmentations)["image"] for x in paths]


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
