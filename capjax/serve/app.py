"""The endpoints: captions as JSON, the models, health and the page."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capjax.data.images import ImageError
from capjax.evaluate import caption_view
from capjax.evaluate.lines import caption_row, json_line, printable
from capjax.files.errors import ReportedError
from capjax.serve import page
from capjax.serve.batching import Batcher, BusyError
from capjax.serve.requests import RETRY, Asked, Body, Held, Limits, RequestError, read_request
from capjax.serve.served import Seen, Served, SettingsError, is_own

_log = logging.getLogger("capjax.serve")
T = TypeVar("T")

_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class App:
    """The endpoints of models."""

    def __init__(
        self,
        models: Sequence[Served],
        batcher: Batcher,
        limits: Limits,
        *,
        num_threads: int,
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        """Builds them.

        Args:
          models: the models; the first is the default.
          batcher: captions images.
          limits: of requests.
          num_threads: threads that decode images.
          is_stopping: True once no more requests are taken.
        """
        self._models = {served.name: served for served in models}
        self._batcher, self._limits, self._is_stopping = batcher, limits, is_stopping
        self._readers = ThreadPoolExecutor(num_threads)
        self._bodies = Held(limits.held, "as many bytes as it can")
        self._lanes = {own: Held(limits.queue, "as many images as it can") for own in (True, False)}

    def asgi(self) -> ASGIApp:
        """The application for a server."""
        routes = [
            Route("/health", self._health),
            Route("/models", self._describe),
            Route("/caption", self._caption, methods=["POST"]),
            *(Route(address, _file(path)) for address, path in page.FILES.items()),
        ]
        errors = {HTTPException: _http_error, RequestError: _request_error, Exception: _fault}
        return _Logged(Starlette(routes=routes, exception_handlers=errors))

    async def _health(self, request: Request) -> Response:
        if self._is_stopping():
            return _json({"status": "stopping"}, 503, RETRY)
        return _json({"status": "ok"})

    async def _describe(self, request: Request) -> Response:
        models = [
            {
                "name": served.name,
                "about": served.about,
                "decoding": served.defaults(),
                "settings": served.settings(),
                "attention": served.attends,
                "parameters": served.parameters,
            }
            for served in self._models.values()
        ]
        return _json({"models": models, "limits": self._limits.described()})

    async def _caption(self, request: Request) -> Response:
        if self._is_stopping():
            raise RequestError(503, "the server is stopping", RETRY)
        body = Body(request, self._limits, self._bodies)
        step = "read"
        try:
            async with asyncio.timeout(self._limits.seconds):
                asked = await read_request(request, body, self._limits)
                step = "answered"
                request.scope["note"] = f"{len(asked.images)} images"
                return await _while_there(request, self._answer(asked))
        except TimeoutError as error:
            status = 408 if step == "read" else 504
            message = f"the request was not {step} within {self._limits.seconds:g} s"
            raise RequestError(status, message, RETRY if status == 504 else None) from error
        except BusyError as error:
            raise RequestError(503, str(error), RETRY) from error
        except ClientDisconnect:
            return Response(status_code=499)  # Nobody reads it.
        finally:
            self._bodies.give(body.taken)

    async def _answer(self, asked: Asked) -> Response:
        served = self._served(asked.model)
        if asked.attention and not served.attends:
            raise RequestError(400, f"{served.name} has no attention to show")
        try:
            # In a thread: a prompt is tokenized, and a search is built.
            method = await asyncio.to_thread(served.method, asked.settings)
        except SettingsError as error:
            raise RequestError(400, str(error)) from error
        lane, count = self._lanes[is_own(served, method)], len(asked.images)
        lane.take(count)
        try:
            rows = await self._rows(served, method, asked)
        finally:
            lane.give(count)
        answer = {"model": served.name, "decoding": served.described(method), "results": rows}
        if all("error" in row for row in rows):
            return _json({"error": rows[0]["error"], **answer}, 422)
        return _json(answer)

    def _served(self, name: str) -> Served:
        if name and name not in self._models:
            there = ", ".join(self._models)
            raise RequestError(400, f"there is no model {name!r:.80}; there are {there}")
        return self._models[name or next(iter(self._models))]

    async def _rows(self, served: Served, method: Any, asked: Asked) -> list[dict[str, Any]]:
        """A row for each image, with its caption or its error."""
        loop = asyncio.get_running_loop()
        reading = [
            loop.run_in_executor(self._readers, served.read, content, printable(name))
            for name, content in asked.images
        ]
        read: list[tuple[Any, Seen] | BaseException] = await _all(reading)
        for error in read:
            if isinstance(error, BaseException) and not isinstance(error, ImageError):
                raise error
        whole = [place for place, one in enumerate(read) if not isinstance(one, BaseException)]
        pixels = [(read[place][0], place) for place in whole]  # type: ignore[index]
        # For nothing no program is made, which could take another one's place.
        coming = self._batcher.submit(served, method, asked.attention, pixels) if pixels else []
        captions = dict(zip(whole, await _all(map(asyncio.wrap_future, coming)), strict=True))
        rows = []
        for place, (name, _) in enumerate(asked.images):
            found = captions.get(place, read[place])
            row: dict[str, Any] = {"image": name}
            if isinstance(found, ReportedError):
                row["error"] = str(found)
            elif isinstance(found, BaseException):
                raise found
            else:
                row |= _row(found, asked.attention)
                row["seen"] = read[place][1]  # type: ignore[index]
            rows.append(row)
        return rows


def _row(caption: Any, attention: bool) -> dict[str, Any]:
    row = caption_row(caption)
    row["tokens"] = caption.tokens
    for other, alternative in zip(row.get("alternatives", ()), caption.alternatives, strict=True):
        other["tokens"] = alternative.tokens
    if attention:
        row["pieces"] = caption_view.pieces(caption.text, caption.words)
        row["attention"] = caption_view.encode_maps(caption)
    return row


async def _all(coming: Any) -> list[Any]:
    """The results or exceptions of futures, all of which are cancelled with this."""
    return await asyncio.gather(*coming, return_exceptions=True)


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """Awaits work; raises ClientDisconnect, and cancels it, once the client is gone."""

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        leaving.cancel()


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_line(value), status, headers, media_type="application/json")


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return FileResponse(path)

    return answer


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    request.scope["note"] = str(error)
    return _json({"error": str(error)}, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    _log.error("%s", error, exc_info=error)
    return _json({"error": "the server has a fault, which its log tells"}, 500)


class _Logged:
    """Logs a line for each request, and adds headers to each answer."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(name.lower().encode(), text.encode()) for name, text in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            _log.info(
                "%s %s %s %d %.3f s %s",
                (scope.get("client") or ("-",))[0],
                scope["method"],
                printable(scope["path"])[:80],
                status,
                time.monotonic() - began,
                printable(scope.get("note", ""))[:200],
            )
