"""What a report takes from the folders of runs."""

import pytest

from sparsercnn.sweep import SweepError
from sparsercnn.sweep.results import gather_results

NAN = float("nan")


def test_metrics_and_those_of_classes(make_sweep, finish):
    sweep = make_sweep(variants={"a": {}, "b": {}}, metric="segm/AP")
    finish(
        sweep,
        "a",
        [1.0],
        "segm/AP",
        **{"segm/AP50": 2.0, "segm/APs": 3.0, "segm/APl": NAN, "bbox/AP": 4.0},
        **{"segm/AP-t-shirt": 5.0, "segm/AP-cup/mug": 6.0, "sem_seg/IoU-sky": 7.0},
        **{"rpn/num_pos_anchors": 8.0, "stage0/fast_rcnn/cls_accuracy": 9.0},
    )
    results = gather_results(sweep)
    # The sweep's metric is first, what is no number is left out, and so is what no evaluator gave.
    assert results.metrics == ["segm/AP", "bbox/AP", "segm/AP50", "segm/APs"]
    assert results.class_metrics.T.to_dict("list") == {
        "segm/AP-cup/mug": ["segm/AP", "cup/mug"],
        "segm/AP-t-shirt": ["segm/AP", "t-shirt"],
        "sem_seg/IoU-sky": ["sem_seg/IoU", "sky"],
    }


def test_metrics_of_several_data_sets(make_sweep, finish):
    name = "voc:/data/a-b@test/bbox/AP"
    sweep = make_sweep(variants={"a": {}}, metric=name)
    finish(sweep, "a", [1.0], name, **{f"{name}-dog": 2.0, f"{name}50": 3.0})
    results = gather_results(sweep)
    assert results.metrics == [name, f"{name}50"]
    assert results.class_metrics.T.to_dict("list") == {f"{name}-dog": [name, "dog"]}


def test_a_run_without_a_number_is_not_finished(make_sweep, finish, fail):
    sweep = make_sweep(variants={"a": {}, "b": {}}, seeds=[1, 2])
    finish(sweep, "a", [40.0, NAN])
    fail(sweep.runs[1], "RuntimeError: no memory")
    results = gather_results(sweep)
    assert [run.name for run in results.finished["run"]] == ["a, seed 1"]
    assert results.runs["state"].tolist() == ["finished", "failed", "finished", "waiting"]
    assert results.table("bbox/AP")["a"].dropna().to_dict() == {1: 40.0}
    first = results.runs.iloc[0]
    assert (first["seconds_per_iteration"], first["host_memory_mib"]) == (0.5, 900.0)


def test_nothing_finished_is_refused(make_sweep, fail):
    sweep = make_sweep(variants={"a": {}, "b": {}})
    fail(sweep.runs[0], "no")
    with pytest.raises(SweepError, match="has a result yet.*1 waiting, 1 failed"):
        gather_results(sweep)
