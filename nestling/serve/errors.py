"""Errors, in the format of the OpenAI API."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nestling.core.error import UserError

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refused(Exception):
    """A request that is refused: an HTTP status, and one line that says what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        wait: int | None = None,  # seconds until a retry makes sense
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers: dict[str, str] = {}
        if wait is not None:
            self.headers["Retry-After"] = str(wait)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def response(self) -> JSONResponse:
        """The answer to the client."""
        return JSONResponse(
            error_body(self.status, self.message, self.code, self.param),
            self.status,
            self.headers,
        )


def error_body(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """An error object."""
    usual = "server_error" if status >= 500 else "invalid_request_error"
    kind = KINDS.get(status, usual)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def handle_errors(app: FastAPI) -> None:
    """Turn every error of an app into an error object that repeats nothing of the input."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return error.response()

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(400, " ".join(str(error).split())), 400)

    @app.exception_handler(UnicodeEncodeError)
    async def halved(request: Request, error: Exception) -> JSONResponse:
        # JSON can hold lone surrogates, which neither files nor tokenizers accept
        return JSONResponse(error_body(400, "the text is not UTF-8; send it in UTF-8"), 400)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        if first["type"] == "json_invalid" or not place:
            message = "the body must be a JSON object, sent with Content-Type: application/json"
            return JSONResponse(error_body(422, message), 422)
        return JSONResponse(error_body(422, f"{place}: {first['msg']}", param=place), 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse(
            error_body(error.status_code, str(error.detail)), error.status_code, error.headers
        )
