"""What holds for whatever a file has: Hypothesis looks for the exception."""

import json

import numpy as np
import pycocotools.mask
import pytest

from sparsercnn.data.coco_cache import _in_memory
from sparsercnn.data.coco_records import CocoRecords
from sparsercnn.data.coco_scan import IRREGULAR, scan_coco, scan_content
from sparsercnn.data.coco_schema import read_coco
from sparsercnn.data.segmentations import are_harmless_polygons, clean, form_problem, mask_problem
from sparsercnn.data.validation import box_problem
from sparsercnn.errors import DataError

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
# The same cases in each run; fixtures that are used are the same for all of them.
hypothesis.settings.register_profile(
    "robustness",
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
settings = hypothesis.settings.get_profile("robustness")

NUMBERS = st.one_of(
    st.integers(-3, 25),
    st.floats(-30, 60),
    st.floats(),
    st.sampled_from([10**6, 10**400, 1e5, -1e5, 99999.5, 1e300, 2**31, 2**32, 2**63]),
)
NASTY = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=4),
    st.lists(NUMBERS, max_size=8),
    st.lists(st.lists(NUMBERS, max_size=8), max_size=3),
    st.dictionaries(st.sampled_from(["counts", "size", "x"]), st.lists(NUMBERS, max_size=3)),
)
SEGMENTATIONS = st.one_of(
    NASTY,
    st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=2),
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([[10, 20], [20, 10], [10], [-10, -20], [10.0, 20], None]),
            "counts": st.one_of(
                st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=8),
                st.lists(st.integers(-1, 200), max_size=4),
                st.integers(0, 200).map(lambda x: [x, 200 - x]),
                NASTY,
            ),
        }
    ),
)
FIELDS = {
    "bbox": st.one_of(st.lists(NUMBERS, min_size=4, max_size=4), NASTY),
    "iscrowd": st.one_of(st.sampled_from([0, 1, False, True, 0.0]), NASTY),
    "area": NASTY,
    "image_id": st.one_of(st.just(1), NASTY),
    "category_id": st.one_of(st.just(3), NASTY),
    "id": NASTY,
    "keypoints": NASTY,
    "ignore": NASTY,
    "segmentation": SEGMENTATIONS,
}
OBJECT = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 1, 5, 4], "area": 20, "iscrowd": 0}


def _one_of(fields):
    """One field with a value for it."""
    pairs = st.sampled_from(sorted(fields)).flatmap(lambda x: st.tuples(st.just(x), fields[x]))
    return pairs.map(lambda pair: dict([pair]))


@settings
@hypothesis.given(change=_one_of({**FIELDS, "width": NASTY}))
def test_a_file_is_read_quickly_as_it_is_read_with_care_or_refused(tmp_path_factory, change):
    """What the fast reading accepts, the slow one does, and the other way round; what both accept
    gives records, and masks without a problem can be drawn."""
    width = change.pop("width", 20)
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": width, "height": 10}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{**OBJECT, **change}],
    }
    text = json.dumps(content)
    path = tmp_path_factory.getbasetemp() / "hypothesis.json"
    path.write_text(text)
    try:
        careful = scan_content(read_coco(str(path)))
        problem = None
    except DataError as error:
        problem = str(error)
        assert str(path) in problem and len(problem) < 600
    if problem is not None:
        with pytest.raises(IRREGULAR):
            scan_coco(text.encode())
        with pytest.raises(DataError):
            _in_memory(str(path))
        return
    try:
        quick = scan_coco(text.encode())
    except IRREGULAR:  # numbers that only Python's json reads
        assert any(x in text for x in ("NaN", "Infinity", "00000000", "\\ud"))
    else:
        assert [bytes(x) for x in quick.texts] == careful.texts
        assert json.loads(quick.completed()) == json.loads(careful.completed())
        for name in ("ids", "image_ids", "category_ids", "boxes", "crowds", "kinds", "rle_sizes"):
            assert getattr(quick, name) == getattr(careful, name), name
    index = _in_memory(str(path))
    records = CocoRecords(index, "images", {3: 0})
    (record,) = records
    assert records.outlines()[0]["image_id"] == 1
    (annotation,) = record["annotations"]
    box = annotation["bbox"]
    if box_problem(box, width, 10):
        assert records.suspects() == [0]
    if "unknown_category" not in annotation:
        wanted = not annotation.get("segmentation") or mask_problem(
            annotation["segmentation"], width, 10
        )
        known = bool(box_problem(box, width, 10))
        assert (records.suspects("bitmask") == [0]) == bool(wanted or known)


@settings
@hypothesis.given(segmentation=SEGMENTATIONS)
def test_what_has_no_problem_can_be_drawn(segmentation):
    if form_problem(segmentation) or not segmentation or mask_problem(segmentation, 20, 10):
        return
    segmentation = clean(segmentation)
    if isinstance(segmentation, list):
        segmentation = pycocotools.mask.merge(pycocotools.mask.frPyObjects(segmentation, 10, 20))
    drawn = pycocotools.mask.decode(segmentation)
    assert drawn.shape == (10, 20) and drawn.max() <= 1


@settings
@hypothesis.given(
    pixels=st.integers(1, 12).flatmap(
        lambda height: st.lists(
            st.lists(st.booleans(), min_size=height, max_size=height), min_size=1, max_size=12
        )
    )
)
def test_every_mask_has_no_problem_in_either_form(pixels):
    mask = np.asfortranarray(np.array(pixels, np.uint8).T)
    height, width = mask.shape
    compressed = pycocotools.mask.encode(mask)
    flat = [0, *mask.ravel(order="F").tolist()]  # counts begin with background
    starts = [0, *np.flatnonzero(np.diff(flat)).tolist(), mask.size]
    counts = {"size": [height, width], "counts": np.diff(starts).tolist()}
    text = {"size": [height, width], "counts": compressed["counts"].decode()}
    for form in (compressed, counts, text):
        assert mask_problem(form, width, height) is None
        assert np.array_equal(pycocotools.mask.decode(clean(form)), mask)
        assert mask_problem(form, width + 1, height) is not None


@settings
@hypothesis.given(polygons=st.lists(st.lists(NUMBERS, max_size=8), max_size=3))
def test_the_quick_look_agrees_with_the_careful_one(polygons):
    for indent in (None, 1):
        drawable = are_harmless_polygons(json.dumps(polygons, indent=indent).encode())
        assert drawable is None or drawable == (mask_problem(polygons) is None)


@pytest.mark.parametrize("polygon", ["1, 2, 3, 4, 5.123456, 6", "-9999, 0.000001, 3, 4, 5, 6"])
def test_the_quick_look_knows_usual_polygons(polygon):
    assert are_harmless_polygons(f"[[{polygon}]]".encode())
    assert are_harmless_polygons(f"[[{polygon}], [1, 2]]".encode())
    assert not are_harmless_polygons(f"[[{polygon}, 7]]".encode())


@pytest.mark.parametrize(
    "text",
    [
        "[[1, 2, 3, 4, 5, 10000]]",
        "[[1, 2, 3, 4, 5, 1e4]]",
        "[[-12345.5, 2, 3, 4, 5, 6]]",
        "[[1, 2, 3, 4, 5, null]]",
        "[[[1, 2, 3, 4, 5, 6]]]",
        "[[1, 2, 3, 4, 5, 6], 7]",
        "[1, [2]]",
        "[[1], [[2]]]",
        "[[1], 2, [3]]",
        "[1, 2, 3, 4, 5, 6]",
        "[]",
        "null",
        '"[[1]]"',
        '{"counts": [1], "size": [1, 1]}',
    ],
)
def test_the_quick_look_leaves_others_to_the_careful_one(text):
    assert are_harmless_polygons(text.encode()) is None
