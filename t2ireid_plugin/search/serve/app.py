"""The application of ``t2ireid serve``: one page, pictures by the number of a row, and a JSON API."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
from fastapi import Body, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as PathValue
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from t2ireid_plugin.data.images import decode_pixels, resize
from t2ireid_plugin.errors import DataError, InputError, T2IReIDError
from t2ireid_plugin.search.gallery import Embedder, Gallery
from t2ireid_plugin.search.hits import Hit
from t2ireid_plugin.search.sheet import read_person

_MAX_UPLOAD = 1 << 25  # bytes
_MAX_HEIGHT = 720  # pixels of a picture
_COOKIE = "t2ireid_token"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # nothing of a person stays in the browser after it was erased here
}

RowId = Annotated[int, Field(ge=0, lt=1 << 63)]


class SearchQuery(BaseModel):
    """What to search for, and in which rows."""

    model_config = ConfigDict(extra="forbid")
    q: Annotated[str, Field(max_length=2000)] = Field("", description="the sentence")
    like: RowId | None = Field(None, description="a row, whose picture is searched for as a photo is")
    minus: str | None = Field(None, max_length=2000, description="a sentence whose score is subtracted")
    weight: float | None = Field(None, ge=0, le=1, description="share of the identity; the rest is the clothing's")
    camera: list[str] = Field([], description="one or several")
    after: str | None = Field(None, description="this time or later, such as 2026-11-01T08:00:00Z")
    before: str | None = Field(None, description="earlier than this time")
    per: Literal["photo", "track", "file"] = Field("photo", description="the best row of each")
    min_score: float | None = Field(None, allow_inf_nan=False, description="leave out rows below this similarity")
    k: int = Field(24, ge=1, le=200, description="hits of a page")
    offset: int = Field(0, ge=0, le=10_000, description="hits of the pages before")


class Candidate(BaseModel):
    """One row, to be checked by a person; the score is a similarity."""

    id: int
    score: float
    image: str = Field(description="address of the picture")
    path: str = Field(description="of the photo or video, as in the index")
    camera: str | None
    time: datetime.datetime | None
    track: int | None
    frame: int | None
    box: tuple[float, float, float, float] | None = Field(description="left, top, right, bottom in pixels")


class Results(BaseModel):
    """A page of candidates, best first."""

    searched: int = Field(description="rows that the filter left")
    total: int = Field(description="rows of the index")
    more: bool = Field(description="there is a next page")
    hits: list[Candidate]


class About(BaseModel):
    """The index."""

    rows: int
    cameras: list[str]
    weight: float | None = Field(description="of the identity in the score; null where the model ranks by one branch")


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class ServedIndex:
    """The gallery of an index; when another index has taken the folder's place, that one.

    Args:
        where: as of `Gallery.open`.
        encoder: by default that in the index.
        root: folder of the photos if they have moved.

    Raises:
        DataError: as `Gallery.open`.
    """

    def __init__(self, where: str | Path, encoder: Embedder | None = None, root: str | Path | None = None) -> None:
        self._where, self._encoder, self._root = where, encoder, root
        self._lock = threading.Lock()
        self._gallery, self._stamp = self._open(), self._read_stamp()

    @contextlib.contextmanager
    def gallery(self) -> Iterator[Gallery]:
        """Lends the gallery to one thread at a time."""
        with self._lock:
            if (stamp := self._read_stamp()) != self._stamp:
                self._gallery.close()
                self._gallery, self._stamp = self._open(), stamp
            yield self._gallery

    def _open(self) -> Gallery:
        return Gallery.open(self._where, self._encoder, root=self._root, create=False)

    def _read_stamp(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):  # also for an index that is not in a folder
            info = os.stat(Path(self._where) / "index.json")  # written once, when an index is made
            return info.st_ino, info.st_mtime_ns
        return None


def create_app(index: ServedIndex, token: str | None = None, hosts: Sequence[str] = ("*",)) -> FastAPI:
    """The application.

    Args:
        index: to search in.
        token: must be in the page's address (``?token=``), in the cookie that it sets, or in ``Authorization: Bearer``;
            None for none.
        hosts: names by which the server may be called; "*" for all.
    """
    app = FastAPI(title="t2ireid", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    refused: dict[int | str, dict[str, Any]] = {422: {"model": Problem}}

    @app.get("/api/index")
    def about() -> About:
        """The index that is served."""
        with index.gallery() as gallery:
            weight = getattr(gallery.need_encoder(), "weight", None)
            return About(rows=len(gallery), cameras=gallery.store.cameras(), weight=weight)

    @app.get("/api/search", responses=refused)
    def search(query: Annotated[SearchQuery, Query()]) -> Results:
        """Candidates for a sentence, a picture of the index, or both."""
        with index.gallery() as gallery:
            return _search(gallery, query, None)

    @app.post("/api/search", responses=refused)
    def search_photo(
        query: Annotated[SearchQuery, Query()],
        photo: Annotated[bytes, Body(media_type="application/octet-stream")],
    ) -> Results:
        """Candidates for a photo, which is the body of the request, or a photo with a sentence."""
        with index.gallery() as gallery:
            return _search(gallery, query, photo)

    @app.get("/image/{row}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    def picture(row: Annotated[RowId, PathValue()]) -> Response:
        """The person of a row as a JPEG file, of at most 720 pixels in height and without the photo's metadata."""
        with index.gallery() as gallery:
            hit = _find(gallery, row)
        return Response(hit.crop or _jpeg(hit), media_type="image/jpeg")

    @app.exception_handler(T2IReIDError)
    def explain(_: Request, error: T2IReIDError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    def explain_values(_: Request, error: RequestValidationError) -> Response:
        lines = (f"{'.'.join(map(str, item['loc'][1:])) or 'photo'}: {item['msg']}" for item in error.errors())
        return JSONResponse({"detail": "; ".join(lines)}, 422)

    @app.middleware("http")
    async def guard(request: Request, forward: Callable[[Request], Awaitable[Response]]) -> Response:
        if token is not None and not _knows(request, token):
            response: Response = JSONResponse({"detail": "open the address with the token that was printed"}, 401)
        elif token is not None and "token" in request.query_params:  # out of the address, which may be copied
            response = RedirectResponse(f".?{request.url.remove_query_params('token').query}", 303)
            response.set_cookie(_COOKIE, token, httponly=True, samesite="lax")
        elif request.method == "POST" and not 0 < int(request.headers.get("Content-Length", 0)) <= _MAX_UPLOAD:
            response = JSONResponse({"detail": f"photo: give 1 to {_MAX_UPLOAD:,} bytes"}, 413)
        else:
            response = await forward(request)
        response.headers.update(_HEADERS)
        return response

    app.mount("/", StaticFiles(directory=Path(__file__).with_name("page"), html=True))
    # Without it a page of the web could have its own name resolved to this machine, and read the index.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


def _knows(request: Request, token: str) -> bool:
    given = [request.cookies.get(_COOKIE, ""), request.headers.get("Authorization", "").removeprefix("Bearer ")]
    if request.url.path == "/":
        given.append(request.query_params.get("token", ""))
    return any(secrets.compare_digest(value.encode(), token.encode()) for value in given)


def _search(gallery: Gallery, query: SearchQuery, photo: bytes | None) -> Results:
    image = None
    if photo is not None:
        image = decode_pixels(photo, "of this request")
    elif query.like is not None:
        image = read_person(_find(gallery, query.like))
    if not query.q.strip() and image is None:
        raise InputError("q: the sentence is empty; describe a person, or give a photo")
    options = query.model_dump(include={"weight", "after", "before", "per", "min_score"})
    options.update(image=image, minus=query.minus, camera=query.camera or None)
    end = query.offset + query.k
    hits = gallery.search(query.q.strip() or None, end + 1, **options)
    rows = [
        Candidate(image=f"image/{hit.id}", **{**hit.to_dict(), "path": gallery.stored_path(hit.path)})
        for hit in hits[query.offset : end]
    ]
    return Results(searched=hits.searched, total=hits.total, more=len(hits) > end, hits=rows)


def _find(gallery: Gallery, number: int) -> Hit:
    """A row; HTTPException 404 when there is none of this number."""
    row = gallery.store.rows([number]).get(number)
    if row is None:
        raise HTTPException(404, f"no row {number}")
    return Hit(gallery.absolute_path(row.path), 0.0, number, box=row.box, crop=row.crop)


def _jpeg(hit: Hit) -> bytes:
    try:
        pixels = read_person(hit)
    except DataError as error:
        raise HTTPException(
            404, f"the photo of row {hit.id} cannot be read; have the photos moved? (--root)"
        ) from error
    height, width = pixels.shape[:2]
    if height > _MAX_HEIGHT:
        pixels = resize(pixels, _MAX_HEIGHT, max(1, round(width * _MAX_HEIGHT / height)))
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
