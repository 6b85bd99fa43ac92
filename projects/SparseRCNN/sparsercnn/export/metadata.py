"""What an exported file says about itself, so that it runs without the config."""

import json
from dataclasses import asdict, dataclass, field, fields

from ..data.classes import num_classes
from ..errors import ExportError

__all__ = ["ExportMetadata", "describe"]

_PREFIX = "sparsercnn."


@dataclass
class ExportMetadata:
    """The content of an exported file's metadata."""

    system: str  # MODEL.META_ARCHITECTURE
    outputs: list  # names, in order
    input_format: str  # channel order, as INPUT.FORMAT
    input_dtype: str  # of the images: uint8 or float32
    min_size: int  # INPUT.MIN_SIZE_TEST, of the shorter side in pixels; 0: images are not resized
    max_size: int  # INPUT.MAX_SIZE_TEST
    smallest_side: int  # of the images that the graph takes; smaller ones have to be padded
    num_classes: int
    classes: dict  # names and ids, see `describe_dataset`
    score_threshold: float  # detections below it have score 0; unused in segmentation, as is NMS
    nms_threshold: float  # 0: no NMS
    config: str  # the whole config as YAML
    version: str  # of this package
    stride: int = 1  # of a segmentation's logits
    precision: str = "float32"  # or int8
    names: list = field(default_factory=list)  # of the classes, by index

    @classmethod
    def names_in_files(cls):
        """list[str]: the keys of :meth:`to_strings`."""
        return [_PREFIX + x.name for x in fields(cls)]

    def to_strings(self):
        """dict[str, str]: a key for each field, the value as json."""
        return {_PREFIX + key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, strings, path):
        """
        Args:
            strings (dict[str, str]): of :meth:`to_strings`, possibly among others.
            path (str): the file, for messages.

        Raises:
            ExportError: a field is missing.
        """
        missing = [x.name for x in fields(cls) if _PREFIX + x.name not in strings]
        if missing:
            raise ExportError(
                f"{path} lacks the metadata {', '.join(missing)}: it was not written by "
                "tools/export.py of this version. Export the model again."
            )
        return cls(**{x.name: json.loads(strings[_PREFIX + x.name]) for x in fields(cls)})


def describe(cfg, graph, smallest_side, input_dtype, labels):
    """
    Args:
        cfg (CfgNode): the whole config.
        graph (nn.Module): from :func:`~sparsercnn.export.exporters.build_graph`.
        smallest_side (int): of the images that the graph takes.
        input_dtype (str): "uint8" or "float32".
        labels (ClassNames): names and ids of the classes.

    Returns:
        ExportMetadata: of the model, in float32.
    """
    from .. import __version__  # defined last in the package

    model = graph.model
    is_sparse = cfg.MODEL.META_ARCHITECTURE == "SparseRCNN"
    sparse, heads = cfg.MODEL.SparseRCNN, cfg.MODEL.ROI_HEADS
    is_segmentor = "logits" in graph.outputs
    ids = {dataset_id: index for index, dataset_id in labels.dataset_ids.items()}
    return ExportMetadata(
        system=cfg.MODEL.META_ARCHITECTURE,
        outputs=list(graph.outputs),
        input_format=cfg.INPUT.FORMAT,
        input_dtype=input_dtype,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        smallest_side=smallest_side,
        num_classes=num_classes(cfg),
        classes={
            "thing_classes": labels.things,
            "stuff_classes": labels.stuff,
            "thing_dataset_id_to_contiguous_id": ids,
        },
        score_threshold=sparse.SCORE_THRESH_TEST if is_sparse else heads.SCORE_THRESH_TEST,
        nms_threshold=sparse.NMS_THRESH_TEST if is_sparse else heads.NMS_THRESH_TEST,
        config=cfg.dump(),
        version=__version__,
        stride=model.sem_seg_head.stride if is_segmentor else 1,
        names=labels.stuff if is_segmentor else labels.things,
    )
