import json

from sparsercnn.engine.metrics_file import drop_rows, read_metrics


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


def test_of_the_rows_of_an_iteration_that_is_done_again_that_of_an_earlier_end_is_kept(tmp_path):
    lines = [
        {"iteration": 2, "lr": 0.1},
        {"iteration": 3, "bbox/AP": 10.0},  # after the last one of a run of three
        {"iteration": 3, "lr": 0.1, "bbox/AP": 20.0},
        {"iteration": 4, "bbox/AP": 30.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.json").write_text(text)
    assert drop_rows(tmp_path, 3, goes_on=True) == 2
    assert read_metrics(tmp_path) == [{"iteration": 2, "lr": 0.1, "bbox/AP": 10.0}]
    (tmp_path / "metrics.json").write_text(text)
    assert drop_rows(tmp_path, 3) == 2
    assert read_metrics(tmp_path) == [{"iteration": 2, "lr": 0.1}]
