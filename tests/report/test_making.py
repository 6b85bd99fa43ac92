"""Whole reports, from a model or a file of predictions."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from sparsercnn.cli import inspect_data, report
from sparsercnn.data import register_datasets
from sparsercnn.engine.setup import load_config
from sparsercnn.inference.thresholds import read_thresholds
from sparsercnn.report import browser, making


@pytest.fixture(scope="module")
def squares(make_squares, tmp_path_factory):
    """Four images, and predictions: found, found badly, of the other class, nothing."""
    folder = make_squares(tmp_path_factory.mktemp("squares"))
    boxes = [(0, 1, [10, 10, 30, 20]), (1, 2, [10, 10, 30, 9]), (2, 2, [10, 10, 30, 22])]
    results = [
        {"image_id": i, "category_id": k, "bbox": box, "score": 0.9 - i / 10} for i, k, box in boxes
    ]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "others.json").write_text(json.dumps(results[:1]))
    (folder / "none.json").write_text("[]")
    return folder


@pytest.fixture
def dataset(squares):
    return f"coco:{squares}/squares.json@{squares}"


def index_of(folder):
    text = (folder / "index.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const INDEX = ").rstrip(";\n"))


def links(folder):
    """All files that the pages name."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    found = re.findall(r'(?:src|href)="([^"#]+)[^"]*"', page)
    assert not [x for x in found if "://" in x]
    return found


def test_predictions_in_a_file(squares, dataset, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--dataset", dataset, "--output", str(out), "--resamples", "20"]
    file = str(squares / "results.json")
    assert report.main(["--predictions", file, *arguments, "--export", "coco", "csv"]) == 0
    assert f"Open {out}/index.html" in capsys.readouterr().out
    assert all((out / name).exists() for name in links(out))
    for picture in out.glob("figures/*.png"):
        assert picture.with_suffix(".csv").exists()
    table = pd.read_csv(out / "tables/precision.csv").set_index("class")
    # odd: image 0 is found, image 2 is not. even: image 1 has an IoU of 9 / 21, image 3 nothing.
    assert table.loc["odd", "AP50"] == pytest.approx(100 * 51 / 101, abs=1e-3)
    assert table.loc["even", "AP50"] == 0 and table.loc["all", "objects"] == 4
    images = pd.read_csv(out / "tables/images.csv")
    assert images[["right", "loc", "cls", "miss"]].to_numpy().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert read_thresholds(out / "thresholds.json") == {"odd": 0.45, "even": 0.5}
    exported = json.loads((out / "exports/coco_results.json").read_text())
    assert len(exported) == 3
    index = index_of(out)
    assert index["names"] == ["0.png", "1.png", "2.png", "3.png"]
    assert [x[1:] for x in index["kinds"] if x[0] == "miss"] == [["missed objects", [0, 0, 0, 1]]]
    assert len(list(out.glob("pictures/*.jpg"))) == len(list(out.glob("thumbnails/*.jpg"))) == 4
    # A second time, over what is there; but not over the files of others.
    (out / "boxes/99.js").touch()
    assert report.main(["--predictions", str(squares / "none.json"), *arguments]) == 0
    assert not (out / "boxes/99.js").exists()
    assert report.main(["--predictions", file, *arguments[:2], "--output", str(squares)]) == 2
    assert "holds other files" in capsys.readouterr().err


def test_two_models_are_compared(squares, dataset, tmp_path):
    out = tmp_path / "out"
    files = ["--predictions", str(squares / "results.json"), "--compare"]
    files += [str(squares / "others.json"), "--names", "first", "second <b>"]
    options = ["--dataset", dataset, "--output", str(out), "--resamples", "20"]
    assert report.main([*files, *options]) == 0
    assert all((out / name).exists() for name in links(out))
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "second &lt;b&gt;" in page and "second <b>" not in page
    assert read_thresholds(out / "thresholds_2.json")["odd"] == 0.45
    index = index_of(out)
    assert index["panels"] == ["ground truth", "first", "second <b>"]
    assert index["thresholds"] == [[0.45, 0.5], [0.45, 0.5]]
    kinds = {x[0]: x[2] for x in index["kinds"]}
    assert kinds["only-1"] == kinds["only-2"] == [0, 0, 0, 0]
    better = next(x for x in index["sorts"] if x[0] == "better")
    # Of three images nothing is found by either, which is the worst whatever else is detected.
    assert better[3] == [0, 0, 0, 0]
    images = pd.read_csv(out / "tables/images.csv")
    assert images["miss"].tolist() == [0, 0, 0, 1] and images["miss_2"].tolist() == [0, 1, 1, 1]
    # The links of each model lead to its own images.
    assert kinds["miss"] == [0, 0, 0, 1] and kinds["miss_2"] == [0, 1, 1, 1]
    meanings = {x[0]: x[1] for x in index["kinds"]}
    assert meanings["miss_2"] == "missed objects of second <b>"
    errors = page.rpartition("Errors: second")[2]
    assert '#kind=miss_2"' in errors and '#kind=miss"' not in errors


def test_classes_may_have_the_names_of_columns(squares, tmp_path):
    content = json.loads((squares / "squares.json").read_text())
    for category, name in zip(content["categories"], ("object", "background"), strict=True):
        category["name"] = name
    (tmp_path / "named.json").write_text(json.dumps(content))
    options = ["--dataset", f"coco:{tmp_path}/named.json@{squares}", "--resamples", "20"]
    options += ["--predictions", str(squares / "results.json"), "--output", str(tmp_path / "out")]
    assert report.main(options) == 0
    first = (tmp_path / "out/figures/confusion.csv").read_text().splitlines()[0]
    assert first == "object,object,background,background"


def test_data_sets_registered_in_python(squares, dataset, tmp_path, request):
    name = f"in_python_{request.node.name}"
    register_datasets([dataset])
    records = DatasetCatalog.get(dataset)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["odd", "even"], evaluator_type="coco")
    try:
        options = ["--resamples", "20", "--output", str(tmp_path / "out")]
        predictions = json.loads((squares / "results.json").read_text())
        for x in predictions:
            x["category_id"] -= 1  # as its evaluator writes them
        (tmp_path / "results.json").write_text(json.dumps(predictions))
        options += ["--predictions", str(tmp_path / "results.json"), "--dataset", name]
        assert report.main(options) == 0
        images = pd.read_csv(tmp_path / "out/tables/images.csv")
        assert images["right"].tolist() == [1, 0, 0, 0] and images["loc"].tolist() == [0, 1, 0, 0]
        assert inspect_data.main([name, "--output", str(tmp_path / "inspected")]) == 0
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def trained(squares):
    """A tiny model with random weights."""
    from detectron2.modeling import build_model

    from sparsercnn.engine.checkpoint import SafeCheckpointer

    cfg = load_config(str(squares / "tiny.yaml"), ["MODEL.DEVICE", "cpu"])
    metadata = {"thing_classes": ["odd", "even"], "config_yaml": cfg.dump()}
    metadata["thing_dataset_id_to_contiguous_id"] = {1: 0, 2: 1}
    SafeCheckpointer(build_model(cfg), str(squares), metadata=metadata).save("model")
    return str(squares / "model.pth")


def test_a_model(squares, trained, tmp_path):
    out = tmp_path / "out"
    options = ["--resamples", "20", "--opts", "MODEL.DEVICE", "cpu"]
    assert report.main([trained, "--output", str(out), *options]) == 0
    assert all((out / name).exists() for name in links(out))
    stages = pd.read_csv(out / "figures/stages.csv")
    assert stages["stage"].tolist() == [1, 2]
    whole = pd.read_csv(out / "tables/precision.csv").set_index("class")
    assert stages["AP"].iloc[-1] == pytest.approx(whole.loc["all", "AP"], abs=1e-4)
    assert len(pd.read_csv(out / "figures/proposals.csv")) == 6
    assert pd.read_csv(out / "tables/images.csv")["loss"].gt(0).all()
    assert index_of(out)["sorts"][0][0] == "loss"


def test_a_model_of_other_classes_is_told(squares, trained, truth, tmp_path):
    from sparsercnn.errors import DataError
    from sparsercnn.inference.class_names import ClassNames
    from sparsercnn.inference.loading import load
    from sparsercnn.report.inference import run_model

    data = truth([], classes=("odd", "other"))
    data.files = [str(squares / "0.png")]
    predictor = load(trained, "cpu")
    with pytest.raises(DataError, match="odd, even, are not those of few: odd, other"):
        run_model(predictor, data)
    predictor.labels = ClassNames()
    data.class_names = ["odd"]
    with pytest.raises(DataError, match="finds class 1, but few has 1 classes"):
        run_model(predictor, data)


def test_the_maps_of_dual_attention(squares, tmp_path):
    from detectron2.modeling import build_model

    from sparsercnn.engine.checkpoint import SafeCheckpointer

    opts = ["MODEL.DEVICE", "cpu", "MODEL.SparseRCNN.INTERACTION", "dual_attention"]
    opts += ["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "3"]
    model = build_model(load_config(str(squares / "tiny.yaml"), opts))
    SafeCheckpointer(model, str(tmp_path)).save("dual")
    out = tmp_path / "out"
    arguments = ["--config-file", str(squares / "tiny.yaml"), "--output", str(out)]
    arguments += ["--resamples", "1", "--opts", "MODEL.WEIGHTS", str(tmp_path / "dual.pth"), *opts]
    assert report.main(arguments) == 0
    assert [x for x in links(out) if "attention" in x] == [
        f"figures/attention_{n}.png" for n in (1, 2, 3)
    ]
    assert all((out / name).exists() for name in links(out))


def test_data_sets_are_inspected_with_a_model(squares, dataset, trained, tmp_path):
    out = tmp_path / "out"
    options = ["--opts", "MODEL.WEIGHTS", trained, "MODEL.DEVICE", "cpu"]
    assert inspect_data.main([dataset, "--output", str(out), *options]) == 0
    assert all((out / name).exists() for name in links(out))
    index = index_of(out)
    assert index["panels"] == ["labels", "model"]
    assert "unseen" in [x[0] for x in index["kinds"]]
    sizes = pd.read_csv(out / "figures/sizes.csv")
    assert sizes.groupby("what")["count"].sum().to_dict() == {"aspect": 4, "objects": 4, "size": 4}


def test_images_that_cannot_be_read_are_listed(squares, trained, tmp_path):
    shutil.copytree(squares, tmp_path / "squares")
    path = tmp_path / "squares/1.png"
    path.write_bytes(path.read_bytes()[:-40])  # its header is whole
    out, name = tmp_path / "out", f"coco:{tmp_path}/squares/squares.json@{tmp_path}/squares"
    options = ["--opts", "MODEL.WEIGHTS", trained, "MODEL.DEVICE", "cpu"]
    options += ["DATASETS.SKIP_INVALID", "True"]
    assert inspect_data.main([name, "--output", str(out), *options]) == 0
    kinds = {x[0]: x[2] for x in index_of(out)["kinds"]}
    assert kinds["unreadable"] == [0, 1, 0, 0] and kinds["unseen"][1] == 0


def test_mistakes_are_told(squares, dataset, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    file = str(squares / "results.json")
    assert report.main(["--predictions", file, *out]) == 2
    assert "name them by --dataset" in capsys.readouterr().err
    assert inspect_data.main(["nonesuch", *out]) == 2
    assert "'nonesuch' is not registered" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report.main(["run", "--predictions", file, *out])
    assert report.main(out) == 2
    assert "No config was given" in capsys.readouterr().err


def test_a_page_has_the_worst_images_alone_if_there_are_many(squares, dataset, tmp_path):
    out = tmp_path / "out"
    options = ["--dataset", dataset, "--output", str(out), "--resamples", "1", "--max-images", "2"]
    assert report.main(["--predictions", str(squares / "results.json"), *options]) == 0
    assert index_of(out)["names"] == ["1.png", "2.png"]
    page = (out / "browse.html").read_text(encoding="utf-8")
    assert "The 2 images that are first" in page and "of 4." in page


def test_files_of_a_page_stay_small(truth, tmp_path):
    """5,000 images, 100 detections of two models on each: no file of more than 5 MB."""
    number = 5000
    data = truth([], num_images=number)
    line = [([123.4, 234.5, 345.6, 456.7], 1, -1, "right")] * 7
    line += [([123.4, 234.5, 345.6, 456.7], 1, 0.1234, "right")] * 100
    page = browser.Browser(
        title="many",
        files=[f"/nowhere/{'x' * 20}{i:06}.jpg" for i in range(number)],
        sizes=data.sizes,
        class_names=[f"class {k}" for k in range(80)],
        panels=["ground truth", "model", "second"],
        tags={"right": ("#000000", "right")},
        sorts=[browser.Sort(str(n), "order", data.sizes[:, 0] / 3.0) for n in range(12)],
        kinds={str(n): ("kind", data.sizes[:, 0]) for n in range(10)},
        classes=[list(range(10))] * number,
        # Files of boxes do not depend on the number of images: two of them will do.
        boxes=lambda i: [line[:7], line[7:], line[7:]] if i < 100 else [[], [], []],
    )
    unreadable = browser.write_browser(page, tmp_path)
    assert len(unreadable) == number
    files = [x for x in tmp_path.rglob("*") if x.is_file()]
    assert len(files) >= 100 and max(x.stat().st_size for x in files) < 5_000_000


def test_a_comparison_keeps_the_images_that_differ_most(truth, tmp_path):
    data = truth([], num_images=4)
    gain = np.array([-0.9, -0.5, 0.0, 0.2])
    page = browser.Browser(
        title="two",
        files=[f"/nowhere/{i}.jpg" for i in range(4)],
        sizes=data.sizes,
        class_names=["odd", "even"],
        panels=["ground truth", "model", "second"],
        tags={},
        sorts=[browser.Sort("better", "second is better", gain)],
        kinds={},
        classes=[[]] * 4,
        boxes=lambda i: [[], [], []],
    )
    browser.write_browser(page, tmp_path, most_images=2)
    assert index_of(tmp_path)["names"] == ["0.jpg", "1.jpg"]


def test_a_second_report_leaves_nothing_of_the_first(squares, dataset, tmp_path):
    out = tmp_path / "out"
    files = ["--predictions", str(squares / "results.json")]
    options = ["--dataset", dataset, "--output", str(out), "--resamples", "1"]
    more = ["--compare", str(squares / "others.json"), "--export", "yolo"]
    assert report.main([*files, *options, *more]) == 0
    assert (out / "exports").exists() and (out / "thresholds_2.json").exists()
    assert report.main([*files, *options]) == 0
    assert not (out / "exports").exists() and not (out / "thresholds_2.json").exists()


def test_a_report_reads_what_an_earlier_one_has_written_into_its_folder(squares, dataset, tmp_path):
    out = tmp_path / "out"
    options = ["--dataset", dataset, "--output", str(out), "--resamples", "1"]
    file = squares / "results.json"
    assert report.main(["--predictions", str(file), *options, "--export", "coco"]) == 0
    exported = out / "exports/coco_results.json"
    assert report.main(["--predictions", str(exported), *options]) == 0
    assert not exported.exists()
    assert pd.read_csv(out / "tables/images.csv")["right"].sum() == 1


def files_of(folder):
    return {x: x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def test_what_fails_leaves_the_report_of_before(squares, dataset, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--dataset", dataset, "--output", str(out), "--resamples", "1"]
    assert report.main(["--predictions", str(squares / "results.json"), *options]) == 0
    before = files_of(out)
    assert report.main(["--predictions", str(squares / "gone.json"), *options]) == 2
    assert report.main(["--output", str(out), "--opts", "MODEL.NONESUCH", "1"]) == 2
    assert inspect_data.main(["nonesuch", "--output", str(out)]) == 2
    assert "holds other files" not in capsys.readouterr().err
    assert files_of(out) == before
    assert inspect_data.main([dataset, "--output", str(out)]) == 0
    assert not (out / "thresholds.json").exists()
    before = files_of(out)
    assert inspect_data.main(["nonesuch", "--output", str(out)]) == 2
    assert files_of(out) == before


@pytest.mark.parametrize("crowds", [0, 4])
def test_a_report_needs_objects(squares, trained, tmp_path, capsys, monkeypatch, crowds):
    content = json.loads((squares / "squares.json").read_text())
    content["annotations"] = [{**x, "iscrowd": 1} for x in content["annotations"][:crowds]]
    file = tmp_path / "none.json"
    file.write_text(json.dumps(content))
    entry, out = f"coco:{file}@{squares}", ["--output", str(tmp_path / "out")]
    predictions = ["--predictions", str(squares / "none.json"), "--dataset", entry]
    message = f"{entry} has no objects to compare with"
    assert report.main([*predictions, *out]) == 2
    assert message in capsys.readouterr().err
    with monkeypatch.context() as patched:  # told before the model runs
        patched.setattr(making, "run_model", None)
        options = ["--dataset", entry, "--opts", "MODEL.DEVICE", "cpu"]
        assert report.main([trained, *out, *options]) == 2
    assert message in capsys.readouterr().err
    model = ["--opts", "MODEL.WEIGHTS", trained, "MODEL.DEVICE", "cpu"]
    assert inspect_data.main([entry, *out, *model]) == 0


def test_lvis_is_refused(squares, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = json.loads((squares / "squares.json").read_text())
    for image in content["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    for category in content["categories"]:
        category["frequency"] = "f"
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps(content))
    entry, out = f"lvis:{file}@{squares}", ["--output", str(tmp_path / "out")]
    predictions = ["--predictions", str(squares / "results.json"), "--dataset", entry]
    message = f"{entry}: a detection without an object counts as wrong here, but LVIS's"
    assert report.main([*predictions, *out]) == 2
    assert message in capsys.readouterr().err
    options = ["--opts", "MODEL.WEIGHTS", trained, "MODEL.DEVICE", "cpu"]
    assert inspect_data.main([entry, *out, *options]) == 2
    assert message in capsys.readouterr().err
    assert inspect_data.main([entry, *out]) == 0
