"""A sweep's file and its folders are not trusted: nothing of them reaches a shell, and what they
ask for is bounded."""

import itertools
import re

import pytest
import yaml

pytest.importorskip("submitit")

from sparsercnn.cli import sweep as program
from sparsercnn.errors import SweepError
from sparsercnn.files import write_json
from sparsercnn.sweep import load_sweep
from sparsercnn.sweep.launch import _slurm_options, dry_run
from sparsercnn.sweep.results import format_status
from sparsercnn.sweep.run_folder import RESULT, configs_then_and_now, read_record

VARIANTS = {"a": {}, "b": {"SOLVER.MAX_ITER": 5}}


@pytest.fixture
def write(tmp_path, repository):
    base = str(repository / "configs" / "quickstart" / "Base-R18.yaml")

    def write(name="sweep.yaml", text=None, **content):
        content = {"base": base, "output": str(tmp_path / "out"), **content}
        if not {"axes", "variants"} & content.keys():
            content["variants"] = VARIANTS
        path = tmp_path / name
        dumped = yaml.safe_dump(content, sort_keys=False)
        path.write_text(dumped if text is None else f"base: {base}\n{text}")
        return path

    return write


def refused(path, **resources):
    with pytest.raises(SweepError) as error:
        load_sweep(path, **resources)
    message = str(error.value)
    assert str(path) in message and "\n" not in message.replace(str(path), "")
    return message


# What is no name of a partition, and would be a line of the script, or a word of its shell.
INJECTIONS = [
    "x\ntouch CANARY",
    "x\n#SBATCH --wrap=touch CANARY",
    "x\r\ntouch CANARY",
    "x\u2028touch",
    "x\n",
    "x y",
    "$(touch CANARY)",
    "`touch CANARY`",
    "x;touch",
    "x&touch",
    "x|y",
    "x'y",
    'x"y',
    "x\\y",
    "../x",
    "--wrap=x y",
    "gpü",
    "",
]


@pytest.mark.parametrize("key", ["partition", "account", "constraint"])
@pytest.mark.parametrize("name", INJECTIONS, ids=repr)
def test_nothing_reaches_the_shell_of_slurm(write, key, name):
    allowed = f"{key} is .*; it must be of letters, digits and _-.,:=\\[\\] only"
    assert re.search(allowed, refused(write(resources={"cluster": "slurm", key: name})))


def test_the_command_line_is_checked_as_the_file_is(write):
    message = refused(write(), cluster="slurm", partition="x\ntouch CANARY")
    assert "partition is 'x\\ntouch CANARY'; it must be" in message


def test_names_of_slurm_are_right(write):
    names = {"partition": "gpu_a100-80,gpu", "account": "A.B:c=1", "constraint": "[rack1,rack2]"}
    sweep = load_sweep(write(resources={"cluster": "slurm", **names}))
    assert names.items() <= _slurm_options(sweep).items()


@pytest.mark.parametrize("name", ["a\ntouch CANARY\n.yaml", "a\u2028b.yaml"])
def test_the_path_of_the_file_is_no_line_of_the_script(write, name):
    assert "control characters; rename it" in refused(write(name))


def test_a_job_is_named_as_a_folder(write):
    sweep = load_sweep(write("a $(touch b).yaml", resources={"cluster": "slurm"}))
    assert _slurm_options(sweep)["job_name"] == "a_touch_b_"


def test_the_output_is_no_line_of_the_script(write):
    assert "control characters" in refused(write(output="/tmp/x\ntouch CANARY"))


def big_axes(levels, axes):
    keys = ["SOLVER.MAX_ITER", "SEED_", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"]
    return {
        f"{key}{i}": list(range(1, levels + 1))
        for i, key in zip(range(axes), itertools.cycle(keys))
    }


@pytest.mark.parametrize(
    "content,expected",
    [
        ({"axes": big_axes(317, 2)}, "the axes cross to 100,489 variants; a sweep has at most 1,0"),
        ({"axes": big_axes(10, 40)}, "variants; a sweep has at most 1,000"),
        ({"axes": big_axes(2000, 1)}, "the axes cross to 2,000 variants"),
        ({"variants": {f"v{i}": {} for i in range(1001)}}, "1,001 variants"),
        ({"seeds": list(range(1001))}, "there are 1,001 seeds; at most 1,000 may be"),
        (
            {"seeds": list(range(900)), "variants": {f"v{i}": {} for i in range(12)}},
            "12 variants with 900 seeds are 10,800 runs",
        ),
        ({"seeds": [2**40]}, "SEED is 1099511627776; it must be"),
        (
            {"variants": {"a": {"SOLVER.BASE_LR": float("nan")}}},
            "variant 'a': Override: SOLVER.BASE_LR",
        ),
        ({"title": "${title}"}, "title"),
        ({"metric": "${oops"}, "metric"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_a_sweep_asks_for_is_bounded(write, content, expected):
    assert expected in refused(write(**content))


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{y}: &{y} [{', '.join([f'*{x}'] * 10)}]\n" for x, y in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    "text,expected",
    [
        (ALIASES, "over 100,000 parts"),
        ("variants: &a {a: *a}", "contains itself"),
        ("variants: {a: {}}\nvariants: {b: {}}", "the key 'variants' is there twice"),
        ("variants: {a: " + "[" * 10**5, "nested too deeply"),
        ("variants: {a: !!python/object/apply:os.system ['true']}", "Python tag"),
        ("seeds: [" + "9" * 5000 + "]", "more than 100 digits"),
        ("seeds: [1e400]", "seeds"),
        ("#" * 2_000_000, "larger than 1 MB"),
        ("resources: 5\nvariants: {a: {}}", "resources"),
        ("resources: {hours: .nan}\nvariants: {a: {}}", "hours is nan"),
        ("resources: {memory_gb: .nan}\nvariants: {a: {}}", "memory_gb is nan"),
        ("resources: {memory_gb: .inf}\nvariants: {a: {}}", "memory_gb is inf"),
        ("resources: {cpus: 100000000000}\nvariants: {a: {}}", "cpus is 100000000000"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_file_is_refused(write, text, expected):
    assert expected in refused(write(text=text))


TORN = [b"", b"{", b'{"metrics": {"bbox/AP": 1', b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 10**5]
TORN += [b'{"metrics": []}', b'{"metrics": {"bbox/AP": "x"}}', b'{"metrics": {}, "iteration": "x"}']
TORN += [b'{"metrics": {"bbox/AP": ' + b"9" * 5000 + b"}}"]


@pytest.mark.parametrize("content", TORN, ids=lambda x: str(x)[:30])
def test_a_torn_result_is_named(write, content, capsys):
    path = write()
    run = load_sweep(path).runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / RESULT).write_bytes(content)
    with pytest.raises(SweepError, match=f"{run.folder / RESULT} is damaged. Delete it"):
        read_record(run.folder / RESULT, metrics=dict)
    assert program.main(["status", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {run.folder / RESULT} is damaged")


def test_a_torn_config_is_named(write):
    run = load_sweep(write()).runs[0]
    run.folder.mkdir(parents=True)
    for content, expected in (("- 1", "is damaged"), ("a: [", "invalid YAML")):
        (run.folder / "sweep_config.yaml").write_text(content)
        with pytest.raises(ValueError, match=f"{run.folder}.*{expected}"):
            configs_then_and_now(run)


def test_torn_metrics_count_as_far_as_they_are_whole(write):
    sweep = load_sweep(write(variants={"a": {"SOLVER.MAX_ITER": 9}}))
    run = sweep.runs[0]
    run.folder.mkdir(parents=True)
    rows = [b'{"iteration": 3, "time": 1.0, "loss": "x"}', b"\xff", b'{"iteration": "x"}', b"[1]"]
    rows += [b'{"iteration": 4, "time": "soon"}', b'{"iteration": 1e999}', b"[" * 10**5, b'{"iter']
    (run.folder / "metrics.json").write_bytes(b"\n".join(rows))
    write_json(run.folder / RESULT, {"metrics": {"bbox/AP": 1.0}})
    assert "5/9" in format_status(sweep) or "1.00" in format_status(sweep)


def test_a_dry_run_has_no_line_of_its_own(write, capsys):
    sweep = load_sweep(write(resources={"cluster": "slurm", "partition": "gpu"}, variants=VARIANTS))
    assert all(line.startswith(("#", "/")) for line in dry_run(sweep).splitlines())
