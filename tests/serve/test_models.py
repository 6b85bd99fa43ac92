"""Models by name compute one image at a time, once, for a limited number of users."""

import threading

import pytest
import torch

pytest.importorskip("gradio", reason="needs the extra 'web'")

from sparsercnn import Predictor
from sparsercnn.cli import export
from sparsercnn.errors import ConfigError, ImageError
from sparsercnn.inference.class_names import choose_class_names
from sparsercnn.serve.limits import BusyError
from sparsercnn.serve.models import Models, load_models, parse_named
from sparsercnn.serve.uploads import Upload


def test_names_are_read_from_the_command_line():
    assert parse_named(["a=b", "c d=e=f"], "--model") == {"a": "b", "c d": "e=f"}
    assert list(parse_named(["z=1", "a=2"], "--model")) == ["z", "a"]


@pytest.mark.parametrize("entries", [["out"], ["=out"], ["a="], ["a=b", "a=c"], [""]])
def test_other_entries_are_named(entries):
    with pytest.raises(ConfigError, match=r"--model .*(NAME=PATH|'a' twice)"):
        parse_named(entries, "--model")


def test_a_config_needs_a_model_of_its_name(run_folders):
    with pytest.raises(ConfigError, match="config for 'four'.* the names are two, three"):
        load_models(run_folders, {"four": "a.yaml"})


@pytest.fixture
def calls(monkeypatch):
    """Stages of predictors that were asked for, one entry per call."""
    calls, stages = [], Predictor.stages

    def counted(self, *args, **options):
        calls.append(self)
        return stages(self, *args, **options)

    monkeypatch.setattr(Predictor, "stages", counted)
    return calls


def test_an_image_is_computed_once_for_each_model(load, picture, calls):
    models, content = load(), picture.read_bytes()
    first = models.find("two", Upload(content, "a.png"))
    assert models.find("two", Upload(content, "a.png")) is first
    assert len(calls) == 1
    assert [len(x) > 0 for x in first] == [True, True]
    assert len(models.find("three", Upload(content, "a.png"))) == 3
    assert len(calls) == 2
    assert models.find("two", Upload(content, "b.png"))[0].file_name == "b.png"
    assert first[0].file_name == "a.png"
    assert first[0].image is first[1].image


def test_results_are_those_of_the_predictor(load, run_folders, picture):
    from sparsercnn import load as load_predictor

    expected = load_predictor(run_folders["three"], "cpu").stages(picture)
    found = load().find("three", Upload(picture.read_bytes()))
    assert [x.boxes.tolist() for x in found] == [x.boxes.tolist() for x in expected]
    assert [x.scores.tolist() for x in found] == [x.scores.tolist() for x in expected]


def test_old_results_are_forgotten_when_they_take_too_much_memory(load, picture, calls):
    content = picture.read_bytes()
    image = 48 * 64 * 3
    models = load(kept_bytes=2 * image + 4000)
    for name in ("a", "b", "a", "c", "a", "b"):
        models.find("two", Upload(content, name))
    assert len(calls) == 4  # b was the one that nobody asked for when c came
    models = load(kept_bytes=1)
    assert models.find("two", Upload(content)) is models.find("two", Upload(content))


def test_what_models_are_is_known(load):
    models = load()
    assert models.names == ["two", "three"]
    assert [models.num_stages(x) for x in models.names] == [2, 3]
    assert models.class_names("two") == ["mug", "spoon", "plate"]
    with pytest.raises(ConfigError, match="no model 'four'. The models are: two, three"):
        models.find("four", Upload(b""))


def test_the_classes_of_a_segmentor_are_no_objects(danet_cfg):
    """Cityscapes names 8 classes of objects beside the 19 that a segmentor has."""
    description = {"thing_classes": ["car"], "stuff_classes": ["table", "mug", "spoon", "plate"]}
    labels = choose_class_names(danet_cfg, description)
    predictor = Predictor(model=torch.nn.Identity(), augmentations=[], labels=labels)
    assert Models({"danet": predictor}).class_names("danet") == description["stuff_classes"]


@pytest.mark.slow
def test_an_exported_model_is_shown_like_the_original(load, run_folders, picture, tmp_path):
    file = str(tmp_path / "two.pt2")
    options = ["--format", "torch_export", "--output", file, "--image", str(picture)]
    assert export.main([*options, "--opts", "MODEL.WEIGHTS", run_folders["two"]]) == 0
    models = load_models({"exported": file})
    assert models.num_stages("exported") == 1
    assert models.class_names("exported") == ["mug", "spoon", "plate"]
    found = models.find("exported", Upload(picture.read_bytes()))[-1].above(0.3)
    expected = load().find("two", Upload(picture.read_bytes()))[-1].above(0.3)
    assert found.names == expected.names and len(found) > 0
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    assert found.boxes == pytest.approx(expected.boxes, abs=0.01)


def test_errors_leave_nothing_behind(load, picture):
    models = load()
    for _ in range(2):
        with pytest.raises(ImageError):
            models.find("two", Upload(b"no image", "a.png"))
    assert models.find("two", Upload(picture.read_bytes(), "a.png"))


def test_users_beyond_the_limit_are_refused(load):
    models = load(waiting=2)
    with models.slot(), models.slot(), pytest.raises(BusyError, match="Try again"), models.slot():
        pass
    with models.slot(), models.slot():
        pass


def test_images_are_computed_one_at_a_time(load, picture, monkeypatch):
    models, running, most = load(), [], []
    stages = Predictor.stages

    def watched(self, *args, **options):
        running.append(1)
        most.append(len(running))
        try:
            return stages(self, *args, **options)
        finally:
            running.pop()

    monkeypatch.setattr(Predictor, "stages", watched)
    content = picture.read_bytes()
    uploads = [Upload(content, str(i)) for i in range(6)]
    threads = [threading.Thread(target=models.find, args=("two", x)) for x in uploads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
