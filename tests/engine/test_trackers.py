"""TRACKERS: each gets every value once, a resumed run goes on, failures do not end a training."""

import csv
import json
import logging
import sys
import types

import pytest
from detectron2.utils.events import EventStorage, JSONWriter

from sparsercnn.cli import train
from sparsercnn.engine.setup import load_config
from sparsercnn.engine.trackers import build_trackers, require_trackers
from sparsercnn.errors import ConfigError
from sparsercnn.extras import MissingExtraError


def config(folder, *names):
    opts = ["TRACKERS", repr(names), "OUTPUT_DIR", str(folder)]
    return load_config("quickstart/sparsercnn", opts, register=False)


def train_a_little(writers, iterations):
    """Put and write two iterations of a loss, and of the last an evaluation."""
    with EventStorage(iterations[0]) as storage:
        for iteration in iterations:
            storage.iter = iteration
            storage.put_scalar("loss", 1.0 / (1 + iteration), smoothing_hint=False)
            if iteration == iterations[-1]:
                storage.put_scalar("bbox/AP-(größe)", 7.0, smoothing_hint=False)
            for writer in writers:
                writer.write()
    for writer in writers:
        writer.close()


def read(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_csv_has_the_rows_of_metrics_json(tmp_path):
    json_writer = JSONWriter(str(tmp_path / "metrics.json"))
    train_a_little([json_writer, *build_trackers(config(tmp_path, "csv"))], [0, 1, 2])
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    expected = [{k: str(v) for k, v in json.loads(line).items()} for line in lines]
    found = [{k: v for k, v in row.items() if v} for row in read(tmp_path)]
    assert found == expected
    assert list(found[-1]) == ["iteration", "bbox/AP-(größe)", "loss"] or len(found[-1]) == 3


def test_iterations_that_are_written_together_have_a_row_each(tmp_path):
    writers = [JSONWriter(str(tmp_path / "metrics.json"))]
    writers += build_trackers(config(tmp_path, "csv"))
    with EventStorage(3) as storage:
        storage.put_scalar("loss", 1.0)
        storage.iter = 4
        storage.put_scalar("bbox/AP", 2.0)
        for writer in writers:
            writer.write()
    assert read(tmp_path) == [
        {"iteration": "3", "loss": "1.0", "bbox/AP": ""},
        {"iteration": "4", "loss": "", "bbox/AP": "2.0"},
    ]


def test_a_resumed_csv_has_no_row_twice(tmp_path):
    rows = [{"iteration": i, "loss": float(i)} for i in range(3)]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, rows[:2])) + "\n")
    (tmp_path / "metrics.csv").write_text("iteration,loss\r\n0,0.0\r\n1,1.0\r\n2,2.0\r\n3,")
    (writer,) = build_trackers(config(tmp_path, "csv"), resumed=True)
    assert [row["iteration"] for row in read(tmp_path)] == ["0", "1"]
    writer._last_write = 1
    train_a_little([JSONWriter(str(tmp_path / "metrics.json")), writer], [2, 3])
    assert [row["iteration"] for row in read(tmp_path)] == ["0", "1", "2", "3"]


class StandIn:
    """What is used of wandb's module, and its run."""

    def __init__(self, fails=False):
        self.fails, self.started, self.logged, self.id = fails, [], [], "abc"

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, values, step):
        if self.fails:
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self):
        self.logged.append("finished")


def test_weights_and_biases_gets_values_and_is_resumed(tmp_path, monkeypatch):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    train_a_little(build_trackers(config(tmp_path, "wandb")), [0, 1])
    assert wandb.logged == [
        (0, {"loss": 1.0}),
        (1, {"loss": 0.5, "bbox/AP-(größe)": 7.0}),
        "finished",
    ]
    (options,) = wandb.started
    assert options["id"] is None and options["name"] == tmp_path.name
    assert options["config"]["SOLVER"]["MAX_ITER"] == 1700
    build_trackers(config(tmp_path, "wandb"), resumed=True)
    assert wandb.started[-1]["id"] == "abc"
    build_trackers(config(tmp_path, "wandb"))  # a new run in the same folder
    assert wandb.started[-1]["id"] is None


def test_a_tracker_that_fails_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", StandIn(fails=True))
    with caplog.at_level(logging.WARNING):
        train_a_little(build_trackers(config(tmp_path, "wandb")), [0, 1])
    assert caplog.text.count("The tracker wandb has failed") == 1
    assert "ConnectionError: no network" in caplog.text


class Client:
    """What is used of MLflow's client."""

    calls = ()

    def __init__(self, tracking_uri):
        self.note("uri", tracking_uri)

    def note(self, *call):
        Client.calls = [*Client.calls, call]

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifact_location):
        self.note("experiment", name, artifact_location)
        return "1"

    def create_run(self, number, run_name):
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def update_run(self, run_id, status):
        self.note("again", run_id, status)

    def log_dict(self, run_id, content, name):
        self.note("config", name)

    def log_batch(self, run_id, metrics):
        self.note(*[(m.key, m.value, m.step) for m in metrics])

    def set_terminated(self, run_id):
        self.note("end", run_id)


def test_mlflow_gets_names_that_it_allows(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(Client, "calls", ())
    metric = lambda key, value, now, step: types.SimpleNamespace(key=key, value=value, step=step)  # noqa: E731
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", types.SimpleNamespace(Metric=metric))
    train_a_little(build_trackers(config(tmp_path, "mlflow")), [0, 1])
    assert Client.calls == [
        ("uri", f"sqlite:///{tmp_path}/mlflow.db"),
        ("experiment", "sparsercnn", f"file://{tmp_path}/mlartifacts"),
        ("config", "config.yaml"),
        (("loss", 1.0, 0),),
        (("loss", 0.5, 1), ("bbox/AP-_gr__e_", 7.0, 1)),
        ("end", "r1"),
    ]
    build_trackers(config(tmp_path, "mlflow"), resumed=True)
    assert ("again", "r1", "RUNNING") in Client.calls


def test_real_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_a_little(build_trackers(config(tmp_path, "wandb")), [0, 1])
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert written.stat().st_size > 500
    assert json.loads((tmp_path / "trackers.json").read_text())["wandb"] in written.name


def test_real_mlflow_in_a_file(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train_a_little(build_trackers(config(tmp_path, "mlflow")), [0, 1])
    train_a_little(build_trackers(config(tmp_path, "mlflow"), resumed=True), [2, 3])
    run_id = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    history = client.get_metric_history(run_id, "loss")
    assert [(x.step, x.value) for x in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.25)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_what_is_not_installed_or_unknown_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsercnn.extras.find_spec", lambda name: None)
    require_trackers(["tensorboard", "csv"])
    with pytest.raises(MissingExtraError, match=r"\[wandb\]"):
        require_trackers(["csv", "wandb"])
    with pytest.raises(ConfigError, match="TRACKERS is .*tensorboard, csv, wandb or mlflow"):
        config(tmp_path, "comet")


def test_a_training_writes_what_is_asked_for(squares):
    options = ["OUTPUT_DIR", str(squares / "run"), "MODEL.DEVICE", "cpu", "TRACKERS", "('csv',)"]
    command = ["--num-gpus", "0", "--config-file", str(squares / "tiny.yaml"), *options]
    assert train.main(command) == 0
    losses, evaluation = read(squares / "run")
    lines = (squares / "run/metrics.json").read_text().splitlines()
    first, last = map(json.loads, lines)
    assert float(losses["total_loss"]) == first["total_loss"]
    assert float(evaluation["bbox/AP"]) == last["bbox/AP"]
    assert not list((squares / "run").glob("events*"))
