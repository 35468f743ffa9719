"""Errors as answers: ``code`` and ``description`` as the STAC API says, never a stack trace."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from landpatch.catalog.cql2_sql import InvalidQuery
from landpatch.catalog.errors import LandpatchError, StorageError
from landpatch.catalog.search import SearchTimeout

_log = logging.getLogger("landpatch.api")


class NoSuchThing(LandpatchError):
    """A collection, an item or a file that is asked for is not there."""


_STATUS: tuple[tuple[type[LandpatchError], int], ...] = (
    (NoSuchThing, 404),
    (InvalidQuery, 400),
    (SearchTimeout, 503),
    (StorageError, 503),
)


def answer_errors(app: FastAPI) -> None:
    """Make every error of the application an answer."""

    def known(_: Request, error: Any) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if status >= 500:
            _log.error("%s: %s", type(error).__name__, error)
        # What is wrong with the server's own storage is not the client's business.
        text = (
            str(error) if status < 500 or isinstance(error, SearchTimeout) else "the dataset cannot be read just now"
        )
        headers = {"Retry-After": "2"} if status == 503 else None
        return JSONResponse(_body(type(error).__name__, text), status, headers)

    def invalid(_: Request, error: Any) -> JSONResponse:
        problems = [f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in error.errors()[:5]]
        return JSONResponse(_body("InvalidParameterValue", "; ".join(problems)[:1000]), 400)

    def refused(_: Request, error: Any) -> JSONResponse:
        return JSONResponse(_body(f"HTTP{error.status_code}", str(error.detail)), error.status_code, error.headers)

    def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.exception("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse(_body("InternalServerError", "something went wrong; the server's log tells what"), 500)

    app.add_exception_handler(LandpatchError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, unexpected)


def _body(code: str, description: str) -> dict[str, str]:
    return {"code": code, "description": description.encode("utf-8", "replace").decode()}
