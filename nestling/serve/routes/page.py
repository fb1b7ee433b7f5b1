"""The web page: files of this package, nothing from other hosts."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.responses import Response

import nestling.serve

router = APIRouter(include_in_schema=False)
FOLDER = Path(nestling.serve.__file__).parent / "page"
FILES = ("page.css", "page.js", "api.js")


@router.get("/")
def page() -> Response:
    """The page."""
    return FileResponse(FOLDER / "index.html", media_type="text/html")


def _file(name: str) -> None:
    @router.get(f"/{name}")
    def file() -> Response:
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return FileResponse(FOLDER / name, media_type=kind)


for _name in FILES:
    _file(_name)
