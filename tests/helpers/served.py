"""A server in this process, and a model that needs no JAX."""

import contextlib
import http.client
import io
import json
import threading
import time
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from capjax.data.resize import Resize
from capjax.files.errors import ReportedError
from capjax.serve.served import SettingsError, doubled, read_image

LIMITS = {
    "bytes": 2**25,
    "images": 16,
    "seconds": 30.0,
    "queue": 128,
    "held": 2**28,
    "connections": 128,
}


class NoCaptionError(ReportedError):
    pass


class Echo:
    """Says the mean level of an image, its settings and the size of its batch.

    Attributes:
      gate: is waited for before each batch of its own settings, and `slow` before others compile.
      begun: batches that it began.
      batches: (method, indices) of those that it captioned.
      batcher: the server's, once there is one.
    """

    name, about, parameters, attends, shape = "echo", "says the level", 0, False, (4, 4, 3)

    def __init__(self):
        self.gate, self.slow = threading.Event(), threading.Event()
        for event in (self.gate, self.slow):
            event.set()
        self.begun, self.batches = 0, []

    def settings(self):
        return [{"name": "tone", "kind": "str", "about": "any"}]

    def defaults(self):
        return {"tone": ""}

    def method(self, settings):
        if {*settings} - {"tone"}:
            raise SettingsError(f"there is no setting {min(settings)!r}: there is tone")
        return settings.get("tone", "")

    def described(self, method):
        return {"tone": method}

    def kind(self, method):
        return method

    def program(self, *, attention):
        def caption(method, pixels, index):
            if index.max() < 0:
                assert not method or self.slow.wait(10)
                return []
            self.begun += 1
            assert self.gate.wait(10)
            self.batches.append((method, index.tolist()))
            return [self._say(method, image) for image in pixels[index >= 0]]

        return caption

    def _say(self, method, image):
        level = int(image.mean())
        if level == 13:
            return NoCaptionError("its log-probabilities are NaN")
        text = f"{method}{level}"
        caption = {"text": text, "log_prob": -1.0, "score": -1.0, "finished": True}
        more = {"words": (text,), "log_probs": (-1.0, 0.0), "tokens": (level,)}
        return SimpleNamespace(**caption, **more, met=True, alternatives=())

    def sizes(self, most):
        return doubled(most)

    def read(self, content, name):
        return read_image(content, name, Resize(4))


@contextlib.contextmanager
def running(models, *, batch_size=4, kept=2, usual=lambda _: (), **limits):
    """The port of a server of models, and the server."""
    for needed in ("starlette", "uvicorn", "python_multipart"):
        pytest.importorskip(needed)
    from capjax.serve.batching import Batcher
    from capjax.serve.requests import Limits
    from capjax.serve.server import Server, listening

    batcher = Batcher(models, batch_size=batch_size, kept=kept, usual=usual)
    for model in models:
        model.batcher = batcher
    server = Server(models, batcher, Limits(**{**LIMITS, **limits}), num_threads=2)
    listener = listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(20)
        batcher.close()
        assert not thread.is_alive()


def until(holds, seconds=10):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never held"
        time.sleep(0.005)


def ask(port, path, body=None, headers=None, method=None):
    """(status, headers, JSON or bytes) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        if answer.headers.get_content_type() == "application/json":
            content = json.loads(content)
        return answer.status, answer.headers, content


def caption(port, *images, settings=None, query=""):
    """As `ask` for captions of images' bytes."""
    named = [
        image if isinstance(image, tuple) else (f"{i}.png", image) for i, image in enumerate(images)
    ]
    body, headers = form(named, settings)
    return ask(port, f"/caption{query}", body, headers)


def form(images, settings=None, boundary="edge"):
    """The body and the headers of multipart/form-data."""
    parts = [
        f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        + content
        for name, content in images
    ]
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        parts.append(b'Content-Disposition: form-data; name="settings"\r\n\r\n' + text.encode())
    body = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return body + f"--{boundary}--\r\n".encode(), headers


def in_query(settings):
    return quote(json.dumps(settings))


def levels(*values, size=(4, 4)):
    """PNG files of one level each."""
    return [png(np.full((*size, 3), value, np.uint8)) for value in values]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
