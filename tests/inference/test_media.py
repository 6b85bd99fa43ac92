import os

from sparsercnn.inference.media import find_images, plan_outputs


def test_files_folders_and_globs_are_found_once(tmp_path, write_picture):
    paths = [write_picture(x) for x in ("in/b.png", "in/a.jpg", "deep/er/c.png", "odd[1].png")]
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    folder = str(tmp_path / "in")
    found, without = find_images([folder, paths[1], f"{tmp_path}/deep/**/*.png", paths[3], "none"])
    assert found == [paths[1], paths[0], paths[2], paths[3]]
    assert without == ["none"]


def test_outputs_never_overwrite_each_other_or_an_input(tmp_path):
    out = tmp_path / "out"
    inputs = [str(tmp_path / x) for x in ("l/a.png", "r/a.png", "r/a.bmp", "r/a.JPG", "out/b.png")]
    outputs = [os.path.relpath(x, out) for x in plan_outputs(inputs, str(out))]
    assert outputs == ["a.png", "a-2.png", "a-3.png", "a.JPG", "b-2.png"]
