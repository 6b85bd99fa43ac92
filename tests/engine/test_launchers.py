"""Places of processes as torchrun and SLURM give them, and what is not one."""

import pytest

from sparsercnn.engine.launchers import (
    Place,
    check_machines,
    find_place,
    meeting_point,
    num_restarts,
)
from sparsercnn.errors import ConfigError

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu-[007-009,12],z",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def test_the_place_that_torchrun_gives():
    assert find_place("auto", TORCHRUN) == Place(9, 16, 1, 1, "env://")


def test_the_place_that_srun_gives():
    expected = Place(3, 4, 1, 1, "tcp://gpu-007:20219")
    assert find_place("auto", SLURM) == expected
    assert find_place("slurm", {"TORCHELASTIC_RUN_ID": "x", **SLURM}) == expected
    first = find_place("auto", {**SLURM, "SLURM_PROCID": "0", "SLURM_NODEID": "0"})
    assert first.hosts_store and first.url == expected.url
    chosen = {**SLURM, "MASTER_ADDR": "b", "MASTER_PORT": "99"}
    assert find_place("auto", chosen).url == "tcp://b:99"


@pytest.mark.parametrize(
    ("nodes", "first"), [("a", "a"), ("a,b", "a"), ("n[1,3]", "n1"), ("n[08-9]-x,m", "n08-x")]
)
def test_the_first_node_of_slurms_list(nodes, first):
    place = find_place("auto", {**SLURM, "SLURM_STEP_NODELIST": nodes})
    assert place.url == f"tcp://{first}:20219"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # in a batch script
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # a shell in a job
        {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"},
    ],
)
def test_one_process_has_no_place(environment):
    assert find_place("auto", environment) is None


def test_a_launcher_can_be_ignored():
    assert find_place("none", TORCHRUN) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TORCHRUN, "RANK": "16"}, "rank 16 .* of 16; ranks are from 0 to 15"),
        ({**TORCHRUN, "RANK": "one"}, "RANK in the environment is 'one', not a number"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "torchrun's MASTER_ADDR is missing"),
        ({**SLURM, "SLURM_PROCID": "4"}, "rank 4 .* of 4"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS .* 'many'"),
        ({**SLURM, "SLURM_STEP_NODELIST": ""}, "names no machine .* MASTER_ADDR"),
    ],
)
def test_a_place_that_cannot_be_is_an_error(environment, message):
    with pytest.raises(ConfigError, match=message):
        find_place("auto", environment)


def test_restarts_of_torchrun_and_of_slurm_are_counted():
    assert num_restarts({}) == 0
    assert num_restarts({"TORCHELASTIC_RESTART_COUNT": "0", "SLURM_RESTART_COUNT": "2"}) == 2
    assert num_restarts({"TORCHELASTIC_RESTART_COUNT": "1"}) == 1


def test_meeting_points(monkeypatch):
    assert meeting_point("tcp://127.0.0.1:80") == ("127.0.0.1", 80)
    assert meeting_point("file:///tmp/x") == "/tmp/x"
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "81")
    assert meeting_point("env://") == ("localhost", 81)


@pytest.mark.parametrize(
    "url",
    ["", "auto", "garbage", "tcp://", "tcp://a", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999",
     "tcp://no.such.host.invalid:80", "http://127.0.0.1:80", "file://", "file://x/y", "tcp://[:1"],
)  # fmt: skip
def test_what_is_no_meeting_point_is_an_error(url):
    with pytest.raises(ConfigError, match="--dist-url"):
        meeting_point(url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, "auto"), "--num-machines is 0"),
        ((2, 2, "tcp://127.0.0.1:80"), "--machine-rank is 2; .* from 0 to 1"),
        ((2, -1, "tcp://127.0.0.1:80"), "--machine-rank is -1"),
        ((2, 0, "auto"), "--dist-url auto is not a place"),
    ],
)
def test_machines_that_cannot_be_are_an_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_machines(*arguments)
    check_machines(1, 0, "auto")
