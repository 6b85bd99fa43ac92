"""The REST call: an image in, the demo's json out."""

import asyncio
import math

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from ..errors import ConfigError, UserError
from .limits import BusyError
from .uploads import Upload
from .view import Choice, choose, entries

__all__ = ["make_router"]


def make_router(models):
    """The routes ``GET /api/models`` and ``POST /api/predict``; see docs/web.md.

    Args:
        models (Models): these.

    Returns:
        APIRouter: to be included in an application.
    """
    router = APIRouter(prefix="/api")

    @router.get("/models")
    def list_models():
        return [
            {"name": x, "classes": models.class_names(x), "stages": models.num_stages(x)}
            for x in models.names
        ]

    @router.post("/predict")
    async def predict(request: Request):
        try:
            with models.slot():
                return JSONResponse(await _predict(models, request))
        except BusyError as error:
            return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "1"})
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)

    return router


async def _predict(models, request):
    query = request.query_params
    unknown = [key for key in query if key not in ("model", "threshold", "file_name")]
    if unknown:
        raise ConfigError(f"There is no '{unknown[0]}'; use model, threshold and file_name.")
    name = query.get("model", models.names[0])
    choice = Choice(_score(query.get("threshold", "0.5")))
    try:
        content = await asyncio.wait_for(request.body(), models.limits.upload_seconds)
    except asyncio.TimeoutError as error:
        raise UserError("The image was sent too slowly.") from error
    if not content:
        raise UserError("There is no image: send the file as the body of the request.")
    upload = Upload(content, query.get("file_name"))
    stages = await run_in_threadpool(models.find, name, upload)
    return entries(choose(stages, choice), choice)


def _score(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"threshold is {text}; it must be a number from 0 to 1.")
    return value
