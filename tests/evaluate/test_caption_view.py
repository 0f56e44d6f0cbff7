"""Captions in a notebook: several outputs in one page, each with a script of its own."""

import base64

import numpy as np
import pytest

from capjax.data.resize import Resize
from capjax.evaluate.caption_view import encode_maps, seen_part
from capjax.evaluate.caption_view.notebook import CaptionView
from capjax.evaluate.captioning import Caption
from tests.helpers import browser as browsers


def caption(text="a <b> </script> dog", **fields):
    words = tuple(text.split())
    attention = np.zeros((len(words), 2, 5), np.float32)
    attention[..., 0] = 0.5  # A class token.
    for word in range(len(words)):
        attention[word, :, 1 + word % 4] = (0.1, 0.4)
    log_probs = tuple(-0.5 * place for place in range(len(words) + 1))
    fields = {"attention": attention, "grid": (2, 2), "prefix": 1, **fields}
    return Caption(text, -3.0, -1.0, True, words, log_probs=log_probs, **fields)


def test_maps_are_bytes():
    height, width, text = encode_maps(caption("a dog"))
    maps = np.frombuffer(base64.b64decode(text), np.uint8).reshape(2, height, width)
    assert maps.tolist() == [[[255, 0], [0, 0]], [[0, 255], [0, 0]]]
    assert encode_maps(caption("")) == [2, 2, ""]
    assert seen_part(Resize(8, resize_to=10, keep_aspect=True), 20, 10) == [0.3, 0.1, 0.7, 0.9]


@pytest.mark.slow(reason="a browser of its own; the server's page draws with this every day")
def test_a_notebook_shows_it(tmp_path):
    images = [np.full((40, 60, 3), shade, np.uint8) for shade in (50, 200)]
    first = caption(alternatives=(caption("another dog", attention=None),))
    view = CaptionView(images, [first, caption("a cat")], Resize(8))
    assert repr(view) == "a <b> </script> dog\na cat"
    without = CaptionView(images[:1], [caption("a bird", attention=None)], Resize(8))
    file = tmp_path / "outputs.html"
    outputs = [output._repr_html_() for output in (view, without, view)]
    file.write_text("<!doctype html><meta charset=utf-8>" + "\n".join(outputs), encoding="utf-8")
    with browsers.opened(tmp_path / "profile") as page:
        page.open(file)
        inside = (
            "const hosts = [...document.querySelectorAll('[data-captions]')];"
            "const all = hosts.map((host) => host.shadowRoot);"
            "const texts = (root, of) => [...root.querySelectorAll(of)].map((e) => e.textContent);"
        )
        both = ["a <b> </script> dog", "a cat"]
        said = page.run(f"{inside} return all.map((root) => texts(root, '.caption'))")
        assert said == [both, ["a bird"], both]
        assert page.run(f"{inside} return texts(all[0], '.others')") == ["another dog"]
        page.run(f"{inside} all[0].querySelectorAll('.word')[3].focus()")
        canvas = "document.querySelector('[data-captions]').shadowRoot.querySelector('canvas.on')"
        assert page.wait(f"{canvas}?.dataset.word") == "3"
        looked = f"{inside} return all.map((root) => texts(root, '.looked')[0])"
        assert page.run(looked) == ["“dog” · 22%", "", ""]
        assert page.run(f"{inside} return all[0].querySelector('img').naturalWidth") == 60
        assert page.complaints() == []


def test_maps_of_no_attention_are_an_error():
    with pytest.raises(ValueError, match="without attention"):
        encode_maps(caption(attention=None))
