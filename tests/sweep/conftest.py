"""Made-up sweeps: folders as runs leave them, without training."""

import json

import pytest
import yaml

from sparsercnn.files import write_json
from sparsercnn.sweep import load_sweep
from sparsercnn.sweep.run_folder import FAILURE, RESULT


@pytest.fixture
def make_sweep(tmp_path, repository):
    def make(opts=(), **content):
        """A sweep of the quickstarts' config, with folders in tmp_path / "out"."""
        base = repository / "configs" / "quickstart" / "Base-R18.yaml"
        path = tmp_path / "sweep.yaml"
        content = {"base": str(base), "output": str(tmp_path / "out"), **content}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_sweep(path, opts)

    return make


@pytest.fixture
def finish():
    def finish(sweep, name, values, metric="bbox/AP", **more):
        """Make the first runs of a variant finished, with such values of the metric."""
        runs = [run for run in sweep.runs if run.variant.name == name]
        for run, value in zip(runs, values, strict=False):
            metrics = {metric: value, **more}
            result = {"metrics": metrics, "iteration": 60, "peak_memory_mib": 900.0}
            result |= {"hardware": "a CPU, 2 cores", "host": "here", "torch": "2.11"}
            run.folder.mkdir(parents=True)
            rows = [
                {"iteration": i, "total_loss": 60.0 / i, "loss_ce": 2.0, "time": 0.5}
                for i in (19, 39, 59)
            ]
            rows.append({"iteration": 60, **metrics})
            (run.folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
            write_json(run.folder / RESULT, {**result, "finished": "2026-01-02T03:04:05+0000"})

    return finish


@pytest.fixture
def fail():
    def fail(run, error):
        run.folder.mkdir(parents=True)
        write_json(run.folder / FAILURE, {"error": error, "exit": 1})

    return fail
