"""What the modules of detectron2 v0.6 need changed to run on current libraries.

detectron2 0.6 is from 2021; each entry names what has been removed since, or replaces a use of the
C++ extension that a pure-Python wheel cannot contain. An entry that no longer matches one of its
files is an error, so that the table cannot outlive the code that it was written for.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class FixUp:
    """One named change, made in each of ``files`` wherever the pattern matches.

    Attributes:
        name: how messages and the notice in the changed file call it
        files: paths in the wheel, all of which must match
        old: regular expression, matched line by line (``^`` and ``$`` stand for line ends)
        new: replacement, as for :func:`re.sub`
        why: the reason, for the reader of this table
    """

    name: str
    files: tuple[str, ...]
    old: str
    new: str
    why: str


class FixUpError(RuntimeError):
    """A fix-up found nothing to change."""


FIXUPS = (
    FixUp(
        name="numpy-aliases",
        files=(
            "detectron2/data/build.py",
            "detectron2/data/datasets/pascal_voc.py",
            "detectron2/evaluation/pascal_voc_evaluation.py",
            "detectron2/evaluation/sem_seg_evaluation.py",
            "detectron2/structures/masks.py",
            "detectron2/utils/video_visualizer.py",
            "detectron2/utils/visualizer.py",
        ),
        old=r"\bnp\.(bool|float|int|str)\b",
        new=r"\1",
        why="NumPy 1.24 removed its aliases of Python's own types",
    ),
    FixUp(
        name="pillow-linear",
        files=("detectron2/data/transforms/transform.py",),
        old=r"\bImage\.LINEAR\b",
        new="Image.BILINEAR",
        why="Pillow 10 removed the old name of the same filter",
    ),
    FixUp(
        name="no-pkg-resources",
        files=("detectron2/model_zoo/model_zoo.py",),
        old=r"^import pkg_resources\n",
        new="",
        why="setuptools 82 removed pkg_resources",
    ),
    FixUp(
        name="config-path",
        files=("detectron2/model_zoo/model_zoo.py",),
        old=r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", '
        r'os\.path\.join\("configs", config_path\)\s*\)',
        new='os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        why="the use of pkg_resources; the configs lie beside the module",
    ),
    FixUp(
        name="group-norm-probe",
        files=("detectron2/modeling/meta_arch/retinanet.py",),
        old=r"\bget_norm\(norm, 1\)",
        new="get_norm(norm, 32)",
        why="PyTorch 1.11 refuses the 32 groups of GN on the one channel of this throw-away layer",
    ),
    FixUp(
        name="no-caffe2",
        files=("detectron2/export/__init__.py",),
        old=r"^from \.api import \*\n",
        new="",
        why="PyTorch 2 has no caffe2; TorchScript export and the FLOP counter do not need it",
    ),
    FixUp(
        name="official-coco-eval",
        files=("detectron2/evaluation/coco_evaluation.py",),
        old=r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        new="COCOeval_opt = COCOeval  # the fast one, with the same results, is C++",
        why="COCOEvaluator takes the C++ evaluator unless told otherwise",
    ),
    FixUp(
        name="rotated-nms",
        files=("detectron2/layers/nms.py",),
        old=r"^    return torch\.ops\.detectron2\.nms_rotated\(",
        new="    from detectron2 import _C\n\n    return _C.nms_rotated(",
        why="torch.ops would only say that the operator is unknown; _C says what to do",
    ),
)


def apply_fixups(modules: dict[str, bytes], fixups: tuple[FixUp, ...] = FIXUPS) -> dict[str, bytes]:
    """Return ``modules`` (path in the wheel -> source) with all fix-ups made, in their order.

    A changed module ends with a comment that names its fix-ups, as its licence asks.

    Raises:
        FixUpError: a fix-up matches nothing in one of its files.
    """
    fixed = dict(modules)
    names_by_file: dict[str, list[str]] = {}
    for fixup in fixups:
        pattern = re.compile(fixup.old, flags=re.MULTILINE)
        for file in fixup.files:
            source, count = pattern.subn(fixup.new, fixed.get(file, b"").decode())
            if count == 0:
                raise FixUpError(
                    f"fix-up '{fixup.name}' found nothing to change in {file}: it was written for "
                    f"{fixup.old!r}. Adapt or delete it in tools/detectron2_wheel/fixups.py"
                )
            fixed[file] = source.encode()
            names_by_file.setdefault(file, []).append(fixup.name)
    for file, names in names_by_file.items():
        notice = f"\n# Changed from detectron2 v0.6 for current libraries: {', '.join(names)}\n"
        fixed[file] += notice.encode()
    return fixed
