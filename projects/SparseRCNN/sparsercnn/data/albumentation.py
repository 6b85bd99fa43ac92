"""INPUT.ALBUMENTATIONS: transforms of the library ``albumentations``, by name and arguments."""

import difflib
import inspect
import os
import warnings

import numpy as np
import pycocotools.mask
from detectron2.data.detection_utils import polygons_to_bitmask
from detectron2.structures import BoxMode

from ..errors import ConfigError, DataError
from ..extras import require_extra
from .segmentations import mask_problem

__all__ = ["Albumentations"]

_KEY = "INPUT.ALBUMENTATIONS"
# Otherwise the library asks a server for its newest version, or reports its use, when imported.
_QUIET = ("NO_ALBUMENTATIONS_UPDATE", "ALBUMENTATIONS_NO_TELEMETRY")


class Albumentations:
    """Transforms of an image with its boxes, masks or label map.

    The library draws from a generator of its own, which is seeded from NumPy's global one for each
    image: batches follow from the run's SEED.
    """

    def __init__(self, transforms, image_format="BGR", min_visible=0.0):
        """
        Args:
            transforms (list[dict]): each with "name", a class of ``albumentations``, and that
                class's arguments; "transforms" among these, as of OneOf, is a list of the same.
            image_format (str): RGB or BGR, the order of the images' channels. The library gets RGB.
            min_visible (float): share of an object that must be left of it.

        Raises:
            MissingExtraError: the library is not installed.
            ConfigError: a name or an argument does not exist, or a value is refused.
        """
        if image_format not in ("RGB", "BGR"):
            raise ConfigError(f"{_KEY} is for INPUT.FORMAT RGB or BGR, not {image_format}.")
        require_extra("albumentations", "albumentations")
        for variable in _QUIET:
            os.environ.setdefault(variable, "1")
        import albumentations

        self.is_bgr = image_format == "BGR"
        built = [_build(albumentations, x) for x in transforms]
        boxes = albumentations.BboxParams(
            "pascal_voc",
            label_fields=["numbers"],
            filter_invalid_bboxes=True,
            min_visibility=min_visible,
        )
        with warnings.catch_warnings():
            # Of boxes that no transform moves, as if that were wrong.
            warnings.filterwarnings("ignore", message="Got processor for")
            self._on_objects = albumentations.Compose(built, bbox_params=boxes)
        self._on_labels = albumentations.Compose(built)

    def on_objects(self, image, annotations):
        """
        Args:
            image (ndarray): (H, W, 3), uint8.
            annotations (list[dict]): in detectron2's format; their "segmentation", if all have
                one, is transformed as a mask.

        Returns:
            tuple: image; annotations of what is left, with boxes as XYXY_ABS and masks as RLE; and
            the number of those of which too little is.

        Raises:
            DataError: a segmentation cannot be drawn.
            ConfigError: the result is no image of bytes.
        """
        size = image.shape[:2]
        boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4).clip(0, [*size[::-1]] * 2)
        masks = {}
        if annotations and all(x.get("segmentation") for x in annotations):
            masks = {"masks": np.stack([_draw(x["segmentation"], size) for x in annotations])}
        found = self._call(
            self._on_objects, image, bboxes=boxes, numbers=np.arange(len(boxes)), **masks
        )
        kept = []
        for box, number in zip(found["bboxes"], found["numbers"], strict=True):
            annotation = {**annotations[int(number)], "bbox": np.asarray(box, dtype=np.float64)}
            annotation["bbox_mode"] = BoxMode.XYXY_ABS
            if masks:
                mask = np.asarray(found["masks"][int(number)], dtype=np.uint8)
                if not mask.any():
                    continue
                annotation["bbox"] = _within(annotation["bbox"], mask)
                encoded = pycocotools.mask.encode(np.asfortranarray(mask))
                annotation["segmentation"] = encoded
            kept.append(annotation)
        return self._image(found), kept, len(annotations) - len(kept)

    def on_labels(self, image, labels):
        """
        Args:
            image (ndarray): (H, W, 3), uint8.
            labels (ndarray): (H, W), uint8.

        Returns:
            tuple: image and labels.

        Raises:
            ConfigError: see :meth:`on_objects`.
        """
        found = self._call(self._on_labels, image, mask=labels)
        return self._image(found), np.ascontiguousarray(found["mask"], dtype=np.uint8)

    def _call(self, transform, image, **others):
        transform.set_random_seed(int(np.random.randint(2**31)))
        image = image[:, :, ::-1] if self.is_bgr else image
        return transform(image=np.ascontiguousarray(image), **others)

    def _image(self, found):
        image = found["image"]
        is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8
        if not is_image or image.ndim != 3 or image.shape[2] != 3:
            what = getattr(image, "dtype", type(image).__name__)
            raise ConfigError(
                f"{_KEY} makes {what} of shape {tuple(image.shape)} of an image; it must stay "
                "uint8 with three channels. Leave out transforms such as Normalize and ToTensorV2: "
                "the model does what they do."
            )
        return np.ascontiguousarray(image[:, :, ::-1] if self.is_bgr else image)


def _build(library, description):
    arguments = dict(description)
    name = arguments.pop("name")
    kinds = (library.BasicTransform, library.BaseCompose)
    known = [
        x for x, kind in vars(library).items() if inspect.isclass(kind) and issubclass(kind, kinds)
    ]
    if name not in known:
        nearest = " or ".join(difflib.get_close_matches(name, known, n=3))
        hint = f" Did you mean {nearest}?" if nearest else ""
        raise ConfigError(
            f"{_KEY}: albumentations {library.__version__} has no transform {name}.{hint}"
        )
    kind = getattr(library, name)
    allowed = inspect.signature(kind.__init__).parameters
    unknown = [x for x in arguments if x not in allowed]
    if unknown:
        allowed = ", ".join(x for x in allowed if x != "self")
        raise ConfigError(f"{_KEY}: {name} has no argument {unknown[0]}; it has {allowed}.")
    if isinstance(arguments.get("transforms"), list | tuple):
        arguments["transforms"] = [_build(library, x) for x in arguments["transforms"]]
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:  # pydantic's are ValueErrors
        raise ConfigError(f"{_KEY}: {name}: {error}") from error


def _draw(segmentation, size):
    problem = mask_problem(segmentation, size[1], size[0])
    if problem:
        raise DataError(problem)
    if isinstance(segmentation, dict):
        return pycocotools.mask.decode(segmentation)
    return polygons_to_bitmask(segmentation, *size).astype(np.uint8)


def _within(box, mask):
    """A box cut to its mask: of a turned box, the library gives the box around its corners."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    low, high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
    return np.concatenate([np.maximum(box[:2], low), np.minimum(box[2:], high)])
