"""What ``make`` would run."""

import re
import shutil
import subprocess

import pytest


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    "options, output",
    [
        ([], "output/quickstart"),
        (["CONFIG=configs/quickstart/danet.yaml"], "output/danet"),
        (["CONFIG=configs/quickstart/sparsercnn.msca_adp.yaml"], "output/sparsercnn.msca_adp"),
        (["CONFIG=configs/quickstart/danet.yaml", "OUTPUT=there"], "there"),
    ],
)
def test_each_quickstart_has_a_folder_of_its_own(repository, options, output):
    command = ["make", "-n", "quickstart", *options]
    text = subprocess.run(command, cwd=repository, capture_output=True, text=True).stdout
    assert re.findall(r"OUTPUT_DIR (\S+)", text) == [output]
    assert f"--output {output}/demo " in text and f"MODEL.WEIGHTS {output}/model_final.pth" in text
