"""Names and ids of classes: from the data set to the checkpoint, and from either to the drawing."""

import logging
from dataclasses import dataclass, field

from detectron2.data import MetadataCatalog

__all__ = ["Labels", "choose_labels", "describe_dataset"]

_SAVED = ("thing_classes", "stuff_classes", "thing_dataset_id_to_contiguous_id")
_NUM_THINGS_KEY = {"SparseRCNN": "SparseRCNN", "RetinaNet": "RETINANET", "FCOS": "FCOS"}


@dataclass
class Labels:
    """What to call the classes that a model numbers from 0.

    Attributes:
        things: names of object classes; may be shorter than the model's list, or empty.
        stuff: names of the classes of semantic segmentation, likewise.
        dataset_ids: from class index to the data set's own category id.
    """

    things: list[str] = field(default_factory=list)
    stuff: list[str] = field(default_factory=list)
    dataset_ids: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_description(cls, description):
        """
        Args:
            description (dict): as :func:`describe_dataset` returns and checkpoints hold it.
        """
        ids = description.get("thing_dataset_id_to_contiguous_id") or {}
        return cls(
            things=[str(x) for x in description.get("thing_classes") or []],
            stuff=[str(x) for x in description.get("stuff_classes") or []],
            dataset_ids={int(index): int(dataset_id) for dataset_id, index in ids.items()},
        )

    def thing(self, index):
        """The name of object class `index`, "class 7" if it has none."""
        return self.things[index] if index < len(self.things) else f"class {index}"

    def category_id(self, index):
        """The data set's id of object class `index`; the index if it has none."""
        return self.dataset_ids.get(index, index)


def describe_dataset(name):
    """What a checkpoint should know about the data that it was trained on.

    Args:
        name (str): a registered data set. Some register their class names only when they are
            first loaded: call this after that.

    Returns:
        dict: plain values: "dataset", the name, and those of "thing_classes", "stuff_classes"
        (lists of names) and "thing_dataset_id_to_contiguous_id" that the data set has.
    """
    metadata = MetadataCatalog.get(name)
    description = {"dataset": name}
    for key in _SAVED:
        value = metadata.get(key)
        if value:
            description[key] = dict(value) if isinstance(value, dict) else list(value)
    return description


def choose_labels(cfg, checkpoint_description):
    """Class names from the config's first data set, or else from the checkpoint.

    A source that does not have as many object classes as the model is passed over: its names
    would be wrong.

    Args:
        cfg (CfgNode): whose first data set, of TEST or else TRAIN, is registered, or not.
        checkpoint_description (dict): the checkpoint's metadata, {} if it has none.

    Returns:
        Labels: without names if neither source has them.
    """
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    from_dataset = Labels.from_description(describe_dataset(names[0]) if names else {})
    from_checkpoint = Labels.from_description(checkpoint_description)
    candidates = [x for x in (from_dataset, from_checkpoint) if _fits(cfg, x)]
    kind = "stuff" if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor" else "things"
    if len(candidates) == 2:
        ours, theirs = (getattr(x, kind) for x in candidates)
        if ours != theirs:
            logging.getLogger(__name__).warning(
                f"Classes are named after {names[0]}; the checkpoint has other names: {theirs}."
            )
    return candidates[0] if candidates else Labels()


def _fits(cfg, labels):
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return len(labels.stuff) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    node = cfg.MODEL.get(_NUM_THINGS_KEY.get(cfg.MODEL.META_ARCHITECTURE, "ROI_HEADS"))
    return node is not None and len(labels.things) == node.NUM_CLASSES
