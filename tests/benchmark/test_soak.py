"""Slopes of memory and open files, on made-up readings and on a short run."""

import argparse
import mmap

import pytest

from sparsercnn.benchmark import soak


def test_open_files_and_memory_are_seen(tmp_path):
    memory, files = soak.usage()
    kept = mmap.mmap(-1, 2**27)  # memory of its own, not some that is free from before
    kept.write(b"x" * len(kept))
    with open(tmp_path / "a", "w"), open(tmp_path / "b", "w"):
        more_memory, more_files = soak.usage()
    assert more_files - files == 2
    assert more_memory - memory > 0.9 * len(kept)


def test_slopes_leave_out_the_first_quarter():
    readings = soak.Readings(1000)
    # It takes 40 MiB at first, and then 2 KiB a step; a file stays open every 100 steps.
    readings.values = [
        (step, 2**20 * (40 if step >= 200 else step // 5) + 2048 * step, 7 + step // 100)
        for step in range(0, 1001, 10)
    ]
    steps, memory, slope, _, files, of_files, _ = readings.cells()
    assert (steps, memory, slope, files) == ("1,000", "42", "+2,000.0", "17")
    assert float(of_files) == pytest.approx(10, abs=0.5)


def test_a_short_run_gives_a_table(capsys):
    parser = argparse.ArgumentParser()
    soak.add_arguments(parser)
    table = soak.run(parser.parse_args(["--iterations", "8", "--images", "8"]))
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == [
        "training, iterations",
        "demo, images",
    ]
    assert capsys.readouterr().out == ""  # the table is all that the program prints
