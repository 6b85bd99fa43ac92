"""Overlapping windows that cover an image: for segmentation and for detection in slices."""

__all__ = ["window_slices"]


def window_slices(size, window, stride):
    """Rows and columns of windows that cover an image, row by row.

    Args:
        size (tuple[int, int]): height and width of the image.
        window (tuple[int, int]): height and width of the windows, which are smaller only where the
            image is.
        stride (tuple[int, int]): vertical and horizontal distance of windows, at most `window`; the
            last window of a row or column ends at the image's border, and may be nearer.

    Returns:
        list[tuple[slice, slice]]: rows and columns of each window.
    """
    rows, columns = (
        [slice(start, min(start + extent, length)) for start in _starts(length, extent, step)]
        for length, extent, step in zip(size, window, stride, strict=True)
    )
    return [(y, x) for y in rows for x in columns]


def _starts(length, window, stride):
    last = max(length - window, 0)
    return [*range(0, last, stride), last]
