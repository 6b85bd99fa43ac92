import os

from sparsercnn.inference.media import plan_outputs


def test_outputs_never_overwrite_each_other_or_an_input(tmp_path):
    out = tmp_path / "out"
    inputs = [str(tmp_path / x) for x in ("l/a.png", "r/a.png", "r/a.bmp", "r/a.JPG", "out/b.png")]
    outputs = [os.path.relpath(x, out) for x in plan_outputs(inputs, str(out))]
    assert outputs == ["a.png", "a-2.png", "a-3.png", "a.JPG", "b-2.png"]
