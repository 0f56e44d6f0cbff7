"""The server with a model that needs no JAX: endpoints, batches, limits, and its end."""

import contextlib
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.helpers.served import Echo, ask, caption, form, in_query, levels, png, running, until


@pytest.fixture(scope="module", name="serving")
def serve():
    echo = Echo()
    with running([echo], bytes=20_000, images=3, queue=6, seconds=5) as (port, _):
        yield port, echo


def texts(answer):
    status, _, content = answer
    assert status == 200, content
    return [row.get("caption") or row["error"] for row in content["results"]]


def refused(answer):
    status, _, content = answer
    return status, content["error"]


@contextlib.contextmanager
def held(event):
    event.clear()
    try:
        yield
    finally:
        event.set()


def test_images_come_back_with_their_names_in_order(serving):
    port, _ = serving
    answer = caption(port, *levels(10, 20, 30))
    assert texts(answer) == ["10", "20", "30"]
    first = answer[2]["results"][0]
    assert first["image"] == "0.png"
    assert first["tokens"] == [10]
    assert first["seen"] == [0, 0, 1, 1]
    assert answer[2]["model"] == "echo"
    assert answer[2]["decoding"] == {"tone": ""}


def test_raw_bytes_are_an_image_and_settings_can_be_in_the_query(serving):
    port, _ = serving
    (image,) = levels(77)
    answer = ask(port, f"/caption?settings={in_query({'tone': 'x'})}", image)
    assert texts(answer) == ["x77"]
    assert answer[2]["results"][0]["image"] == "image 1"
    assert texts(caption(port, image, settings={"tone": "y"})) == ["y77"]


def test_one_broken_image_and_one_without_a_caption_leave_the_others(serving):
    port, _ = serving
    good, none = levels(50, 13)
    said = texts(caption(port, b"no image", none, good))
    assert said[0].startswith("0.png: not an image of a known format")
    assert said[1:] == ["its log-probabilities are NaN", "50"]


def test_a_request_whose_images_are_all_broken_is_refused(serving):
    port, _ = serving
    status, _, content = caption(port, b"no image", b"none either")
    assert (status, [row["image"] for row in content["results"]]) == (422, ["0.png", "1.png"])
    assert content["error"] == content["results"][0]["error"]
    assert refused(caption(port, *levels(13))) == (422, "its log-probabilities are NaN")


def test_a_request_waits_for_no_more_than_what_fits_in_a_batch(serving):
    port, echo = serving
    until(lambda: echo.batcher._programs["echo", "", False].ready == {1, 2, 4})
    echo.batches.clear()
    with ThreadPoolExecutor(6) as pool:
        with held(echo.gate):
            images = levels(1, 2, 3, 4, 5, 6)
            coming = _first(pool, port, echo, images[0])
            coming += [pool.submit(caption, port, image) for image in images[1:]]
            until(lambda: _waiting(echo, 5))
        assert [texts(each.result()) for each in coming] == [[str(n)] for n in range(1, 7)]
    assert [len(index) for _, index in echo.batches] == [1, 4, 1]


def _first(pool, port, echo, image):
    """The answer to come of an image whose batch has begun, in a list."""
    begun, coming = echo.begun, [pool.submit(caption, port, image)]
    until(lambda: echo.begun > begun)
    return coming


def _waiting(echo, count):
    return sum(len(lane) for lane in echo.batcher._lanes.values()) == count


@pytest.mark.parametrize(
    ("path", "body", "headers", "message"),
    [
        ("/caption?mode=1", b"x", {}, "there is no parameter 'mode'; there are model, attention"),
        ("/caption?attention=yes", b"x", {}, "attention must be 0 or 1"),
        ("/caption?attention=1", b"x", {}, "echo has no attention"),
        ("/caption?model=other", b"x", {}, "there is no model 'other'; there are echo"),
        ("/caption?settings=[1]", b"x", {}, "settings must be an object"),
        ("/caption?settings={", b"x", {}, "settings are not JSON"),
        ("/caption?settings=" + "[" * 4000, b"x", {}, "nested too deeply"),
        ("/caption?settings=" + "1" * 5000, b"x", {}, "4096 characters at most"),
        ('/caption?settings={"tone":1e999}', b"x", {}, "'tone' must be a finite number"),
        ('/caption?settings={"b":1,"a":2}', b"x", {}, "there is no setting 'a'"),
        ("/caption", *form([]), "there is no image"),
        ("/caption", *form([("a", b"")] * 4), "Too many files"),
        ("/caption", *form([("a", b"x")], "x" * 5000), "Part exceeded"),
        ("/caption", form([("a", b"x")])[0], {"Content-Type": "multipart/form-data"}, "boundary"),
        ("/caption", b"no parts", form([])[1], "multipart/form-data"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(serving, path, body, headers, message):
    status, error = refused(ask(serving[0], path, body, headers))
    assert status == 400
    assert message in error


def test_a_part_of_another_name_is_refused(serving):
    body, headers = form([("a", b"x")])
    status, error = refused(ask(serving[0], "/caption", body.replace(b"image", b"path"), headers))
    assert (status, "there is a part 'path'" in error) == (400, True)


@pytest.mark.parametrize("body", [b"x" * 20_001, iter([b"x" * 10_000] * 3)])
def test_too_many_bytes_are_413_whether_announced_or_not(serving, body):
    port, _ = serving
    with contextlib.suppress(ConnectionError):
        assert refused(ask(port, "/caption", body)) == (413, "a request has 20000 bytes at most")


def test_more_images_than_the_queue_takes_are_503(serving):
    port, echo = serving
    with ThreadPoolExecutor(3) as pool, held(echo.gate):
        coming = _first(pool, port, echo, levels(1)[0])
        coming.append(pool.submit(caption, port, *levels(1, 2, 3)))
        coming.append(pool.submit(caption, port, *levels(4, 5)))
        until(lambda: _waiting(echo, 5))
        answer = caption(port, *levels(9))
        assert refused(answer) == (503, "the server holds as many images as it can: try again")
        assert answer[1]["Retry-After"] == "1"
        echo.gate.set()
        said = [texts(each.result()) for each in coming]
        assert said == [["1"], ["1", "2", "3"], ["4", "5"]]
    assert texts(caption(port, *levels(9))) == ["9"]


def test_an_answer_that_takes_too_long_is_504_and_an_upload_408():
    echo = Echo()
    with running([echo], seconds=0.3) as (port, _):
        with held(echo.gate):
            status, error = refused(caption(port, *levels(1)))
            assert (status, error) == (504, "the request was not answered within 0.3 s")
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_who_leaves_costs_nothing_more(serving):
    port, echo = serving
    (image,) = levels(90)
    echo.batches.clear()
    with held(echo.gate), ThreadPoolExecutor(1) as pool:
        (first,) = _first(pool, port, echo, *levels(1))
        with socket.create_connection(("127.0.0.1", port)) as gone:
            head = f"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
            gone.sendall(head.encode() + image)
            until(lambda: _waiting(echo, 1))
            # A reset, not an end.
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: all(job.future.cancelled() for job in echo.batcher._lanes[True]))
        echo.gate.set()
        first.result()
    assert texts(caption(port, *levels(5))) == ["5"]
    assert sum(len([i for i in index if i >= 0]) for _, index in echo.batches) == 2


def test_other_settings_wait_for_each_other_and_not_the_models_own(serving):
    port, echo = serving
    with ThreadPoolExecutor(4) as pool, held(echo.slow):
        odd = [pool.submit(caption, port, *levels(1), settings={"tone": t}) for t in "pq"]
        until(lambda: len(echo.batcher._lanes[False]) == 2)
        assert texts(caption(port, *levels(2))) == ["2"]
        status, error = refused(caption(port, *levels(1), settings={"tone": "r"}))
        assert status == 503
        assert "2 other settings are in use" in error
        echo.slow.set()
        assert [texts(each.result()) for each in odd] == [["p1"], ["q1"]]
    # Now there is room for it: the one that was not used for the longest time makes it.
    assert texts(caption(port, *levels(1), settings={"tone": "r"})) == ["r1"]
    kept = [key[1] for key, program in echo.batcher._programs.items() if not program.own]
    assert kept in (["p", "r"], ["q", "r"])


def test_usual_settings_are_compiled_before_anybody_asks():
    echo = Echo()
    with running([echo], usual=lambda _: [{"tone": "x"}, {"tone": "y"}, {"tone": "z"}]):
        until(lambda: len(echo.batcher._programs) == 3)  # As many as are kept.
        until(lambda: all(program.ready for program in echo.batcher._programs.values()))


def test_models_health_and_page(serving):
    port, _ = serving
    assert ask(port, "/health")[2] == {"status": "ok"}
    told = ask(port, "/models")[2]
    assert told["limits"] == {"bytes": 20_000, "pixels": 80_000_000, "images": 3, "seconds": 5}
    assert [model["name"] for model in told["models"]] == ["echo"]
    status, headers, _ = ask(port, "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(port, "/page/view.js")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/page/../app.py", "/page/%2e%2e/app.py", "/page/__init__.py"],
)
def test_nothing_else_is_there(serving, path):
    assert refused(ask(serving[0], path))[0] == 404
    assert ask(serving[0], "/caption")[0] == 405


def test_a_line_is_logged_for_each_request(serving, caplog):
    with caplog.at_level("INFO", "capjax.serve"):
        caption(serving[0], *levels(1, 2, 3))
        ask(serving[0], "/a%0Ab")
        # Lines of other tests' requests may still come.
        until(lambda: any(r"GET /a\nb 404" in line for line in caplog.messages))
    posted = [line for line in caplog.messages if line.startswith("127.0.0.1 POST /caption 200 0.")]
    assert posted[-1].endswith(" s 3 images")


def test_a_connection_without_a_request_is_cut(monkeypatch):
    monkeypatch.setattr("capjax.serve.server._GRACE", 0)
    with running([Echo()], seconds=0.2) as (port, server):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as silent:
            silent.sendall(b"POST /caption HT")
            with contextlib.suppress(ConnectionError):
                assert silent.recv(10) == b""
        until(lambda: not server.server_state.connections)


def test_as_many_connections_are_open_as_it_says():
    with running([Echo()], connections=1) as (port, server):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            until(lambda: server.server_state.connections)
            assert ask(port, "/health")[0] == 503
        until(lambda: not server.server_state.connections)
        assert ask(port, "/health")[0] == 200


def test_a_stop_answers_what_was_taken():
    echo = Echo()
    with ThreadPoolExecutor(3) as pool:
        with running([echo]) as (port, server):
            echo.gate.clear()
            coming = _first(pool, port, echo, *levels(1))
            coming += [pool.submit(caption, port, *levels(n)) for n in (2, 3)]
            until(lambda: _waiting(echo, 2))
            half = socket.create_connection(("127.0.0.1", port), timeout=5)
            half.sendall(b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            until(lambda: len(server.server_state.tasks) == 4)
            server.should_exit = True
            threading.Timer(0.3, echo.gate.set).start()
        assert sorted(texts(each.result())[0] for each in coming) == ["1", "2", "3"]
        with half, contextlib.suppress(ConnectionError):
            assert half.recv(10) == b""


def test_json_has_no_nan(serving):
    port, _ = serving
    status, _, content = ask(port, "/models")
    assert status == 200
    json.dumps(content, allow_nan=False)


def test_pixels_beyond_the_limit_are_an_error_of_that_image(serving):
    port, _ = serving
    bomb = png(np.zeros((1, 66_000, 3), np.uint8))
    assert "a side has 65535 at most" in texts(caption(port, bomb, *levels(1)))[0]
