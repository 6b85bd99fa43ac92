"""The lowest score of each class, such as those that a report finds best."""

import json
import math
from collections.abc import Mapping

from ..data.files import read_text
from ..errors import ConfigError

__all__ = ["check_threshold", "read_thresholds"]


def read_thresholds(path):
    """Read `thresholds.json` of a report.

    Args:
        path (str | Path): the file: {"classes": {NAME: {"score": 0.31, ...}, ...}}, or the scores
            alone, {NAME: 0.31, ...}.

    Returns:
        dict[str, float]: name of a class -> its lowest score.

    Raises:
        MissingFileError: the file does not exist.
        ConfigError: it is malformed, or a score is not between 0 and 1.
    """
    remedy = "Give the thresholds.json of a report."
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: malformed json: {error}. {remedy}") from error
    classes = content.get("classes", content) if isinstance(content, dict) else None
    if not isinstance(classes, dict) or not classes:
        raise ConfigError(f"{path} has no scores of classes. {remedy}")
    scores = {k: x.get("score") if isinstance(x, dict) else x for k, x in classes.items()}
    try:
        return check_threshold(scores)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} {remedy}") from None


def check_threshold(scores, names=None):
    """
    Args:
        scores (Mapping): name of a class -> its lowest score.
        names (list[str]): classes of a model, which all need one; None: any will do.

    Returns:
        dict[str, float]: the same.

    Raises:
        ConfigError: a class lacks a score, or a score is not a number from 0 to 1.
    """
    if not isinstance(scores, Mapping):
        raise ConfigError(f"Scores of classes are a dict from names, not {scores!r}.")
    for name, score in scores.items():
        is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not is_number or not math.isfinite(score) or not 0 <= score <= 1:
            raise ConfigError(f"the lowest score of {name!r} is {score!r}; it must be 0 to 1.")
    missing = [x for x in names or () if x not in scores]
    if missing:
        raise ConfigError(
            f"There is no lowest score for the model's class {missing[0]!r}; there are: "
            f"{', '.join(map(str, scores))}. Give the thresholds of this model."
        )
    return {name: float(score) for name, score in scores.items()}
