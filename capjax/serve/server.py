"""The server: its socket, the time that a connection has, and its end."""

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from capjax.files.errors import ReportedError
from capjax.parallel.signals import end_at_signals
from capjax.serve.app import App
from capjax.serve.batching import Batcher
from capjax.serve.requests import Limits
from capjax.serve.served import Served

_log = logging.getLogger("capjax.serve")
_KEEP_ALIVE = 5  # Seconds that a connection stays open without a request.
# Seconds after its limit until a request's connection is cut, whatever it does.
_GRACE = 5


class ServerError(ReportedError):
    """The server can't start; the message says why."""


class Server(uvicorn.Server):
    """Ends with status 0 at the first SIGTERM or Ctrl-C, once what it took is answered.

    A second signal ends the process at once.
    """

    def __init__(
        self,
        models: Sequence[Served],
        batcher: Batcher,
        limits: Limits,
        *,
        num_threads: int,
    ):
        """Builds the server; `Server.run([listening(host, port)])` runs it.

        Args:
          models: see `App`.
          batcher: see `App`.
          limits: of requests and connections.
          num_threads: see `App`.
        """
        # Of each malformed request; its client is told.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        self._names = ", ".join(served.name for served in models)
        app = App(
            models,
            batcher,
            limits,
            num_threads=num_threads,
            is_stopping=lambda: self.should_exit,
        )
        super().__init__(
            uvicorn.Config(
                app.asgi(),
                http=_protocol(limits.seconds + _GRACE),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                # Uvicorn counts the connection that asks.
                limit_concurrency=limits.connections + 1,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=round(limits.seconds) + _GRACE,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            _log.info("%s is ready: %s", address_of(listener), self._names)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's, which raises the signal again at its end.
        _log.info("%s: answering what was taken", signal.Signals(sig).name)
        self.should_exit = True
        end_at_signals()


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound; raises ServerError where it can't be."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServerError(f"--host {host} --port {port}: {reason}") from error
    return found


def address_of(listener: socket.socket) -> str:
    """The URL of a socket."""
    host, port, *_ = listener.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 on a connection that is cut unless it has an answer within some seconds.

    Uvicorn waits for ever for a request that has begun, and for a client that reads no answer.
    """

    class Timed(H11Protocol):
        _cut: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._cut:
                self._cut.cancel()

        def on_response_complete(self) -> None:
            self._wait()
            super().on_response_complete()

        def shutdown(self) -> None:
            # A body that is not whole was not taken, and may never be.
            if self.cycle and not self.cycle.response_complete and self.cycle.more_body:
                self.transport.abort()
            else:
                super().shutdown()

        def _wait(self) -> None:
            if self._cut:
                self._cut.cancel()
            self._cut = self.loop.call_later(seconds, self.transport.abort)

    return Timed
