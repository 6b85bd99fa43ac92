"""Texts of pictures are drawn as they are."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sparsercnn.analysis.charts import to_picture


def draw(name, other):
    """Pixels of a figure with `name` wherever names are, and the width of `other` in it."""
    figure = Figure((5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([1, 2], label=name)
    axes.set_xticks([0, 1], [name, name])
    axes.set_title(name)
    axes.legend()
    figure.suptitle(name)
    text = axes.text(0.2, 1.5, other)
    picture = to_picture(figure, "names.png", "")
    return np.array(Image.open(io.BytesIO(picture.png))), text.get_window_extent().width


def test_names_with_dollars_are_no_formulas():
    _, width = draw("$a^$", "$b$")  # matplotlib would complain of the first
    assert width > 2 * draw("a", "b")[1]
    assert matplotlib.rcParams["text.parse_math"]  # as a user has it


def test_labels_that_are_made_while_drawing_are_no_formulas():
    figure = Figure()
    axes = figure.add_subplot()
    axes.barh(range(3), [1, 2, 3])
    axes.set_xlim(0, 40)
    axes.xaxis.set_major_formatter(lambda x, _: "$x^$")
    to_picture(figure, "labels.png", "")


@pytest.mark.parametrize("most", [3, 40_000])
def test_numbers_on_a_logarithmic_axis_are_plain(most):
    import pandas as pd

    from sparsercnn.report import figures

    table = pd.DataFrame({"low": [0.0, 0.5], "high": [0.5, 1.0], "precision": [0.2, 0.7]})
    table = table.assign(score=[0.3, 0.8], detections=[1, most])
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "to_picture", lambda figure, *_, **__: seen.append(figure))
        figures.calibration_figure(table)
    to_picture(seen[0], "calibration.png", "")
    labels = [x.get_text() for x in seen[0].axes[1].get_yticklabels()]
    assert "1" in labels and not [x for x in labels if "$" in x]
    assert most == 3 or "10,000" in labels
