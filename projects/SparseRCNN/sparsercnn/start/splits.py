"""Which splits of a data set are trained on and evaluated on."""

import re
from dataclasses import dataclass, field

from ..errors import DataError

__all__ = ["ChosenSplits", "choose_splits", "split_name", "split_role"]

_ROLES = {
    "train": r"train(ing)?\d*",
    "trainval": r"trainval\d*",
    "val": r"(val|valid|validation|dev)\d*",
    "test": r"test(ing)?\d*",
}


@dataclass
class ChosenSplits:
    """Names of splits."""

    train: str
    val: str | None  # None: `train` must be divided
    test: str | None = None  # neither trained on nor used to choose the best model
    notes: list = field(default_factory=list)  # sentences


def choose_splits(names, train=None, val=None):
    """Choose by what the splits are called.

    Args:
        names (iterable[str]): of the splits that there are, such as "instances_train2017".
        train, val (str): names that the user gives; None: by convention.

    Returns:
        ChosenSplits: "train" and "val", or "trainval" and "test", or "train" and "test". A single
        split is to be divided.

    Raises:
        DataError: a name does not exist, or the names do not tell.
    """
    names = list(names)
    for name in filter(None, (train, val)):
        if name not in names:
            raise DataError(f"There is no split '{name}'; there are: {', '.join(names)}.")
    roles = _roles(names)
    if val and not train:
        train = roles.get("train") or roles.get("trainval")
    elif not train:
        return _by_convention(names, roles)
    if train is None or train == val:
        raise DataError(
            "Images to train on and to evaluate on must differ: give --train and --val."
        )
    test = roles.get("test")
    return ChosenSplits(train, val or None, test if test not in (train, val) else None)


def split_name(place):
    """The split of a file that no list names.

    Args:
        place (Path): its folder, relative to that of the data.

    Returns:
        str: the first of the folders that is called like a split, or else the first of all, without
        those that tell images from annotations; "all" if there is none.
    """
    parts = [x for x in place.parts if x.lower() not in ("images", "labels", "annotations")]
    return next(filter(split_role, parts), parts[0] if parts else "all")


def split_role(name):
    """The role that the words of a split's name tell, so that none has two.

    Returns:
        str: "train", "trainval", "val" or "test"; None: they tell none, or several.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    found = {k for k, x in _ROLES.items() if any(re.fullmatch(x, word) for word in words)}
    if found == {"train", "val"}:  # such as "train_val"
        return "trainval"
    return found.pop() if len(found) == 1 else None


def _by_convention(names, roles):
    if len(names) == 1:
        return ChosenSplits(names[0], None)
    train, val, test = (roles.get(x) for x in ("train", "val", "test"))
    if train and val:
        notes = [f"The split '{test}' is left for a last evaluation."] if test else []
        return ChosenSplits(train, val, test, notes)
    train = train or roles.get("trainval")
    if train and test:
        note = f"There is no split to choose the best model on: '{test}' does that too."
        return ChosenSplits(train, test, None, [note])
    raise DataError(
        f"Which of these splits to train on is not clear: {', '.join(names)}. Give --train NAME, "
        "and --val NAME or a part of the first is taken."
    )


def _roles(names):
    """Role -> split, for roles that one name has; the shortest of several."""
    roles = {}
    for name in sorted(names, key=len, reverse=True):
        role = split_role(name)
        if role:
            roles[role] = name
    return roles
