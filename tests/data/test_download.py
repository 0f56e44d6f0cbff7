"""Downloads from a server that does what it likes."""

import gzip
import http.server
import itertools
import socketserver
import threading

import pytest

from capjax.data import download as module
from capjax.data.download import download, is_url
from capjax.data.images import ImageError
from tests.helpers.ugly_images import PICTURE, encode

PNG = encode(PICTURE, "PNG")
LONG = PNG + bytes(50_000)


class Server(socketserver.ThreadingTCPServer):
    """Answers a path with what `answers` has for it: bytes, or a function that sends them."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers, self.asked, self.over = {}, [], threading.Event()

    def handle_error(self, *_):
        pass  # Who sends without end finds the other side gone.


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.answers[self.path]
        if callable(answer):
            answer(self.wfile.write, self.server.over)
        else:
            self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module", name="server")
def make_server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However slow the machine, limits of time are met only where a test sets them."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 1000)
    monkeypatch.setattr(module, "TOTAL_SECONDS", 1000)
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def answer(body=b"", status="200 OK", **headers):
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def get(server, content, path="/photo"):
    server.answers[path] = content
    return download(server.root + path)


def refuse(server, content, match, path="/photo"):
    with pytest.raises(ImageError, match=match) as caught:
        get(server, content, path)
    message = str(caught.value)
    assert message.startswith(f"{server.root}{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "image/png", "Content_Length": len(PNG)},
        {"Content_Type": "image/jpeg"},
        {"Content_Type": "application/octet-stream"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "text/html"},
        {"Content_Type": "binary/octet-stream; x"},
        {},
        {"Content_Length": "many"},
    ],
)
def test_what_begins_as_an_image_is_one_whatever_it_is_called(server, headers):
    assert get(server, answer(PNG, **headers)) == PNG


def test_chunks_are_joined(server):
    pieces = [PNG[:3], PNG[3:90], PNG[90:]]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    assert get(server, answer(body, Transfer_Encoding="chunked")) == PNG
    refuse(server, answer(body[:40], Transfer_Encoding="chunked"), "cannot be downloaded")
    refuse(server, answer(b"zz\r\n", Transfer_Encoding="chunked"), "cannot be downloaded")


@pytest.mark.parametrize(
    ("body", "headers", "match"),
    [
        (b"", {"Content_Type": "image/png"}, "no bytes were sent"),
        (b"<html>", {"Content_Type": "text/html"}, "is a web page, not an image"),
        (b"\n <!DOCTYPE html>", {"Content_Type": "image/png"}, "is a web page, not an image"),
        (b"{}", {"Content_Type": "application/json"}, "is application/json, not an image"),
        (b"a note", {}, "is text/plain, not an image"),
        (b"%PDF-1.4 " * 9, {"Content_Type": "image/png"}, "is image/png, not an image"),
        (
            gzip.compress(PNG, mtime=0),
            {"Content_Encoding": "gzip"},
            "sent as gzip, which was not asked",
        ),
        (PNG[:99], {"Content_Length": len(PNG)}, f"ended {len(PNG) - 99} bytes early"),
        (LONG * 3, {}, "more than 0 MiB"),
        (LONG * 3, {"Content_Length": 10**12}, "more than 0 MiB"),
    ],
    ids=["empty", "html", "doctype", "json", "text", "pdf", "gzip", "short", "long", "lying"],
)
def test_what_is_no_whole_image_is_refused(server, body, headers, match):
    refuse(server, answer(body, **headers), match)


def test_a_length_too_short_cuts(server):
    assert get(server, answer(LONG, Content_Length=len(PNG))) == PNG


def without_end(head, piece):
    def send(write, over):
        write(head)
        while not over.wait(0.001):
            write(piece)

    return send


def test_endless_answers_are_left(server):
    refuse(server, without_end(answer(PNG), bytes(4096)), "more than 0 MiB")
    refuse(server, without_end(answer(b"<html>"), b"<p>"), "is a web page")
    refuse(server, without_end(answer()[:-2], b"X-More: yes\r\n"), "cannot be downloaded")
    refuse(server, without_end(answer()[:-2], b"x" * 4096), "cannot be downloaded")


def test_a_page_is_known_by_its_beginning(server):
    def send(write, over):
        write(answer(b"<html><head><title>404</title>", Content_Length=10**9))
        over.wait()  # Whoever wants more waits for ever.

    refuse(server, send, "is a web page")


def test_a_trickle_has_an_end(server, monkeypatch):
    monkeypatch.setattr(module, "TOTAL_SECONDS", 0.3)
    for head, piece in (
        (answer(PNG), b"\0"),
        (answer()[:-2] + b"X-Long: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (answer(Transfer_Encoding="chunked"), b"0"),
    ):
        refuse(server, without_end(head, piece), "no complete answer in time")


@pytest.mark.parametrize("sent", [b"", answer()[:-2], answer(PNG)], ids=range(3))
def test_silence_has_an_end(server, sent, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.1)

    def send(write, over):
        write(sent)
        over.wait()

    refuse(server, send, "no complete answer in time")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Now", "308 Ever"])
def test_redirects_are_followed(server, status):
    server.answers["/b c"] = answer(PNG)
    server.answers["/b%20c"] = server.answers["/b c"]
    assert get(server, answer(status=status, Location="/b c"), "/a") == PNG
    server.answers["/caf%C3%A9"] = answer(PNG)
    place = f"{server.root}/café".encode().decode("latin-1")
    assert get(server, answer(status=status, Location=place), "/a") == PNG
    assert download(f"{server.root}/café") == PNG


def test_the_internet_does_not_lead_into_the_users_network(server, monkeypatch):
    server.answers["/in"] = answer(PNG)
    server.answers["/out"] = answer(status="302 Found", Location=f"{server.root}/in")
    assert download(f"{server.root}/out") == PNG  # The user named a place inside.
    peers = iter([False, True])
    monkeypatch.setattr(module, "_is_inside", lambda _: next(peers))
    server.asked.clear()
    with pytest.raises(ImageError, match=r"/out: is redirected to 127\.0\.0\.1, an address"):
        download(f"{server.root}/out")
    assert server.asked == ["/out"]


def test_addresses_inside():
    inside = ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1")
    # IPv4 inside of IPv6: compatible, of NAT64 and 6to4. And site-local and multicast addresses.
    within = ("::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::808:808", "2002:a9fe:a9fe::1")
    others = ("fe80::1%eth0", "0.0.0.0", "fec0::1", "224.0.0.1", "ff02::1")
    assert all(map(module._is_inside, (*inside, *within, *others)))
    outside = ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::")
    assert not any(map(module._is_inside, outside))


def test_redirects_have_an_end(server):
    server.asked.clear()
    refuse(server, answer(status="302 Found", Location="/round"), "more than 5", "/round")
    assert len(server.asked) == 6
    pages = [f"/{number}" for number in range(9)]
    for here, there in itertools.pairwise(pages):
        server.answers[here] = answer(status="302 Found", Location=there)
    server.answers["/8"] = answer(PNG)
    assert download(f"{server.root}/3") == PNG
    refuse(server, server.answers["/2"], "more than 5 redirects", "/2")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "x:y"])
def test_redirects_lead_to_the_web_alone(server, place):
    refuse(
        server, answer(status="302 Found", Location=place), f"leads to {place}, which is neither"
    )


def test_errors_of_the_server(server):
    refuse(server, answer(b"gone", status="404 Not Found"), "the server answers 404 Not Found")
    refuse(server, answer(PNG, status="500 Oh"), "the server answers 500 Oh")
    refuse(server, answer(status="302 Found"), "the server answers 302 Found")
    refuse(server, b"no http at all\r\n\r\n", "cannot be downloaded")
    refuse(server, b"", "cannot be downloaded")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/nobody-listens",
        "http://[::1/x",
        "http://",
        "http:///x",
        "http://127.0.0.1:port/",
        "http://a b/\r\nHost: x",
        "http://\udcff/",
        "http://127.0.0.1:1/\udcff",
    ],
)
def test_addresses_that_lead_nowhere(url):
    with pytest.raises(ImageError, match="cannot be downloaded") as caught:
        download(url)
    assert str(caught.value).startswith(url)


def test_only_the_web_is_downloaded():
    assert all(map(is_url, ("http://a/b", "HTTPS://a/b")))
    assert not any(map(is_url, ("file:///etc/passwd", "ftp://a/b", "photo.jpg", "httpx://a")))
    for url in ("file:///etc/passwd", "data:image/png;base64,AA=="):
        with pytest.raises(ImageError, match="neither http nor https"):
            download(url)
