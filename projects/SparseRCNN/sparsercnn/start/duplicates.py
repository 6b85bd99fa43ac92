"""Pictures that are nearly the same, such as neighbouring frames of a video."""

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..image_files import UNREADABLE, open_image, to_eight_bits

__all__ = ["Groups", "best_twins", "group_similar", "thumbnails"]

_SIDE = 32  # pixels of a thumbnail
_BLOCK = 64  # rows of the matrix of correlations at a time
# Correlations above which two pictures count as the same: the first is used with which the largest
# group is not most of the data. All pictures of a camera that does not move correlate.
_LEVELS = (0.95, 0.99, 0.999)


class Groups:
    """A partition of images.

    Attributes:
        index (ndarray): (n,), int: the group of each image, 0 to G - 1.
        level (float): the correlation above which images are in one group; None: no level of
            :func:`group_similar` leaves groups that can be divided, and each image is its own.
    """

    def __init__(self, index, level):
        self.index, self.level = index, level

    @property
    def num_similar(self):
        """int: number of images that are not alone in their group."""
        sizes = np.bincount(self.index)
        return int(sizes[sizes > 1].sum())


def thumbnails(paths):
    """Brightness of images at 32 x 32 pixels, with mean 0 and length 1.

    Args:
        paths (sequence[str]): image files.

    Returns:
        ndarray: (n, 1025), float32, whose products are correlations, unchanged by brightness and
        contrast. The last column is 1 for an image of a single shade, so that these are the same
        to each other and to nothing else. A file that cannot be read is 0.
    """
    result = np.zeros((len(paths), _SIDE * _SIDE + 1), np.float32)
    for row, path in zip(result, paths, strict=True):
        try:
            with open_image(path) as image:
                image.draft("L", (2 * _SIDE, 2 * _SIDE))  # JPEG: decoded at this size
                image.load()  # as in read_image
                grey = (
                    to_eight_bits(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
                )
        except UNREADABLE:
            continue
        values = np.asarray(grey, np.float32).ravel()
        values = values - values.mean()
        length = np.linalg.norm(values)
        if length > 0:
            row[:-1] = values / length
        else:
            row[-1] = 1
    return result


def group_similar(paths, largest=0.5):
    """Group images so that those that are nearly the same, or joined by a chain of such, are in one
    group.

    Args:
        paths (sequence[str]): image files.
        largest (float): a level whose largest group has more than this share of the images, and
            more than two, is too low, and the next is tried.

    Returns:
        Groups: the partition.
    """
    vectors = thumbnails(paths)
    for level in _LEVELS:
        index = np.arange(len(paths))
        for start in range(0, len(paths), _BLOCK):  # all pairs at once would be n * n
            rows, columns = np.nonzero(vectors[start : start + _BLOCK] @ vectors.T > level)
            edges = index[rows + start], index[columns]
            graph = coo_array((np.ones(len(rows), bool), edges), shape=[len(paths)] * 2)
            index = connected_components(graph, directed=False)[1][index]
        index = np.unique(index, return_inverse=True)[1]
        if np.bincount(index).max() <= max(largest * len(paths), 2):
            return Groups(index, level)
    return Groups(np.arange(len(paths)), None)


def best_twins(vectors, others):
    """The image that looks most like each image.

    Args:
        vectors (ndarray): (n, D), from :func:`thumbnails`.
        others (ndarray): (m, D), m > 0, of the images to choose from.

    Returns:
        tuple[ndarray, ndarray]: (n,), indices in `others`, and their correlations.
    """
    twins, correlations = np.zeros(len(vectors), int), np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = slice(start, start + _BLOCK)
        products = vectors[block] @ others.T
        twins[block], correlations[block] = products.argmax(axis=1), products.max(axis=1)
    return twins, correlations
