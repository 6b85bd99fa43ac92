"""Mistakes on the command line of the server end it with one line."""

import socket
import sys

import pytest

from sparsercnn.cli import serve


def test_the_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [x for x in sys.modules if x.startswith("sparsercnn.serve")]:
        monkeypatch.delitem(sys.modules, name)
    assert serve.main(["--model", "a=b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: gradio") and "Install the extra 'web'" in error


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--model", "out"], "--model out must be NAME=PATH"),
        (["--model", "a=b", "--model", "a=c"], "--model names 'a' twice"),
        (["--model", "a=b", "--config-file", "c=d"], "no model of that name"),
        (["--model", "a=nowhere.pth"], "nowhere.pth"),
    ],
)
def test_wrong_models_are_named(arguments, message, capsys):
    pytest.importorskip("gradio", reason="needs the extra 'web'")
    assert serve.main([*arguments, "--opts", "MODEL.DEVICE", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize("option", ["--max-frames", "--max-megapixels", "--max-waiting"])
def test_limits_are_positive(option, capsys):
    with pytest.raises(SystemExit):
        serve.main(["--model", "a=b", option, "0"])
    assert f"argument {option}: 0 is less than 1" in capsys.readouterr().err


def test_an_address_that_is_in_use_is_named():
    pytest.importorskip("gradio", reason="needs the extra 'web'")
    from sparsercnn.errors import ConfigError
    from sparsercnn.serve.app import serve as serve_models

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1, port {port}, cannot be used"):
            serve_models(None, port=port)
    for host, port in (("no.such.host.invalid", 0), ("127.0.0.1", 70_000)):
        with pytest.raises(ConfigError, match=f"address {host}"):
            serve_models(None, host, port)
