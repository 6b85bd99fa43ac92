"""The notebook runs from the first to the last cell, in a folder without a trained model."""

import json

from PIL import Image


def test_the_notebook_runs(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notebook = json.loads((repository / "demo/quickstart.ipynb").read_text())
    space, shown = {}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "outputs are not committed"
        *body, last = "".join(cell["source"]).rstrip().split("\n")
        try:  # as Jupyter shows the value of the last line, if it has one
            end = compile(last, "cell", "eval")
        except SyntaxError:
            exec(compile("\n".join([*body, last]), "cell", "exec"), space)
        else:
            exec(compile("\n".join(body), "cell", "exec"), space)
            shown.append(eval(end, space))
    assert space["status"] == 0 and space["metrics"][-1]["iteration"] == 9
    loss, source, picture, stages = shown
    assert loss["total_loss"] > 0 and str(source) == space["run"]
    assert isinstance(picture, Image.Image) and stages.width == 4 * stages.height
    assert len(space["best"]) == 5 and len(space["stages"]) == 4
    assert "stage 4: best score" in capsys.readouterr().out
