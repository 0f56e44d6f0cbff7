"""Reads a request for captions, within limits on its bytes, images and settings."""

import dataclasses
import math
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from python_multipart.exceptions import ParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from capjax.data.images import MAX_PIXELS
from capjax.files.text import parse_json, well_formed

_PARAMETERS = ("model", "attention", "settings")
_PARTS = (
    "a request has parts named 'image', which are files, and one named 'settings', which is no file"
)
# Of a settings object, and of a file's name in answers.
_MOST_SETTINGS, _MOST_NAME = 4096, 200
_MOST_FIELDS = 4
RETRY = {"Retry-After": "1"}


class RequestError(Exception):
    """A request that is not answered with captions.

    Attributes:
      status: of HTTP.
      headers: more of them.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may take, and all together.

    Attributes:
      bytes: of a request's body.
      images: of a request.
      seconds: until a request is read and answered.
      queue: images of all requests that are read or wait, of each lane of `Batcher`.
      held: bytes of all bodies.
      connections: open ones.
    """

    bytes: int
    images: int
    seconds: float
    queue: int
    held: int
    connections: int

    def described(self) -> dict[str, Any]:
        """Those that clients should know, for JSON."""
        return {
            "bytes": self.bytes,
            "pixels": MAX_PIXELS,
            "images": self.images,
            "seconds": self.seconds,
        }


class Held:
    """A number that is held up to a limit, by tasks of one event loop."""

    def __init__(self, most: int, what: str):
        self._most, self._what, self._now = most, what, 0

    def take(self, count: int) -> None:
        """Holds more; raises RequestError 503 where that is too much."""
        if self._now + count > self._most:
            raise RequestError(503, f"the server holds {self._what}: try again", RETRY)
        self._now += count

    def give(self, count: int) -> None:
        """Holds less."""
        self._now -= count


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that was read.

    Attributes:
      images: the name and the encoded bytes of each.
      settings: of decoding, as a client gave them.
      model: its name, or "".
      attention: whether it is asked for.
    """

    images: list[tuple[str, bytes]]
    settings: dict[str, Any]
    model: str
    attention: bool


class Body:
    """The chunks of a request's body as they come, which are counted.

    Attributes:
      taken: bytes that `held` has for it, until it gives them back.
    """

    def __init__(self, request: Request, limits: Limits, held: Held):
        self.taken = 0
        self._request, self._most, self._held = request, limits.bytes, held

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields them; raises RequestError 413 for too many bytes, or 503."""
        announced = self._request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._most:
            raise self._too_large()
        async for chunk in self._request.stream():
            if self.taken + len(chunk) > self._most:
                raise self._too_large()
            self._held.take(len(chunk))
            self.taken += len(chunk)
            yield chunk

    def _too_large(self) -> RequestError:
        return RequestError(413, f"a request has {self._most} bytes at most")


class _Parser(MultiPartParser):
    # `Body` counts the bytes, and no file is written.
    spool_max_size = sys.maxsize


async def read_request(request: Request, body: Body, limits: Limits) -> Asked:
    """Reads a request.

    Raises:
      RequestError: it is malformed, or above a limit.
    """
    query = request.query_params
    if unknown := sorted(query.keys() - {*_PARAMETERS}):
        there = ", ".join(_PARAMETERS)
        raise RequestError(400, f"there is no parameter {unknown[0]!r:.80}; there are {there}")
    if query.get("attention", "0") not in ("0", "1"):
        raise RequestError(400, "attention must be 0 or 1")
    settings = [query["settings"]] if "settings" in query else []
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images, given = await _read_form(request, body, limits)
        settings += given
    else:
        content = b"".join([chunk async for chunk in body.chunks()])
        images = [("image 1", content)]
    if len(settings) > 1:
        raise RequestError(400, "settings are given twice")
    return Asked(
        images,
        _settings(settings[0]) if settings else {},
        query.get("model", ""),
        query.get("attention") == "1",
    )


async def _read_form(
    request: Request, body: Body, limits: Limits
) -> tuple[list[tuple[str, bytes]], list[str]]:
    parser = _Parser(
        request.headers,
        body.chunks(),  # type: ignore[arg-type]  # It is only iterated.
        max_files=limits.images,
        max_fields=_MOST_FIELDS,
        max_part_size=_MOST_SETTINGS,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ParseError, ValueError, LookupError) as error:
        message = getattr(error, "message", "") or "its parts can't be read"
        raise RequestError(400, f"multipart/form-data: {message}") from error
    images: list[tuple[str, bytes]] = []
    settings: list[str] = []
    try:
        for name, part in form.multi_items():
            if name == "image" and isinstance(part, UploadFile):
                content = part.file.read()
                part.file.close()  # At once: a copy of one image, not of all.
                place = f"image {len(images) + 1}"
                images.append((well_formed(part.filename or place)[:_MOST_NAME], content))
            elif name == "settings" and isinstance(part, str):
                settings.append(part)
            else:
                raise RequestError(400, f"there is a part {name!r:.80}: {_PARTS}")
    finally:
        await form.close()
    if not images:
        raise RequestError(400, f"there is no image: {_PARTS}")
    return images, settings


def _settings(text: str) -> dict[str, Any]:
    if len(text) > _MOST_SETTINGS:
        raise RequestError(400, f"settings have {_MOST_SETTINGS} characters at most")
    try:
        settings = parse_json(text)
    except ValueError as error:
        raise RequestError(400, f"settings are not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise RequestError(400, 'settings must be an object, such as {"num_beams": 3}')
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(400, f"settings: {name!r:.80} must be a finite number")
    return settings
