"""What the tests of training share."""

import socket

import pytest


@pytest.fixture
def free_port():
    """A TCP port of this machine that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
