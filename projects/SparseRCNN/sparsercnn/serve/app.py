"""The server: guard, REST call and page as one application."""

import contextlib
import logging
import os
import socket
import tempfile

import gradio
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..errors import ConfigError
from .api import make_router
from .guard import Guard
from .page import build_page, page_options

__all__ = ["create_app", "private_folder", "serve"]

_LOOPBACK = ("127.0.0.1", "localhost")


@contextlib.contextmanager
def private_folder():
    """A folder for uploaded and drawn files, in place of the one that Gradio's users share.

    Yields:
        str: the folder, which is deleted when the block ends.
    """
    with tempfile.TemporaryDirectory(prefix="sparsercnn-web-") as folder:
        folder = os.path.realpath(folder)
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield folder
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def create_app(models, folder, host="127.0.0.1"):
    """The page at ``/`` and the REST call at ``/api``.

    Args:
        models (Models): these.
        folder (str): from :func:`private_folder`.
        host (str): that it will be served on. On 127.0.0.1, requests under other names are refused,
            so that no web page can reach it by a name of its own.

    Returns:
        FastAPI: the application.
    """
    # FastAPI's own documentation loads scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(make_router(models))
    if host in _LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_LOOPBACK])
    app.add_middleware(Guard, folder=folder, limits=models.limits)
    page = build_page(models, folder)
    gradio.mount_gradio_app(app, page, path="/", **page_options(models.limits))
    # Gradio checks the paths in requests only for a page that it has launched itself.
    page.has_launched = page.is_running = True
    return app


def serve(models, host="127.0.0.1", port=7860):
    """Serve until the process is interrupted.

    Args:
        models (Models): these.
        host (str): address to listen on.
        port (int): 0 for any that is free.

    Raises:
        ConfigError: the address cannot be used.
    """
    with private_folder() as folder, _listen(host, port) as listener:
        app = create_app(models, folder, host)
        address = f"http://{host}:{listener.getsockname()[1]}"
        logging.getLogger(__name__).info(f"The page is at {address}. Ctrl-C stops it.")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host, port):
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"The address {host}, port {port}, cannot be used: {error}. Choose another one with "
            "--host or --port."
        ) from error
