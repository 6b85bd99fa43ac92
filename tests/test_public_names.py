"""Public names have type hints, for those who use the package with a type checker."""

import inspect

import pytest

import sparsercnn
from sparsercnn import Predictor

FUNCTIONS = [
    sparsercnn.load,
    sparsercnn.get_config,
    sparsercnn.add_sparsercnn_config,
    Predictor.__call__,
    Predictor.stages,
    Predictor.read,
    Predictor.predict,
    sparsercnn.SparseRCNN.forward,
    sparsercnn.SparseRCNNWithTTA.forward,
    sparsercnn.SparseRCNNDatasetMapper.__call__,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda x: x.__qualname__)
def test_all_arguments_and_results_have_types(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    without = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name != "self"
    ]
    assert not without


def test_the_names_are_those_of_the_list():
    assert set(sparsercnn.__all__) <= set(dir(sparsercnn))
    for name in sparsercnn.__all__:
        assert getattr(sparsercnn, name).__module__.startswith("sparsercnn.")
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = sparsercnn.nonesuch
