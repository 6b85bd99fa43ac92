"""Configs are found by path and by name."""

import pytest
from detectron2.modeling import build_model

import sparsercnn
from sparsercnn.config_files import config_names, find_config
from sparsercnn.engine.setup import load_config
from sparsercnn.errors import ConfigError


def test_names_are_the_files_of_the_folder_without_sweeps(repository):
    names = config_names()
    assert "sparse_rcnn/sparsercnn.res50.100pro.3x" in names
    assert not any(name.startswith("sweeps") for name in names)
    for name in names:
        assert (repository / "configs" / f"{name}.yaml").samefile(find_config(name))


def test_a_name_gives_the_config_of_the_file_and_may_be_changed(repository):
    name = "quickstart/sparsercnn.msca_adp"
    path = repository / "configs" / f"{name}.yaml"
    cfg = sparsercnn.get_config(name, ["SEED", "3"])
    assert cfg == load_config(str(path), ["SEED", "3"], register=False)
    cfg.MODEL.SparseRCNN.NUM_PROPOSALS = 7
    assert build_model(cfg).proposals.init_proposal_boxes.weight.shape == (7, 4)
    assert sparsercnn.get_config(f"{name}.yaml") == sparsercnn.get_config(path)


def test_a_file_that_exists_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "danet.yaml").write_text("VERSION: 2\nSEED: 77\n")
    assert sparsercnn.get_config("quickstart/danet.yaml").SEED == 77
    assert sparsercnn.get_config("quickstart/danet").SEED == -1


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(ConfigError, match=r"neither a file.*sparse_rcnn/sparsercnn\.res50\.100pro"):
        sparsercnn.get_config("sparsercnn.res50.100pro")
    with pytest.raises(ConfigError, match="neither a file nor the name of a config"):
        sparsercnn.get_config("?")
