"""Both forms give the same, and memory is measured."""

import argparse

import pytest

from sparsercnn.benchmark import position_attention
from sparsercnn.benchmark.position_attention import FORMS, _difference


@pytest.fixture
def in_this_process(monkeypatch):
    """Starting a process takes longer than the measurement."""

    monkeypatch.setattr(position_attention, "measure", position_attention._measure)


def test_forms_agree_to_1e_4(in_this_process):
    results = [position_attention.measure(form, 20, 64, "cpu") for form in FORMS]
    assert len(results[0].values) == 4  # output and three gradients
    assert 0 < _difference(results[1], results[0]) < 1e-4


def test_peaks_are_those_of_the_matrices():
    """Two of 80^4 floats forward, 156 MiB each, in a process that has no freed memory to reuse."""
    peaks = {form: position_attention.measure(form, 80, 8, "cpu").peaks for form in FORMS}
    matrix = 4 * 80**4
    assert matrix < peaks["explicit"][0] <= peaks["explicit"][1] < 6 * matrix
    assert peaks["ours"][1] < matrix / 4


def test_the_table_has_a_row_for_each_size_and_form(in_this_process):
    parser = argparse.ArgumentParser()
    position_attention.add_arguments(parser)
    args = parser.parse_args(["--sides", "4", "6", "--channels", "16", "--device", "cpu"])
    rows = [row for row in position_attention.run(args).splitlines() if row.startswith("| ")]
    assert [[cell.strip() for cell in row.split("|")[1:3]] for row in rows[1:]] == [
        [f"{side}x{side}", form] for side in (4, 6) for form in FORMS
    ]
