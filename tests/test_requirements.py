"""What setup.py asks for, against what the code imports."""

import ast
import re
import runpy
import sys
from importlib.metadata import packages_distributions

import pytest
import setuptools

# Rooms of the package that training, evaluation, demo and conversion do without.
NOT_CORE = ("analysis", "benchmark", "export", "report", "serve", "sweep")
CORE_SCRIPTS = ("projects/SparseRCNN/train_net.py", "demo/demo.py", "tools/convert.py")
# Not of the registry, an extra because two packages provide it, and done without if need be.
NOT_LISTED = {"detectron2", "opencv", "faster-coco-eval", "safetensors", "timm"}
NOT_LISTED |= {"albumentations", "wandb", "mlflow"}
# With dozens of dependencies; tests have stand-ins for them.
NOT_LOCKED = {"wandb", "mlflow"}


@pytest.fixture
def metadata(repository, monkeypatch):
    """The arguments of setup.py."""
    found = {}
    monkeypatch.chdir(repository)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    runpy.run_path("setup.py")
    return found


def names(requirements):
    """Without versions and variants, as the registry compares them."""
    bare = (re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements)
    return {re.sub(r"^opencv-python.*", "opencv", name) for name in bare}


def distributions_imported(files):
    """What `files` import of other projects, anywhere in them."""
    modules = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module)
    top = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"sparsercnn"}
    provided = packages_distributions()
    # Python 3.10 does not find the distributions that have no top_level.txt.
    return names(provided.get(name, [name])[0] for name in top)


def test_required_is_what_the_core_imports_and_nothing_else(repository, metadata):
    package = repository / "projects/SparseRCNN/sparsercnn"
    files = [x for x in package.rglob("*.py") if x.relative_to(package).parts[0] not in NOT_CORE]
    files += [repository / name for name in CORE_SCRIPTS]
    assert distributions_imported(files) - NOT_LISTED == names(metadata["install_requires"])


def test_everything_is_in_what_the_lock_is_made_from(repository, metadata):
    lines = (repository / "requirements/requirements.in").read_text().splitlines()
    installed = names(line for line in lines if re.match(r"\w", line))
    extras = {name for group in metadata["extras_require"].values() for name in names(group)}
    # pre-commit has an environment of its own for each user.
    extras -= {"sparsercnn", "pre-commit"} | NOT_LOCKED
    assert names(metadata["install_requires"]) | extras <= installed
