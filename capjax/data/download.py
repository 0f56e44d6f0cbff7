"""Downloads images from untrusted servers."""

import functools
import http.client
import io
import ipaddress
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from capjax.data.images import ImageError, looks_like_image

# Far above a photograph; an untrusted server may send without end.
MAX_BYTES = 64 * 2**20
MAX_REDIRECTS = 5
# To connect, and between two reads.
PAUSE_SECONDS = 20
# For the whole download, which `PAUSE_SECONDS` alone does not bound.
TOTAL_SECONDS = 60

_PIECE = 64 * 2**10
# Characters of a reason in a message.
_SAID = 300
_REDIRECTS = (301, 302, 303, 307, 308)
# Characters of a URL beside letters and digits (RFC 3986, 2.2), and the percent sign of escapes.
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"

# IPv6 addresses that end with an IPv4 address: compatible, mapped, and of NAT64 (RFC 6052).
_WITH_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))
# Site-local addresses, and NAT64 within a network (RFC 8215).
_LOCAL = tuple(map(ipaddress.IPv6Network, ("fec0::/10", "64:ff9b:1::/48")))


def is_url(name: str) -> bool:
    """True for an http or https URL."""
    return name.lower().startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """Downloads the bytes of an image from an http or https URL, and follows redirects.

    The first bytes are checked to be an image's; the server's content type is not used.

    Raises:
      ImageError: a redirect is not to http(s), or there are too many; the server answers too late
        or with an error; the content is not an image or exceeds `MAX_BYTES`. The message names the
        URL.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    try:
        with _follow(url, deadline) as response:
            return _read_image(response)
    except ImageError as error:
        why = str(error)
    except TimeoutError:
        why = (
            f"cannot be downloaded: no complete answer in time ({PAUSE_SECONDS} seconds for each "
            f"read, {TOTAL_SECONDS} in all)"
        )
    except urllib.error.HTTPError as error:
        why = f"cannot be downloaded: the server answers {error.code} {error.reason}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = f"cannot be downloaded: {getattr(error, 'reason', None) or error}"
    # One short line, because the reason may have text of the server.
    raise ImageError(f"{url}: {' '.join(why.split())[:_SAID]}")


def _follow(url: str, deadline: float) -> http.client.HTTPResponse:
    """Opens a URL and follows its redirects."""
    check = _Addresses().check
    opener = urllib.request.build_opener(
        _NoRedirects, _Http(deadline, check), _Https(deadline, check)
    )
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
            # http.client decodes all headers as Latin-1.
            place = urllib.parse.quote(place, safe=_URL_CHARACTERS, encoding="iso-8859-1")
            url = urllib.parse.urljoin(url, place)
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):  # Reported as a later timeout is.
                raise error.reason from error
            raise
    raise ImageError(f"more than {MAX_REDIRECTS} redirects")


def _read_image(response: http.client.HTTPResponse) -> bytes:
    """Reads the body, and stops as soon as it is not an image or too long."""
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
            "is a web page, not an image: give the address of the image itself"
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
    # `read` would wait for the announced length.
    return response.read1(_PIECE)


def _is_page(content: bytes) -> bool:
    return content.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to `_follow`, because urllib follows some to ftp."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _DeadlineHandler:
    """Opens connections with a deadline for the answer, in seconds of the monotonic clock.

    `check` is called with the address of each, unless it is a proxy's.
    """

    def __init__(self, deadline: float, check: Callable[[str], None]):
        super().__init__()
        self._deadline, self._check = deadline, check

    def do_open(self, http_class: type, req: urllib.request.Request, **options: Any) -> Any:
        check = None if req.has_proxy() else self._check
        return super().do_open(
            functools.partial(_connection, http_class, self._deadline, check), req, **options
        )


class _Http(_DeadlineHandler, urllib.request.HTTPHandler):
    pass


class _Https(_DeadlineHandler, urllib.request.HTTPSHandler):
    pass


class _Addresses:
    """Refuses redirects from the internet to this machine or its network, where secrets may lie.

    A server that is there itself may redirect there: the user named it.
    """

    def __init__(self):
        self._began_inside: bool | None = None

    def check(self, address: str) -> None:
        inside = _is_inside(address)
        if self._began_inside is None:
            self._began_inside = inside
        if inside and not self._began_inside:
            raise ImageError(
                f"is redirected to {address}, an address of this machine or its network: give that "
                "address itself if you trust it"
            )


def _is_inside(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _LOCAL):
            return True
        if any(found in network for network in _WITH_IPV4):
            found = ipaddress.IPv4Address(found.packed[-4:])
        else:
            found = found.sixtofour or found
    return found.is_multicast or not found.is_global


def _connection(
    http_class: type,
    deadline: float,
    check: Callable[[str], None] | None,
    host: str,
    **options: Any,
) -> http.client.HTTPConnection:
    connection = http_class(host, **options)
    if check:
        connect = connection.connect

        def connect_and_check() -> None:
            # By the connection: a name may have another address when it is looked up again.
            connect()
            check(connection.sock.getpeername()[0])

        connection.connect = connect_and_check
    connection.response_class = functools.partial(_Response, deadline)
    return connection


class _Response(http.client.HTTPResponse):
    """A response whose status, headers and body must arrive before a deadline."""

    def __init__(self, deadline: float, sock: socket.socket, *arguments: Any, **options: Any):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_DeadlineStream(self.fp.detach(), sock, deadline))


class _DeadlineStream(io.RawIOBase):
    """A socket's stream with a deadline; the socket's own timeout is for each read."""

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
