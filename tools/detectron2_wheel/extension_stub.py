"""Stands where detectron2's C++ extension would be: this is a pure-Python build of detectron2.

Importing it works, as everything else in detectron2 does; a function of the extension raises.
"""

RECIPE = "none"  # what this build was made from, filled in by tools/install_detectron2.py


def get_compiler_version() -> str:
    """Answer detectron2's report about its environment."""
    return "none: pure-Python build without C++ extension"


def get_cuda_version() -> str:
    """Answer detectron2's report about its environment."""
    return "none: pure-Python build without C++ extension"


def has_cuda() -> bool:
    """Answer detectron2's report about its environment."""
    return False


def __getattr__(name: str):
    if name.startswith("__"):  # Python itself asks for these, with AttributeError as the "no"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(
        f"detectron2._C.{name} is part of detectron2's C++ extension, which this pure-Python build "
        "of detectron2 0.6 does not have. Rotated boxes, deformable convolution on a GPU and the "
        "fast COCO evaluator need it. To get it, run 'pip uninstall detectron2' and build "
        "detectron2 from its source with a C++ (and CUDA) compiler: pip install "
        "--no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'",
        name=f"detectron2._C.{name}",
    )
