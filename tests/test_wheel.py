"""The wheel has all that training needs, where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FEW_STEPS = ("SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is packed: a build leaves folders in it."""
    repository = Path(__file__).resolve().parents[1]
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, copy / name)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("projects", "configs"):
        shutil.copytree(repository / name, copy / name, symlinks=True, ignore=leave_out)
    return copy


def run(*command, cwd, **environment):
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(what, folder):
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run("-m", "pip", "wheel", "-q", *options, what, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def installed(wheel, tmp_path):
    """An empty folder and a function that runs Python in it, with the wheel and no checkout."""
    target, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    options = ["--no-deps", "--no-index", "--no-compile", "--target", target]
    run("-m", "pip", "install", "-q", *options, wheel, cwd=tmp_path)

    def python(*command):
        return run(*command, cwd=folder, PYTHONPATH=str(target))

    place = python("-c", "import sparsercnn; print(sparsercnn.__file__)").strip()
    assert place == str(target / "sparsercnn" / "__init__.py")
    return folder, python


def test_the_source_archive_gives_the_same_wheel(source, wheel, tmp_path):
    build = f"import setuptools.build_meta as b; print(b.build_sdist({str(tmp_path)!r}))"
    run("-c", build, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    (tmp_path / "wheel").mkdir()
    from_archive = build_wheel(archive, tmp_path / "wheel")
    names, others = (set(zipfile.ZipFile(x).namelist()) for x in (wheel, from_archive))
    assert names == others
    in_checkout = {x.relative_to(source).as_posix() for x in (source / "configs").glob("*/*.yaml")}
    assert {f"sparsercnn/{name}" for name in in_checkout} <= names
    assert {"sparsercnn/analysis/page.html.j2", "sparsercnn/py.typed"} <= names
    pages = ("browse.css", "browse.html.j2", "browse.js")
    assert {f"sparsercnn/report/{name}" for name in pages} <= names


def test_the_quickstart_is_trained_and_used_from_an_empty_folder(installed):
    folder, python = installed
    module = ("-m", "sparsercnn")
    name = ("--config-file", "quickstart/sparsercnn")
    python(*module, "train", "--num-gpus", "0", *name, *FEW_STEPS, "OUTPUT_DIR", "run")
    assert {"model_final.pth", "metrics.json"} <= set(os.listdir(folder / "run"))
    image = sorted((folder / "datasets/shapes/val").glob("*.png"))[0]
    options = ("--confidence-threshold", "0", "--opts", "MODEL.WEIGHTS", "run")
    python(*module, "predict", "--input", image, "--output", "drawn", *options)
    assert (folder / "drawn" / image.name).is_file()
    sweep = python(*module, "sweep", "run", "sweeps/bccd", "--dry-run")
    assert sweep.startswith("# 3 runs, 0 of them finished") and " -m sparsercnn train " in sweep
    text = python(
        "-c",
        "import sparsercnn\n"
        f"found = sparsercnn.load('run', 'cpu')({str(image)!r})\n"
        "print(len(found), sparsercnn.get_config('danet/danet.res50.cityscapes').INPUT.FORMAT)",
    )
    assert text.split()[-1] == "RGB" and int(text.split()[-2]) > 0


def test_the_wheel_has_a_command(wheel):
    (name,) = (x for x in zipfile.ZipFile(wheel).namelist() if x.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(name).decode()
    assert "[console_scripts]\nsparsercnn = sparsercnn.__main__:main" in text
