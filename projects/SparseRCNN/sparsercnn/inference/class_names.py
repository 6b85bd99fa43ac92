"""Names and ids of classes for drawing and writing, from the checkpoint or the data set."""

import logging
from dataclasses import dataclass, field

from ..data import register_datasets
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

    def stuff_name(self, index):
        """The name of class `index` of a segmentation, or "class INDEX"."""
        return self.stuff[index] if index < len(self.stuff) else f"class {index}"

    def category_id(self, index):
        """The data set's id of object class `index`, or the index itself."""
        return self.dataset_ids.get(index, index)


def choose_class_names(cfg, checkpoint_description):
    """Choose class names from the checkpoint, or else from the config's first data set.

    A source with another number of classes than the model is ignored.

    Args:
        cfg (CfgNode): the whole config; its first data set, of TEST or else TRAIN, is registered
            if need be. If its files are missing, a warning says so.
        checkpoint_description (dict): metadata of the checkpoint, {} if it has none.

    Returns:
        ClassNames: of a segmentor, without object classes; empty if neither source has names.
    """
    from_checkpoint = _names(cfg, checkpoint_description)
    if _fits(cfg, from_checkpoint):
        return from_checkpoint
    from_dataset = _names(cfg, _describe_first_dataset(cfg))
    return from_dataset if _fits(cfg, from_dataset) else ClassNames()


def _names(cfg, description):
    names = ClassNames.from_description(description)
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return ClassNames(stuff=names.stuff)  # some data sets, as Cityscapes, name objects too
    return names


def _fits(cfg, names):
    found = names.stuff if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor" else names.things
    number = num_classes(cfg)
    return len(found) == number if number is not None else bool(found)


def _describe_first_dataset(cfg):
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN][:1]
    try:
        register_datasets(names)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning(
            f"Classes are numbered, since the checkpoint does not name them: {error}"
        )
        return {}
    return describe_dataset(names[0]) if names else {}
