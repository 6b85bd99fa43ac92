"""Errors in loading processes end with the line that they would have in the main process."""

import json
import os
import subprocess
import sys
from itertools import islice

import pytest
from PIL import Image

from sparsercnn.data import DataError, build_test_loader, build_train_loader, register_datasets


@pytest.mark.parametrize("grouping", [False, True])
def test_a_data_error_reaches_the_main_process_as_it_is(write, content, tmp_path, grouping):
    cfg, entry = write(content)
    register_datasets([entry])
    (tmp_path / "images/2.png").write_bytes(b"no image")
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    messages = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        for loader in (build_train_loader(cfg), build_test_loader(cfg, entry)):
            with pytest.raises(DataError) as error:
                list(islice(loader, 9))
            messages.append(str(error.value))
    expected = messages[0]
    assert expected.startswith(f"Unusable image {tmp_path}/images/2.png: ")
    assert messages == [expected] * 4
    # The traceback of the process is kept for those who look for a bug.
    assert "in worker process" in str(error.value.__cause__) or "read_image" in str(
        error.value.__cause__
    )


def test_too_many_unusable_images_in_a_worker(write, content, tmp_path):
    cfg, entry = write(content)
    register_datasets([entry])
    for i in (1, 2):
        (tmp_path / f"images/{i}.png").write_bytes(b"no image")
    cfg.DATASETS.SKIP_INVALID, cfg.DATALOADER.NUM_WORKERS = True, 1
    with pytest.raises(DataError, match=r"^100 images in a row were unusable"):
        next(iter(build_train_loader(cfg)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_run_ends_with_one_line(squares, repository, workers):
    Image.new("F", (64, 64)).save(squares / "2.png", "TIFF")
    command = [sys.executable, str(repository / "projects/SparseRCNN/train_net.py")]
    command += ["--num-gpus", "0", "--config-file", "tiny.yaml"]
    command += ["DATALOADER.NUM_WORKERS", str(workers), "SOLVER.MAX_ITER", "20"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=squares)
    assert run.returncode == 2, run.stderr
    (line,) = [x for x in run.stderr.splitlines() if x.startswith("error: ")]
    assert line.startswith(f"error: Unusable image {squares}/2.png: its pixels are fractions")
    assert json.loads((squares / "squares.json").read_text())["images"][2]["file_name"] == "2.png"
