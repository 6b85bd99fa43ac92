"""What reaches the page and the REST call at all, and what a browser may load for the page.

Gradio serves more than this page needs: routes that fetch addresses, run functions by name or edit
the app, and requests that name files of the server. Here is what is let through; the rest is
refused before Gradio sees it.
"""

import json
import os
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

__all__ = ["Guard"]

_JSON_BYTES = 2**20
_READ = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|(static|assets|svelte)/.*|api/models"
    r"|gradio_api/(queue/data|upload_progress|startup-events|heartbeat/.*|theme\.css))/?"
)
_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"
_PREDICT = "/api/predict"
_EVENTS = tuple(f"/gradio_api/{x}" for x in ("queue/join", "run/predict", "cancel", "reset"))
_HEADERS = {
    # Nothing from other hosts, whatever the page asks for. Gradio's page has scripts and styles in
    # its text.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _RefusedError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Guard:
    """ASGI middleware."""

    def __init__(self, app, folder, limits):
        """
        Args:
            app (callable): the ASGI application behind it.
            folder (str): where uploaded and drawn files are; no others are read or served.
            limits (Limits): `image_bytes` and `video_bytes` bound the size of requests.
        """
        self.app = app
        self.folder = os.path.realpath(folder)
        self.limits = limits

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_guarded(message):
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            receive = await self._check(scope, receive)
            await self.app(scope, receive, send_guarded)
        except _RefusedError as refused:
            if started:
                raise
            response = JSONResponse({"error": str(refused)}, refused.status)
            await response(scope, receive, send_guarded)

    async def _check(self, scope, receive):
        """The `receive` for the app; raises _RefusedError."""
        if scope["type"] != "http":
            raise _RefusedError(404, "There is nothing here.")
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            if not (_READ.fullmatch(path) or self._is_ours(path)):
                raise _RefusedError(404, "There is nothing here.")
            return receive
        if method != "POST" or path not in (_UPLOAD, _PREDICT, *_EVENTS):
            raise _RefusedError(404, "There is nothing here.")
        _check_origin(Headers(scope=scope))
        if path == _UPLOAD:
            return _bounded(receive, self.limits.video_bytes + _JSON_BYTES)
        if path == _PREDICT:
            return _bounded(receive, self.limits.image_bytes)
        return await self._check_event(_bounded(receive, _JSON_BYTES))

    def _is_ours(self, path):
        return path.startswith(_FILE) and self._is_in_folder(path[len(_FILE) :])

    def _is_in_folder(self, path):
        return "\0" not in path and os.path.realpath(path).startswith(self.folder + os.sep)

    async def _check_event(self, receive):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _RefusedError(400, "The request is not complete.")
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, "The request is not JSON.") from error
        if not all(map(self._is_in_folder, _paths(content))):
            raise _RefusedError(403, "Files of the server cannot be named. Upload the file.")
        replayed = False

        async def replay():
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


def _check_origin(headers):
    """Other sites that are open in the same browser may not send requests here."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise _RefusedError(403, "Requests from other web pages are refused.")


def _bounded(receive, limit):
    size = 0

    async def bounded():
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _RefusedError(413, f"The request is too large: the limit is {limit} bytes.")
        return message

    return bounded


def _paths(content):
    """All values of "path" in nested lists and dicts, as text."""
    rest = [content]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield str(value["path"])
            rest += value.values()
        elif isinstance(value, list):
            rest += value
