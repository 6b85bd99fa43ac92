"""The installer on a source archive of three modules: no network, no real detectron2."""

import base64
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from importlib.metadata import version
from pathlib import Path

import pytest

import install_detectron2 as installer
from detectron2_wheel.fixups import FIXUPS, FixUp, FixUpError, apply_fixups

MODULES = {
    "detectron2/__init__.py": '__version__ = "0.6"\n',
    "detectron2/old.py": "import numpy as np\n\nKIND = np.bool\n",
    "detectron2/rotated.py": "from detectron2 import _C\n\n\ndef iou():\n    return _C.box_iou()\n",
}
OTHERS = {
    "LICENSE": "the licence",
    "setup.py": "raise SystemExit('not run')",
    "detectron2/layers/csrc/vision.cpp": "// not taken",
    "detectron2/model_zoo/configs/a.yaml": "_BASE_: b",
    "projects/DeepLab/deeplab/__init__.py": "NAME = 'deeplab'\n",
}
FIXUP = FixUp("numpy", ("detectron2/old.py",), r"\bnp\.bool\b", "bool", "NumPy dropped it")


@dataclass
class Sdist:
    """A made source archive, and what its modules should hash to."""

    path: Path
    sha256: str
    checksums: dict[str, str]

    def build(self, directory, fixups=(FIXUP,)):
        return installer.build_wheel(self.path, directory, self.sha256, self.checksums, fixups)


@pytest.fixture
def make_sdist(tmp_path):
    def make(files=None):
        """Archive with the official modules; `files`, path -> text, are not in the checksums."""
        path = tmp_path / "pb1-detectron2-0.6.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, text in {**MODULES, **OTHERS, **(files or {})}.items():
                entry = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
        checksums = {
            name: hashlib.sha256(text.encode()).hexdigest() for name, text in MODULES.items()
        }
        return Sdist(path, hashlib.sha256(path.read_bytes()).hexdigest(), checksums)

    return make


def run_python(code, path):
    """Run code in a new Python without site-packages, with `path` in front of its library."""
    code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )


def test_wheel_installs_and_imports(make_sdist, tmp_path):
    wheel = make_sdist().build(tmp_path / "wheels")
    assert wheel.name == "detectron2-0.6-py3-none-any.whl"
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, target, wheel], check=True, capture_output=True, timeout=120)
    code = """
import os, sys, types
sys.modules["numpy"] = types.ModuleType("numpy")  # without np.bool, as the real one
import detectron2.old, detectron2.projects.deeplab
print(detectron2.__version__, detectron2.old.KIND.__name__, detectron2.projects.deeplab.NAME)
print(sorted(os.listdir(os.path.dirname(detectron2.__file__))))
"""
    result = run_python(code, target)
    assert result.returncode == 0, result.stderr
    versions, files = result.stdout.splitlines()
    assert versions == "0.6 bool deeplab"
    assert "layers" not in files and "_C.py" in files
    assert (target / "detectron2/model_zoo/configs/a.yaml").read_text() == "_BASE_: b"
    info = target / "detectron2-0.6.dist-info"
    assert (info / "licenses/LICENSE").read_text() == "the licence"
    metadata = (info / "METADATA").read_text()
    assert "Name: detectron2\nVersion: 0.6\n" in metadata
    assert "Requires-Dist: fvcore>=0.1.5,<0.1.6\n" in metadata
    assert "black" not in metadata and "torch" not in metadata


def test_changed_files_say_so(make_sdist, tmp_path):
    with zipfile.ZipFile(make_sdist().build(tmp_path)) as wheel:
        assert wheel.read("detectron2/old.py").decode().endswith("libraries: numpy\n")
        assert wheel.read("detectron2/__init__.py").decode() == MODULES["detectron2/__init__.py"]


def test_record_lists_every_file_with_its_digest(make_sdist, tmp_path):
    with zipfile.ZipFile(make_sdist().build(tmp_path)) as wheel:
        record = wheel.read("detectron2-0.6.dist-info/RECORD").decode()
        rows = {name: (digest, size) for name, digest, size in csv.reader(record.splitlines())}
        assert sorted(rows) == wheel.namelist()
        assert rows.pop("detectron2-0.6.dist-info/RECORD") == ("", "")
        for name, (digest, size) in rows.items():
            content = wheel.read(name)
            assert int(size) == len(content)
            algorithm, _, code = digest.partition("=")
            assert base64.urlsafe_b64decode(code + "=") == hashlib.new(algorithm, content).digest()


def test_wheel_is_deterministic(make_sdist, tmp_path):
    sdist = make_sdist()
    first, second = sdist.build(tmp_path / "a"), sdist.build(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as wheel:
        assert wheel.namelist() == sorted(wheel.namelist())
        assert {entry.date_time for entry in wheel.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    "files,message",
    [
        ({"detectron2/old.py": "import os\n"}, r"detectron2/old\.py differs"),
        ({"detectron2/extra.py": ""}, r"detectron2/extra\.py is not part of detectron2 v0\.6"),
        ({"projects/Other/other/__init__.py": ""}, None),
    ],
)
def test_foreign_module_is_refused(make_sdist, tmp_path, files, message):
    sdist = make_sdist(files=files)
    if message is None:  # outside of what goes into the wheel
        with zipfile.ZipFile(sdist.build(tmp_path / "wheels")) as wheel:
            assert not [name for name in wheel.namelist() if "other" in name]
        return
    with pytest.raises(installer.InstallError, match=message):
        sdist.build(tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists()


def test_missing_module_is_refused(make_sdist, tmp_path):
    sdist = make_sdist()
    sdist.checksums["detectron2/gone.py"] = "0" * 64
    with pytest.raises(installer.InstallError, match=r"detectron2/gone\.py is missing"):
        sdist.build(tmp_path)


def test_other_archive_is_refused(make_sdist):
    path = make_sdist().path
    with pytest.raises(installer.InstallError, match=f"expected {installer.SDIST_SHA256}"):
        installer.read_sdist(path)


def test_fixup_without_match_raises(make_sdist, tmp_path):
    stale = FixUp("stale", ("detectron2/old.py",), "no such text", "", "")
    with pytest.raises(FixUpError, match=r"'stale' found nothing to change in detectron2/old\.py"):
        make_sdist().build(tmp_path / "wheels", (FIXUP, stale))
    with pytest.raises(FixUpError, match=r"'numpy' found nothing to change in detectron2/old\.py"):
        apply_fixups({"detectron2/__init__.py": b""}, (FIXUP,))


def test_real_checksums_cover_the_fixed_files():
    checksums = installer.read_checksums(installer.PARTS / "v0.6.sha256")
    assert len(checksums) == 141 and all(len(digest) == 64 for digest in checksums.values())
    assert {file for fixup in FIXUPS for file in fixup.files} <= set(checksums)
    assert len({fixup.name for fixup in FIXUPS}) == len(FIXUPS)


def test_extension_is_missed_on_use_only(make_sdist, tmp_path):
    with zipfile.ZipFile(make_sdist().build(tmp_path / "wheels")) as wheel:
        wheel.extractall(tmp_path / "target")
    code = """
import detectron2._C as _C, detectron2.rotated
print(_C.RECIPE, _C.has_cuda(), hasattr(_C, "__wrapped__"), _C.get_compiler_version())
detectron2.rotated.iou()
"""
    result = run_python(code, tmp_path / "target")
    recipe = installer.recipe(make_sdist().sha256, (FIXUP,))
    assert result.stdout.startswith(f"{recipe} False False none: pure-Python")
    assert "ImportError: detectron2._C.box_iou is part of detectron2's C++" in result.stderr
    assert "pip uninstall detectron2" in result.stderr


@pytest.fixture
def fake_detectron2(tmp_path, monkeypatch):
    def make(init="", extension=None):
        """Put a detectron2 of one or two files in front of everything."""
        folder = tmp_path / "elsewhere" / "detectron2"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(init)
        (folder / "_C.py").write_text(extension or "raise ImportError('not compiled')")
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))
        monkeypatch.setattr(installer, "download_sdist", _unexpected)
        monkeypatch.setattr(installer, "install_wheel", _unexpected)
        monkeypatch.setattr(installer, "find_spec", _find_spec_in(folder.parent))
        return folder

    return make


def _unexpected(*arguments):
    raise AssertionError(f"must not be called: {arguments}")


def _find_spec_in(folder):
    # The detectron2 that this process has imported already would hide the one in the folder.
    return lambda name: PathFinder.find_spec(name, [str(folder)])


@pytest.mark.parametrize(
    "extension,words", [("box_iou = 1", "with C++"), (None, "without C++ extension")]
)
def test_existing_detectron2_is_kept(fake_detectron2, capsys, extension, words):
    folder = fake_detectron2('__version__ = "0.7.dev"', extension)
    assert installer.main([]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"detectron2 0.7.dev at {folder}, {words}")
    assert output.endswith("kept\n")


def test_own_wheel_is_kept_until_its_recipe_changes(fake_detectron2, monkeypatch, tmp_path):
    folder = fake_detectron2('__version__ = "0.6"', f"RECIPE = {installer.recipe()!r}")
    assert installer.find_detectron2()["extension"] is False
    assert installer.main([]) == 0
    (folder / "_C.py").write_text("RECIPE = 'an older one'")
    installed = []
    monkeypatch.setattr(installer, "build_wheel", lambda sdist, folder: folder / "new.whl")
    monkeypatch.setattr(installer, "install_wheel", installed.append)
    assert installer.main(["--sdist", str(tmp_path / "any")]) == 0
    assert [wheel.name for wheel in installed] == ["new.whl"]


def test_broken_detectron2_is_reported_and_kept(fake_detectron2, capsys):
    folder = fake_detectron2("import no_such_library")
    assert installer.main([]) == 1
    error = capsys.readouterr().err
    assert str(folder) in error and "pip uninstall detectron2" in error
    assert "No module named 'no_such_library'" in error


def test_an_extension_that_does_not_load_is_reported_and_kept(fake_detectron2, capsys):
    folder = fake_detectron2()
    compiled = folder / f"_C{EXTENSION_SUFFIXES[0]}"
    compiled.write_bytes(b"of another torch")
    assert installer.main([]) == 1
    error = capsys.readouterr().err
    assert f"{compiled}, detectron2's C++ extension, does not load: " in error
    assert "file too short" in error or "invalid ELF header" in error  # the loader's own words
    assert f"torch {version('torch')}" in error
    assert "--no-build-isolation" in error and "--force-reinstall" in error
    assert compiled.exists()


@pytest.fixture
def lock(tmp_path):
    def make(torch):
        path = tmp_path / "lock.txt"
        path.write_text(f"torch=={torch} ; python_version < '3.13' \\\n    --hash=sha256:0\n")
        return path

    return make


def test_the_torch_of_a_compiled_extension_is_not_replaced(fake_detectron2, lock, capsys):
    folder = fake_detectron2()
    found = version("torch")
    (folder / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    assert installer.main(["--check-lock", str(lock("1.0.0"))]) == 1
    error = capsys.readouterr().err
    assert f"would replace torch {found} by 1.0.0" in error and str(folder) in error
    assert "-e '.[headless]'" in error and "VENV=new_folder" in error
    assert installer.main(["--check-lock", str(lock(found.partition("+")[0]))]) == 0


def test_a_lock_replaces_torch_where_nothing_was_compiled_for_it(fake_detectron2, lock):
    fake_detectron2()
    assert installer.main(["--check-lock", str(lock("1.0.0"))]) == 0


def test_the_lock_is_checked_before_it_is_installed(repository):
    lines = (repository / "Makefile").read_text().splitlines()
    check = next(i for i, line in enumerate(lines) if "--check-lock requirements/lock.txt" in line)
    install = next(i for i, line in enumerate(lines) if "-r requirements/lock.txt" in line)
    assert check < install


def test_wheel_dir_installs_nothing(fake_detectron2, monkeypatch, make_sdist, tmp_path, capsys):
    fake_detectron2()  # does not keep the wheel from being made
    sdist = make_sdist()
    build = installer.build_wheel

    def build_made_one(path, directory):
        return build(path, directory, sdist.sha256, sdist.checksums, (FIXUP,))

    monkeypatch.setattr(installer, "build_wheel", build_made_one)
    assert installer.main(["--wheel-dir", str(tmp_path / "out"), "--sdist", str(sdist.path)]) == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == [
        "detectron2-0.6-py3-none-any.whl"
    ]
    assert "--no-deps" in capsys.readouterr().out
