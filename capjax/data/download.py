"""Bytes of an image at a URL, from a server that nobody vouches for."""

import functools
import http.client
import io
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from capjax.data.images import ImageError, looks_like_image

# A photograph is far smaller; a stranger's server may send without end.
MAX_BYTES = 64 * 2**20
MAX_REDIRECTS = 5
# For the server to take the connection, and between two pieces of what it sends.
PAUSE_SECONDS = 20
# For all of it: a piece in time, one after the other, can last for ever.
TOTAL_SECONDS = 60

_PIECE = 64 * 2**10
# Letters of what went wrong, for a message.
_SAID = 300
_REDIRECTS = (301, 302, 303, 307, 308)
# What a URL may have beside letters and digits (RFC 3986, 2.2), and the percent sign of an escape.
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


def is_url(name: str) -> bool:
    """Whether a name is to be downloaded."""
    return name.lower().startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """The bytes of an image at an http or https URL, redirected or not.

    They begin as an image file does, whatever the server calls them.

    Raises:
      ImageError: the URL leads elsewhere than http(s), or in circles; there is no answer in time,
        an error status, no image, or more than `MAX_BYTES`. The message names the URL.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    try:
        with _follow(url, deadline) as response:
            return _read_image(response)
    except ImageError as error:
        why = str(error)
    except TimeoutError:
        why = (
            f"cannot be downloaded: no whole answer in time ({PAUSE_SECONDS} seconds for each "
            f"piece, {TOTAL_SECONDS} for all)"
        )
    except urllib.error.HTTPError as error:
        why = f"cannot be downloaded: the server answers {error.code} {error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = f"cannot be downloaded: {getattr(error, 'reason', None) or error}"
    # Words of the server may be in it.
    raise ImageError(f"{url}: {' '.join(why.split())[:_SAID]}")


def _follow(url: str, deadline: float) -> http.client.HTTPResponse:
    """The answer at the end of a URL's redirects."""
    opener = urllib.request.build_opener(_Stay, _Http(deadline), _Https(deadline))
    for _ in range(MAX_REDIRECTS + 1):
        if not is_url(url):
            raise ImageError(f"leads to {url}, which is neither http nor https")
        request = urllib.request.Request(
            urllib.parse.quote(url, safe=_URL_CHARACTERS), headers={"User-Agent": "capjax"}
        )
        try:
            return opener.open(request, timeout=PAUSE_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                place = error.headers.get("Location")
                if error.code not in _REDIRECTS or not place:
                    raise
            # http.client reads headers as Latin-1, whatever bytes they were.
            place = urllib.parse.quote(place, safe=_URL_CHARACTERS, encoding="iso-8859-1")
            url = urllib.parse.urljoin(url, place)
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):  # Told as one that comes later.
                raise error.reason from error
            raise
    raise ImageError(f"more than {MAX_REDIRECTS} redirects")


def _read_image(response: http.client.HTTPResponse) -> bytes:
    """The body, in pieces, given up as soon as it is no image or too long."""
    if encoding := response.headers.get("Content-Encoding"):
        raise ImageError(f"sent as {encoding}, which was not asked for")
    content = bytearray(_read_piece(response))
    if not content:
        raise ImageError("no bytes were sent")
    while len(content) < 16 and (piece := _read_piece(response)):
        content += piece
    if not looks_like_image(content):
        kind = response.headers.get_content_type()
        page = kind in ("text/html", "application/xhtml+xml") or _is_page(content)
        raise ImageError(
            "is a web page, not an image: give the address of the picture itself"
            if page
            else f"is {kind}, not an image"
        )
    while piece := _read_piece(response):
        content += piece
        if len(content) > MAX_BYTES:
            raise ImageError(f"more than {MAX_BYTES >> 20} MiB")
    if response.length:
        raise ImageError(f"the connection ended {response.length} bytes early")
    return bytes(content)


def _read_piece(response: http.client.HTTPResponse) -> bytes:
    # `read` would wait for all that the server announced, as long as anything comes.
    return response.read1(_PIECE)


def _is_page(content: bytes) -> bool:
    return content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


class _Stay(urllib.request.HTTPRedirectHandler):
    """Hands redirects back: urllib's own way would follow some to ftp."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Timed:
    """Opens connections whose answers have a deadline, in seconds of the monotonic clock."""

    def __init__(self, deadline: float):
        super().__init__()
        self._deadline = deadline

    def do_open(self, http_class: type, req: urllib.request.Request, **options: Any) -> Any:
        return super().do_open(
            functools.partial(_connection, http_class, self._deadline), req, **options
        )


class _Http(_Timed, urllib.request.HTTPHandler):
    pass


class _Https(_Timed, urllib.request.HTTPSHandler):
    pass


def _connection(
    http_class: type, deadline: float, host: str, **options: Any
) -> http.client.HTTPConnection:
    connection = http_class(host, **options)
    connection.response_class = functools.partial(_Response, deadline)
    return connection


class _Response(http.client.HTTPResponse):
    """An answer of which status, headers and body come before a deadline."""

    def __init__(self, deadline: float, sock: socket.socket, *arguments: Any, **options: Any):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Timely(self.fp.detach(), sock, deadline))


class _Timely(io.RawIOBase):
    """What comes over a socket before a deadline: the socket's own limit is for each piece."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket, deadline: float):
        self._stream, self._sock, self._deadline = stream, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(PAUSE_SECONDS, left))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()
