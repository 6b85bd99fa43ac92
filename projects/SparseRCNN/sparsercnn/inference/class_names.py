"""Names and ids of classes for drawing and writing, from the data set or the checkpoint."""

import logging
from dataclasses import dataclass, field

from ..data.classes import describe_dataset, num_classes

__all__ = ["ClassNames", "choose_class_names"]


@dataclass
class ClassNames:
    """Names of a model's classes, by index; may be incomplete or empty."""

    things: list[str] = field(default_factory=list)  # object classes
    stuff: list[str] = field(default_factory=list)  # classes of semantic segmentation
    dataset_ids: dict[int, int] = field(default_factory=dict)  # class index -> category id

    @classmethod
    def from_description(cls, description):
        """From a dict of :func:`~sparsercnn.data.classes.describe_dataset`."""
        ids = description.get("thing_dataset_id_to_contiguous_id") or {}
        return cls(
            things=[str(x) for x in description.get("thing_classes") or []],
            stuff=[str(x) for x in description.get("stuff_classes") or []],
            dataset_ids={int(index): int(dataset_id) for dataset_id, index in ids.items()},
        )

    def thing(self, index):
        """The name of object class `index`, or "class INDEX"."""
        return self.things[index] if index < len(self.things) else f"class {index}"

    def category_id(self, index):
        """The data set's id of object class `index`, or the index itself."""
        return self.dataset_ids.get(index, index)


def choose_class_names(cfg, checkpoint_description):
    """Choose class names from the config's first data set, or else from the checkpoint.

    A source with another number of classes than the model is ignored.

    Args:
        cfg (CfgNode): the whole config; its first data set, of TEST or else TRAIN, need not be
            registered.
        checkpoint_description (dict): metadata of the checkpoint, {} if it has none.

    Returns:
        ClassNames: empty if neither source has names.
    """
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    from_dataset = ClassNames.from_description(describe_dataset(names[0]) if names else {})
    from_checkpoint = ClassNames.from_description(checkpoint_description)
    kind = "stuff" if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor" else "things"
    number = num_classes(cfg)
    candidates = [
        x for x in (from_dataset, from_checkpoint) if number in (None, len(getattr(x, kind)))
    ]
    if len(candidates) == 2:
        ours, theirs = (getattr(x, kind) for x in candidates)
        if ours != theirs:
            logging.getLogger(__name__).warning(
                f"Class names are taken from {names[0]}; the checkpoint has other names: {theirs}."
            )
    return candidates[0] if candidates else ClassNames()
