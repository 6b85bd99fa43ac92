import importlib
import sys

import pytest

from sparsercnn.extras import require_extra


def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch):
    require_extra("anything", "json", "sys")
    monkeypatch.setitem(sys.modules, "json", None)  # as if it were not installed
    with pytest.raises(
        ImportError, match=r"^json, nonesuch cannot .*pip install -e '\.\[web\]'$"
    ) as error:
        require_extra("web", "json", "sys", "nonesuch")
    assert error.value.name == "json"


@pytest.mark.parametrize(
    "room,package,extra", [("serve", "gradio", "web"), ("sweep", "submitit", "sweep")]
)
def test_a_room_without_its_packages_names_the_extra(monkeypatch, room, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"sparsercnn.{room}", raising=False)
    with pytest.raises(ImportError, match=rf"{package}.*\[{extra}\]"):
        importlib.import_module(f"sparsercnn.{room}")
