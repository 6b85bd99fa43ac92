"""Which class is taken for which."""

import numpy as np

from .records import pairwise_iou, slices

__all__ = ["confusion_matrix"]


def confusion_matrix(truth, detections, errors, chosen, threshold=0.5):
    """Count objects by their class and that of the detection on them.

    An object belongs to the detection that finds it (COCO's rules). What is left over is paired
    whatever the classes are, detections in the order of their scores, each with the free object of
    the highest IoU. Detections that COCO ignores, such as those on crowds, do not count.

    Args:
        truth (Truth): the objects.
        detections (Detections): what was found.
        errors (Errors): of these.
        chosen (ndarray): (N,), bool: the detections to take, such as those above a score.
        threshold (float): lowest IoU of a pair.

    Returns:
        ndarray: (K + 1, K + 1), int: rows are the objects' classes, columns the detections'; last
        are detections without an object (row) and objects without a detection (column).
    """
    K = truth.num_classes
    matrix = np.zeros((K + 1, K + 1), int)
    taken = errors.found(truth, chosen)
    np.add.at(matrix, (truth.classes[taken], truth.classes[taken]), 1)
    rest = chosen & ~((errors.kind == 0) & (errors.object >= 0))
    free = ~taken & ~truth.crowd
    of_image = slices(truth.image, truth.num_images)
    for number, own in enumerate(slices(detections.image, truth.num_images)):
        objects = np.arange(of_image[number].start, of_image[number].stop)[free[of_image[number]]]
        rows = np.arange(own.start, own.stop)[rest[own]]
        pairs = _pair(pairwise_iou(detections.boxes[rows], truth.boxes[objects]), threshold)
        for row, column in pairs:
            matrix[truth.classes[objects[column]], detections.classes[rows[row]]] += 1
        lonely = np.delete(rows, [row for row, _ in pairs])
        np.add.at(matrix, (K, detections.classes[lonely]), 1)
        without = np.delete(objects, [column for _, column in pairs])
        np.add.at(matrix, (truth.classes[without], K), 1)
    return matrix


def _pair(iou, threshold):
    """Pairs (row, column): each row takes the free column of the highest value."""
    pairs, free = [], np.ones(iou.shape[1], bool)
    for row, values in enumerate(iou):
        values = np.where(free, values, -1)
        column = int(values.argmax()) if len(values) else -1
        if column >= 0 and values[column] >= threshold:
            free[column] = False
            pairs.append((row, column))
    return pairs
