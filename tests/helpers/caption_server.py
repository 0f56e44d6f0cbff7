"""A server that answers as `capjax serve` does, of a model that says what it is told."""

import contextlib
import email
import json
import math
import mimetypes
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from capjax.evaluate.caption_view import pieces
from capjax.evaluate.caption_view.encoding import encode
from capjax.serve.page import FILES

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SETTINGS: list[dict] = [
    {"name": "method", "kind": "choice", "choices": ["beam", "sample"], "about": "The search."},
    {"name": "num_beams", "kind": "int", "least": 1, "most": 16, "about": "Beams.", "of": ["beam"]},
    {"name": "length_penalty", "kind": "float", "about": "Exponent.", "of": ["beam"]},
    {"name": "num_captions", "kind": "int", "least": 1, "most": 8, "about": "Captions an image."},
    {"name": "temperature", "kind": "float", "least": 0, "about": "0 is greedy", "of": ["sample"]},
    {"name": "top_p", "kind": "float", "least": 0, "most": 1, "about": "Share.", "of": ["sample"]},
    {"name": "bad_words", "kind": "str", "about": "Words that may not occur."},
    {"name": "seed", "kind": "int", "least": 0, "about": "Of the samples.", "of": ["sample"]},
    {"name": "prompt", "kind": "str", "about": "Words that begin the caption."},
]
DECODING = {
    "method": "beam",
    "num_beams": 5,
    "length_penalty": 0.7,
    "num_captions": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "bad_words": [],
    "seed": 0,
    "prompt": "",
}


def row(text: str, prompt: str = "", grid: int = 7) -> dict:
    """A result whose words look at one place after the other, each half as probable."""
    words = text.split()
    log_probs = [math.log(0.96) * (place % 5) ** 2 - 1e-3 for place in range(len(words) + 1)]
    maps = np.ones((len(words), grid, grid), np.float32)
    rows, columns = np.mgrid[:grid, :grid]
    for place in range(len(words)):
        centre = (grid * 0.3, grid * (place + 0.5) / len(words))
        maps[place] = np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 3)
    text = f"{prompt} {text}".strip()
    return {
        "caption": text,
        "log_prob": sum(log_probs),
        "score": sum(log_probs) / len(log_probs),
        "finished": True,
        "words": words,
        "log_probs": log_probs,
        "tokens": list(range(len(words) + 1)),
        "pieces": pieces(text, words),
        "attention": encode(maps),
        "seen": [0.125, 0, 0.875, 1],
    }


class FakeServer:
    """What is asked of it, in `asked`; and what it answers, which a test may change."""

    def __init__(self, models=("tiny",), said="a dog runs on the grass"):
        self.models = [
            {
                "name": name,
                "about": "MobileNetV2 and a transformer",
                "decoding": DECODING,
                "settings": SETTINGS,
                "attention": True,
                "parameters": 6_400_000,
            }
            for name in models
        ]
        self.said = {name: said for name in models}
        self.errors: list[tuple[int, dict, dict]] = []  # (status, headers, JSON), the next first.
        self.asked: list[dict] = []

    def answer(self, model: str, settings: dict, image: bytes) -> tuple[int, dict, dict]:
        self.asked.append({"model": model, "settings": settings, "bytes": len(image)})
        if self.errors:
            return self.errors.pop(0)
        found = row(self.said[model], settings.get("prompt", ""))
        rest = range(1, settings.get("num_captions", 1))
        kind = "sample" if settings.get("method") == "sample" else "caption"
        found["alternatives"] = [
            {
                "caption": f"{kind} {place} of seed {settings.get('seed', 0)}",
                "log_prob": -9.5 - place,
            }
            for place in rest
        ]
        decoding = DECODING | settings
        return 200, {}, {"model": model, "decoding": decoding, "results": [found]}


@contextlib.contextmanager
def serving(server: FakeServer, port: int = 0):
    """Yields the address of the page."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            path = urllib.parse.urlsplit(self.path).path
            if path == "/models":
                limits = {"bytes": 10_000_000, "pixels": 80_000_000, "images": 8, "seconds": 30}
                self._send(
                    200, {}, json.dumps({"models": server.models, "limits": limits}).encode()
                )
            elif path in FILES:
                kind = mimetypes.guess_type(FILES[path].name)[0]
                headers = {"Content-Type": kind, "Content-Security-Policy": POLICY}
                self._send(200, headers, FILES[path].read_bytes())
            else:
                self._send(404, {}, b"{}")

        def do_POST(self):
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = {
                part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True)
                for part in email.message_from_bytes(head + body).get_payload()
            }
            settings = json.loads(parts["settings"])
            status, headers, found = server.answer(query["model"], settings, parts["image"])
            self._send(status, headers, json.dumps(found).encode())

        def _send(self, status, headers, content):
            self.send_response(status)
            headers = {"Content-Type": "application/json", **headers}
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/"
        finally:
            http.shutdown()
            thread.join()
