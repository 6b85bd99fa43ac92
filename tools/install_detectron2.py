#!/usr/bin/env python3
"""Give this Python a detectron2: the one that it has, or version 0.6 without C++ extension.

The registry has no detectron2 under that name. A detectron2 that imports is left alone, and one
whose C++ extension was compiled for another PyTorch is reported. Where there is none, a source
archive of v0.6, pinned by its SHA-256, is downloaded by pip, which runs nothing in it; every module
of the package is compared with the SHA-256 list of the official v0.6 tag, the changes that current
libraries need (``detectron2_wheel/fixups.py``) are made, and the result is installed as the
pure-Python wheel ``detectron2 0.6``.

What the list does not cover, and the hash of the archive alone vouches for: the files below
``detectron2/model_zoo/configs``, the three projects below ``detectron2/projects``, and the licence.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from detectron2_wheel.fixups import FIXUPS, FixUp, FixUpError, apply_fixups

VERSION = "0.6"
SDIST_REQUIREMENT = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
PARTS = Path(__file__).resolve().parent / "detectron2_wheel"

# Without the cache, which may hold the build of before.
REBUILD = (
    f"{sys.executable} -m pip install --no-build-isolation --no-deps --no-cache-dir "
    "--force-reinstall 'git+https://github.com/facebookresearch/detectron2.git'"
)

# Folders of the archive -> folders of the wheel, as in the setup.py of detectron2.
PROJECTS = {
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}
CONFIGS = "detectron2/model_zoo/configs/"
UNLISTED = (CONFIGS, *PROJECTS.values())

# Those of v0.6, without what only caffe2 export (future, pydot), LazyConfig.to_py (black) and
# Python 3.6 (dataclasses) needed.
DEPENDENCIES = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.10",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)


class InstallError(RuntimeError):
    """detectron2 cannot be provided; the message says why and what to do."""


_PROBE = """
import importlib, json, os, detectron2
extension = problem = None
try:
    extension = importlib.import_module("detectron2._C")
except ImportError as error:
    problem = str(error)
recipe = getattr(extension, "RECIPE", None)
found = {
    "version": getattr(detectron2, "__version__", "unknown"),
    "path": os.path.dirname(detectron2.__file__),
    "extension": extension is not None and recipe is None,
    "recipe": recipe,
    "problem": problem,
}
print(json.dumps(found))
"""


def find_detectron2() -> dict | None:
    """Import detectron2 in a Python of its own and describe it.

    Returns:
        ``version``, ``path``, ``extension`` (whether the C++ extension loads) and ``recipe`` (what
        our own wheel was built from, otherwise None); or None if there is no detectron2.

    Raises:
        InstallError: there is one, but it, or the C++ extension that was compiled for it, does not
            import.
    """
    folder = _find_folder()
    if folder is None:
        return None
    result = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    if result.returncode != 0:
        raise InstallError(
            f"detectron2 is installed at {folder} but does not import. Repair it, or run "
            f"'pip uninstall detectron2' and then this again.\n{result.stderr.strip()}"
        )
    found = json.loads(result.stdout.splitlines()[-1])
    compiled = _find_compiled(folder)
    problem = found.pop("problem")
    if problem and compiled:
        raise InstallError(
            f"{compiled}, detectron2's C++ extension, does not load: {problem}\n"
            "It was compiled for another version of PyTorch, or of Python, than those that are "
            f"here: torch {_torch_version() or 'none'}, Python {sys.version.split()[0]}. Rebuild "
            f"it from its sources, say\n    {REBUILD}\n"
            "or, to do without it, run 'pip uninstall detectron2' and then this again."
        )
    return found


def _find_folder() -> Path | None:
    spec = find_spec("detectron2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _find_compiled(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("_C*.so"))), None)


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def check_lock(lock: Path) -> None:
    """See that installing ``lock`` leaves a C++ extension of detectron2 the torch it has.

    Raises:
        InstallError: it would be replaced by another version, with which the extension, which is
            compiled for one, would not load any more.
    """
    folder = _find_folder()
    compiled = folder and _find_compiled(folder)
    pinned = re.search(r"^torch==([^\s;]+)", lock.read_text(), re.MULTILINE)
    found = _torch_version()
    # torch 2.11.0+cu130 is a build of 2.11.0, and pip takes it for that.
    if not compiled or not pinned or found is None or found.partition("+")[0] == pinned[1]:
        return
    raise InstallError(
        f"{lock} would replace torch {found} by {pinned[1]}, and {compiled}, detectron2's C++ "
        "extension, loads with the one version of torch that it was compiled for. Nothing was "
        "changed. Choose:\n"
        "- Keep both, and install this project only:\n"
        f"    {sys.executable} -m pip install --no-build-isolation -e '.[headless]'\n"
        "- Leave them alone, and use another folder: make VENV=new_folder ...\n"
        f"- Take the torch of {lock}, and the same detectron2 compiled anew:\n"
        f"    {sys.executable} -m pip install --require-hashes -r {lock}\n"
        f"    {REBUILD}\n"
        "- Do without the extension: pip uninstall detectron2, and then this again."
    )


def download_sdist(directory: Path) -> Path:
    """Download the pinned archive into ``directory``, without running anything in it.

    ``pip download`` would run the archive's setup.py to learn its name. So pip finds the archive,
    with the index, proxies and certificates of its configuration, and only its bytes are fetched.
    :func:`read_sdist` compares their hash.

    Raises:
        InstallError: there is no such archive, or it cannot be fetched; or pip has changed.
    """
    name, _, version = SDIST_REQUIREMENT.partition("==")
    try:
        from pip._internal.commands import create_command

        # Not a public interface: the pip of requirements/build.txt has it.
        command = create_command("download")
        options, _ = command.parse_args(["--no-deps", "--no-binary=:all:"])
        with command.main_context():
            session = command.get_default_session(options)
            finder = command._build_package_finder(options, session)
            links = [x.link for x in finder.find_all_candidates(name) if str(x.version) == version]
            content = _fetch(session, links[0]) if links else None
    except (ImportError, AttributeError, TypeError) as error:
        raise InstallError(
            f"this pip has changed ({error}). Install the pinned one: {sys.executable} -m pip "
            "install --no-deps --require-hashes -r requirements/build.txt"
        ) from error
    except Exception as error:  # pip's own classes, of the network and the index
        raise InstallError(f"{SDIST_REQUIREMENT} cannot be downloaded: {error}") from error
    if content is None:
        raise InstallError(
            f"pip finds no source archive of {SDIST_REQUIREMENT}. Check its index "
            f"({sys.executable} -m pip config list), or the network."
        )
    path = directory / links[0].filename
    path.write_bytes(content)
    return path


def _fetch(session, link) -> bytes:
    if link.is_file:
        return Path(link.file_path).read_bytes()
    response = session.get(link.url_without_fragment)
    response.raise_for_status()
    return response.content


def read_sdist(path: Path, sha256: str = SDIST_SHA256) -> dict[str, bytes]:
    """Return the regular files of the archive by their path below its top folder.

    Raises:
        InstallError: the archive's SHA-256 is not ``sha256``.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InstallError(f"{path} has SHA-256 {found}, expected {sha256}: it is another archive")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [member for member in archive if member.isfile()]
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read() for member in members
        }


def select_modules(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what belongs into the wheel, by its path there: modules and model-zoo configs."""
    modules = {}
    for name, content in files.items():
        for folder, target in PROJECTS.items():
            if name.startswith(folder):
                name = target + name.removeprefix(folder)
        wanted = (".py", ".yaml") if name.startswith(CONFIGS) else (".py",)
        if name.startswith("detectron2/") and name.endswith(wanted):
            modules[name] = content
    return modules


def read_checksums(path: Path) -> dict[str, str]:
    """Read lines ``SHA-256  path`` into path -> SHA-256; ``#`` starts a comment line."""
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: digest for digest, name in lines}


def verify_modules(modules: Mapping[str, bytes], checksums: Mapping[str, str]) -> None:
    """Compare the modules with those of the official tag.

    Raises:
        InstallError: names each module that differs, is missing, or is none of the official ones.
    """
    problems = [f"{name} is missing" for name in checksums if name not in modules]
    for name, content in modules.items():
        if name.startswith(UNLISTED):
            continue
        if name not in checksums:
            problems.append(f"{name} is not part of detectron2 v{VERSION}")
        elif hashlib.sha256(content).hexdigest() != checksums[name]:
            problems.append(f"{name} differs from detectron2 v{VERSION}")
    if problems:
        raise InstallError("refusing the archive: " + "; ".join(sorted(problems)))


def recipe(sdist_sha256: str = SDIST_SHA256, fixups: tuple[FixUp, ...] = FIXUPS) -> str:
    """Return a short name for what a wheel is made from, so that an outdated one is replaced."""
    stub = (PARTS / "extension_stub.py").read_text()
    made_from = repr((sdist_sha256, fixups, stub, DEPENDENCIES))
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def build_wheel(
    sdist: Path,
    directory: Path,
    sha256: str = SDIST_SHA256,
    checksums: Mapping[str, str] | None = None,
    fixups: tuple[FixUp, ...] = FIXUPS,
) -> Path:
    """Make the pure-Python wheel from the source archive ``sdist`` in ``directory``.

    Args:
        sdist: the archive
        directory: where the wheel goes; made if need be
        sha256: what the archive must hash to
        checksums: path -> SHA-256 of the official modules; by default those of the v0.6 tag
        fixups: changes to make

    Raises:
        InstallError: the archive, or one of its modules, is not the official one.
        FixUpError: a fix-up matches nothing.
    """
    files = read_sdist(sdist, sha256)
    modules = select_modules(files)
    verify_modules(
        modules, read_checksums(PARTS / "v0.6.sha256") if checksums is None else checksums
    )
    modules = apply_fixups(modules, fixups)
    stub = (PARTS / "extension_stub.py").read_text()
    stub = stub.replace('RECIPE = "none"', f'RECIPE = "{recipe(sha256, fixups)}"')
    modules["detectron2/_C.py"] = stub.encode()
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"detectron2-{VERSION}-py3-none-any.whl"
    _write_wheel(wheel, modules, files["LICENSE"])
    return wheel


def _write_wheel(path: Path, modules: Mapping[str, bytes], licence: bytes) -> None:
    info = f"detectron2-{VERSION}.dist-info"
    requires = "".join(f"Requires-Dist: {dependency}\n" for dependency in DEPENDENCIES)
    files = dict(modules)
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: detectron2\nVersion: {VERSION}\n"
        f"Summary: detectron2 v{VERSION} without C++ extension, changed for current libraries\n"
        "Home-page: https://github.com/facebookresearch/detectron2\nAuthor: FAIR\n"
        "License: Apache 2.0\nLicense-File: LICENSE\nRequires-Python: >=3.10\n" + requires
    ).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: install_detectron2\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/top_level.txt"] = b"detectron2\n"
    files[f"{info}/licenses/LICENSE"] = licence
    record = "".join(
        f"{name},sha256={_record_digest(content)},{len(content)}\n"
        for name, content in sorted(files.items())
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    # Stored, in order and with one date: the same input gives the same bytes on every machine.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)


def _record_digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    if subprocess.run(command).returncode != 0:
        raise InstallError(f"pip failed: {' '.join(command)}")


def install_wheel(wheel: Path) -> None:
    """Install the wheel without its dependencies, in place of an older build of it."""
    _pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--wheel-dir",
        type=Path,
        metavar="DIR",
        help="leave the wheel in DIR, say for a machine without network, and install nothing",
    )
    parser.add_argument(
        "--sdist", type=Path, metavar="FILE", help="use this copy of the archive, no download"
    )
    parser.add_argument(
        "--check-lock",
        type=Path,
        metavar="FILE",
        help="install nothing; fail if FILE, a requirements file, would replace the torch that the "
        "C++ extension of a detectron2 was compiled for",
    )
    options = parser.parse_args(arguments)
    try:
        if options.check_lock:
            check_lock(options.check_lock)
            return 0
        _provide(options.wheel_dir, options.sdist)
    except (InstallError, FixUpError, OSError) as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


def _provide(wheel_dir: Path | None, sdist: Path | None) -> None:
    found = None if wheel_dir else find_detectron2()
    if found and found["recipe"] in (None, recipe()):
        extension = "with" if found["extension"] else "without"
        print(f"detectron2 {found['version']} at {found['path']}, {extension} C++ extension: kept")
        return
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(sdist or download_sdist(Path(folder)), wheel_dir or Path(folder))
        if wheel_dir:
            print(f"wrote {wheel}; install it with: python -m pip install --no-deps {wheel}")
            return
        install_wheel(wheel)
    print(f"detectron2 {VERSION} installed, without C++ extension")


if __name__ == "__main__":
    sys.exit(main())
