from sparsercnn.image_files import find_images


def test_files_folders_and_globs_are_found_once(tmp_path):
    names = ("in/b.png", "in/a.JPG", "deep/er/c.png", "odd[1].png", "in/notes.txt")
    paths = [str(tmp_path / name) for name in names]
    for folder in ("in", "deep/er"):
        (tmp_path / folder).mkdir(parents=True)
    for path in paths:
        open(path, "w").close()
    folder = str(tmp_path / "in")
    found, without = find_images([folder, paths[1], f"{tmp_path}/deep/**/*.png", paths[3], "none"])
    assert found == [paths[1], paths[0], paths[2], paths[3]]
    assert without == ["none"]
