"""The same small data set in every format."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 40, 20
CLASSES = ["cat", "dog"]
# Image -> objects: class, and corners in pixels from the image's corner.
OBJECTS = {
    "a.png": [("dog", (2, 1, 12, 9)), ("cat", (20, 5, 36, 15))],
    "b.png": [("cat", (0, 0, 40, 20))],
    "c.png": [("dog", (10, 10, 20, 20))],
    "d.png": [],
}
SPLITS = {"train": ["a.png", "b.png"], "val": ["c.png", "d.png"]}


@pytest.fixture(autouse=True)
def _cache_in_tmp_path(tmp_path, monkeypatch):
    """Nothing is written into the user's data sets or cache."""
    (tmp_path / "data_sets").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data_sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    logging.getLogger("sparsercnn").setLevel(logging.NOTSET)


def save_images(folder, names=OBJECTS):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def content_of(split):
    """In COCO's format, as it is expected of every reader."""
    found = {}
    for name in SPLITS[split]:
        boxes = ((label, (x0, y0, x1 - x0, y1 - y0)) for label, (x0, y0, x1, y1) in OBJECTS[name])
        found[name] = sorted(boxes)
    return found


@pytest.fixture
def simplify():
    def simplify(content):
        """{base name of the image: [(class, box)]} of a file in COCO's format."""
        names = {x["id"]: x["name"] for x in content["categories"]}
        images = {x["id"]: x["file_name"].rpartition("/")[2] for x in content["images"]}
        assert all((x["width"], x["height"]) == (WIDTH, HEIGHT) for x in content["images"])
        found = {name: [] for name in images.values()}
        for x in content["annotations"]:
            found[images[x["image_id"]]].append((names[x["category_id"]], tuple(x["bbox"])))
        return {name: sorted(objects) for name, objects in found.items()}

    return simplify


@pytest.fixture
def expected():
    return content_of


def write_coco(root):
    for split, names in SPLITS.items():
        save_images(root / split, names)
        images, annotations = [], []
        for i, name in enumerate(names, start=5):
            images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for label, (x0, y0, x1, y1) in OBJECTS[name]:
                box = [x0, y0, x1 - x0, y1 - y0]
                number = len(annotations) + 1
                category = {"cat": 3, "dog": 7}[label]
                annotations.append(
                    {"id": number, "image_id": i, "category_id": category, "bbox": box}
                )
        categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _xml(name):
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, (x0, y0, x1, y1) in OBJECTS[name]
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation>{size}{objects}</annotation>"


def write_voc(root):
    save_images(root / "JPEGImages")
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in OBJECTS:
        (root / "Annotations" / name.replace("png", "xml")).write_text(_xml(name))
    for split, names in SPLITS.items():
        lines = "\n".join(name[:-4] for name in names)
        (root / "ImageSets/Main" / f"{split}.txt").write_text(lines)


def write_voc_files(root):
    """XML files beside their images, in a folder for each split."""
    for split, names in SPLITS.items():
        save_images(root / split, names)
        for name in names:
            (root / split / name.replace("png", "xml")).write_text(_xml(name))


def _yolo_lines(name):
    lines = ""
    for label, (x0, y0, x1, y1) in OBJECTS[name]:
        x, y, w, h = (x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, x1 - x0, y1 - y0
        lines += f"{CLASSES.index(label)} {x:.6f} {y:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
    return lines


def write_yolo(root):
    for split, names in SPLITS.items():
        save_images(root / "images" / split, names)
        (root / "labels" / split).mkdir(parents=True)
        for name in names:
            path = root / "labels" / split / name.replace("png", "txt")
            path.write_text(_yolo_lines(name))
    text = "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"
    (root / "data.yaml").write_text(text)


def write_yolo_files(root):
    """Label files beside their images, and a list of classes."""
    for split, names in SPLITS.items():
        save_images(root / split, names)
        for name in names:
            (root / split / name.replace("png", "txt")).write_text(_yolo_lines(name))
    (root / "classes.txt").write_text("cat\ndog\n")


def write_labelme(root):
    for split, names in SPLITS.items():
        save_images(root / split, names)
        for name in names:
            shapes = []
            for label, (x0, y0, x1, y1) in OBJECTS[name]:
                # Any two opposite corners; or all four, as a polygon.
                if label == "cat":
                    shape = {"shape_type": "rectangle", "points": [[x1, y0], [x0, y1]]}
                else:
                    points = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
                    shape = {"shape_type": "polygon", "points": points}
                shapes.append({"label": label, **shape})
            content = {"imagePath": name, "imageWidth": WIDTH, "imageHeight": HEIGHT}
            path = root / split / name.replace("png", "json")
            path.write_text(json.dumps({**content, "imageData": None, "shapes": shapes}))


def write_csv(root):
    save_images(root / "images")
    for split, names in SPLITS.items():
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for name in names:
            for label, box in OBJECTS[name]:
                lines.append(f"{name},{WIDTH},{HEIGHT},{label},{','.join(map(str, box))}")
            if not OBJECTS[name]:
                lines.append(f"{name},{WIDTH},{HEIGHT},,,,,")
        (root / f"{split}.csv").write_text("\n".join(lines))


def write_csv_without_names(root):
    """PATH,X1,Y1,X2,Y2,CLASS."""
    save_images(root / "images")
    for split, names in SPLITS.items():
        lines = []
        for name in names:
            for label, box in OBJECTS[name]:
                lines.append(f"images/{name},{','.join(map(str, box))},{label}")
            if not OBJECTS[name]:
                lines.append(f"images/{name},,,,,")
        (root / f"{split}.csv").write_text("\n".join(lines))


WRITERS = {
    "coco": write_coco,
    "voc": write_voc,
    "voc files": write_voc_files,
    "yolo": write_yolo,
    "yolo files": write_yolo_files,
    "labelme": write_labelme,
    "csv": write_csv,
    "csv without names": write_csv_without_names,
}


@pytest.fixture(params=WRITERS)
def data(request, tmp_path):
    """The name of a format, and a folder of data in it."""
    root = tmp_path / "data"
    root.mkdir()
    WRITERS[request.param](root)
    return request.param, root


@pytest.fixture
def write_data(tmp_path):
    def write(name, folder="data"):
        root = tmp_path / folder
        root.mkdir()
        WRITERS[name](root)
        return root

    return write
