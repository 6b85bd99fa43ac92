import json

from sparsercnn.engine.metrics_file import read_metrics


def test_metrics_of_an_interrupted_run(tmp_path):
    lines = [
        {"iteration": 1, "total_loss": 5.0},
        {"iteration": 3, "total_loss": 4.0},
        {"iteration": 1, "total_loss": 5.5},  # done again from a checkpoint
        {"iteration": 3, "bbox/AP": 10.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 5, "total'
    (tmp_path / "metrics.json").write_text(text)
    assert read_metrics(tmp_path) == [
        {"iteration": 1, "total_loss": 5.5},
        {"iteration": 3, "total_loss": 4.0, "bbox/AP": 10.0},
    ]


def test_before_there_are_any(tmp_path):
    assert read_metrics(tmp_path) == []
