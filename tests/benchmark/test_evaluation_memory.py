"""The peak of an evaluation's memory, and the straight line through several."""

import argparse

from sparsercnn.benchmark import evaluation_memory


def parse(*arguments):
    parser = argparse.ArgumentParser()
    evaluation_memory.add_arguments(parser)
    return parser.parse_args(arguments)


def test_an_estimate_continues_the_measurements(monkeypatch):
    monkeypatch.setattr(evaluation_memory, "_measure", lambda n, args: (10 + n / 10) * 2**20)
    table = evaluation_memory.run(parse("--images", "100", "300", "--estimate", "10000"))
    assert "| 10,000, estimated | 1,010 |" in " ".join(table.split())


def test_more_images_take_more():
    args = parse("--processes", "1", "--detections", "100")
    few, many = (evaluation_memory._measure(n, args) for n in (20, 400))
    # A detection is a dict of python in the results and in their copy.
    assert many - few > 380 * 100 * 500
    assert many < 400 * 100 * 20_000
