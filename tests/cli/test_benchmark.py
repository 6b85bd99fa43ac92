import json
from types import SimpleNamespace

import pytest

from sparsercnn.cli import benchmark
from sparsercnn.errors import ConfigError


@pytest.fixture
def asked(monkeypatch):
    """Two benchmarks, one of them short; gives the list of what was run."""
    ran = []

    def module(name, short, default):
        return SimpleNamespace(
            __doc__=f"What {name} does.",
            SHORT=short,
            add_arguments=lambda parser: parser.add_argument("--number", type=int, default=default),
            run=lambda args: ran.append((name, args.number)) or f"table of {name}",
        )

    fakes = {"quick": module("quick", True, 1), "slow": module("slow", False, 2)}
    summaries = {name: module.__doc__ for name, module in fakes.items()}
    monkeypatch.setattr(benchmark, "BENCHMARKS", summaries)
    monkeypatch.setattr(benchmark, "load_benchmark", fakes.get)
    return ran


def test_summaries_are_those_of_the_modules():
    for name, summary in benchmark.BENCHMARKS.items():
        module = benchmark.load_benchmark(name)
        assert module.__doc__.splitlines()[0] == summary and isinstance(module.SHORT, bool)


def test_without_a_subcommand_the_short_ones_run(asked, capsys):
    assert benchmark.main([]) == 0
    assert asked == [("quick", 1)]
    assert capsys.readouterr().out == "## quick\n\ntable of quick\n\n"


def test_a_subcommand_has_options_of_its_own(asked):
    assert benchmark.main(["slow", "--number", "7"]) == 0
    assert asked == [("slow", 7)]


def test_a_detector_is_measured_from_the_command_line(squares, capsys):
    config, figures = str(squares / "tiny.yaml"), squares / "figures.json"
    options = ["--variant", "one: MODEL.SparseRCNN.NUM_HEADS 1", "--rounds", "1", "--device", "cpu"]
    options += ["--mode", "inference", "--output-json", str(figures)]
    opts = ["--opts", "MODEL.SparseRCNN.NUM_PROPOSALS", "5"]
    assert benchmark.main(["detector", config, *options, *opts]) == 0
    out = capsys.readouterr().out
    assert out.startswith("## detector\n\nBatch of 1 at 64x96")
    assert "| tiny, one " in out and "### Training" not in out
    assert [x["variant"] for x in json.loads(figures.read_text())["results"]] == ["", "one"]


def test_a_variant_that_cannot_be_used_is_told_in_a_line(squares, capsys):
    config = str(squares / "tiny.yaml")
    assert benchmark.main(["detector", config, "--device", "cpu", "--variant", "x: NO.KEY 1"]) == 2
    assert "error: Override: there is no key NO.KEY" in capsys.readouterr().err


def test_an_unknown_subcommand_is_refused(asked, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["nonesuch"])
    assert "quick" in capsys.readouterr().err


def test_a_config_that_cannot_be_used_is_told_in_a_line(monkeypatch, asked, capsys):
    def refuse(args):
        raise ConfigError("x.yaml cannot be read")

    benchmark.load_benchmark("quick").run = refuse
    assert benchmark.main([]) == 2
    assert "error: x.yaml cannot be read" in capsys.readouterr().err
