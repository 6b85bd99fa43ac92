"""What a predictor needs to know, from an exported file alone."""

from detectron2.data.transforms import ResizeShortestEdge

from ..inference.class_names import ClassNames

__all__ = ["predictor_arguments"]


def predictor_arguments(model):
    """
    Args:
        model (ExportedModel): from :func:`~sparsercnn.export.load_exported`.

    Returns:
        dict: the arguments of :class:`~sparsercnn.inference.predictor.Predictor`, which then
        needs no config.
    """
    metadata = model.metadata
    resize = ResizeShortestEdge(metadata.min_size, metadata.max_size, "choice")
    return {
        "model": model,
        "augmentations": [resize] if metadata.min_size else [],
        "input_format": metadata.input_format,
        "labels": ClassNames.from_description(metadata.classes),
    }
