"""The server's page in a real browser, before a server that answers at once."""

import json
from types import SimpleNamespace

import pytest

from capjax.serve.page import FILES, usual
from tests.helpers import browser as browsers
from tests.helpers.caption_server import DECODING, SETTINGS, FakeServer, serving

PHONE = 390
IN_BROWSER = pytest.mark.slow(reason="one of many looks at a page; a test opens it every day")
SAMPLES = {"method": "sample", "num_captions": 4, "seed": 0, "top_p": 0.9}
SAID = ["a", "dog", "runs", "on", "the", "grass"]


@pytest.fixture(scope="module", name="browser")
def make_browser(tmp_path_factory):
    with browsers.opened(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def texts(page, selector):
    return page.run(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def settle(page, answers=1):
    page.wait("document.querySelectorAll('[aria-busy=false]').length === arguments[0]", answers)


@pytest.fixture(name="opened")
def make_opened(browser):
    """(page, server, address) with the first example captioned; nothing may be wrong at the end."""
    server = FakeServer()
    with serving(server) as address:
        browser.open(address)
        browser.run("document.querySelector('#examples button').click()")
        settle(browser)
        yield browser, server, address
        assert browser.complaints() == []


def test_a_picture_is_captioned_and_its_words_light_it(opened):
    page, server, _ = opened
    assert texts(page, ".word") == SAID
    assert texts(page, "#status") == ["a dog runs on the grass"]
    assert texts(page, ".others h2") == ["Other captionslog-probability", "SamplesDraw again"]
    assert texts(page, ".others li:first-child span:first-child") == [
        "caption 1 of seed 0",
        "a dog runs on the grass",
    ]
    # The server has compiled the model's own settings, and those that it knows to follow.
    known = SimpleNamespace(settings=lambda: SETTINGS, defaults=lambda: DECODING, method=dict)
    assert [one["settings"] for one in server.asked] == [{}, *usual(known)]
    assert server.asked[0]["bytes"] == FILES["/page/examples/astronaut.jpg"].stat().st_size
    assert page.run("return document.querySelector('.frame img').naturalWidth") == 512

    page.point(".word:nth-of-type(2)")
    # The model sees the middle of the width.
    place = page.wait("document.querySelector('canvas.on')?.style.cssText")
    assert "left: 12.5%" in place
    assert "width: 75%" in place
    assert texts(page, "#looked") == ["“dog” · 96%"]
    page.point("h1")
    page.wait("!document.querySelector('canvas.on')")
    page.run("document.querySelector('.word').focus()")
    page.press("Right", "Right")
    page.wait("document.querySelector('canvas.on')?.dataset.word === '2'")
    assert texts(page, "#looked") == ["“runs” · 85%"]
    assert len(texts(page, ".word[tabindex='0']")) == 1


@IN_BROWSER
def test_a_finger_that_slides_looks_at_each_word(opened):
    page, _, _ = opened
    places = page.run(
        """return [...document.querySelectorAll(".word")].slice(0, 2).map((word) => {
          const {left, top, width, height} = word.getBoundingClientRect();
          return {x: left + width / 2, y: top + height / 2};
        })"""
    )
    page.devtools("Emulation.setTouchEmulationEnabled", enabled=True)
    for kind, places_of in (("touchStart", places[:1]), ("touchMove", places[1:])):
        page.devtools("Input.dispatchTouchEvent", type=kind, touchPoints=places_of)
    page.wait("document.querySelector('canvas.on')?.dataset.word === '1'")
    page.devtools("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.devtools("Emulation.setTouchEmulationEnabled", enabled=False)
    assert texts(page, ".word.on") == ["dog"]


@IN_BROWSER
def test_settings_are_sent_and_taken_back(opened):
    page, server, _ = opened
    page.click("#decoding summary")
    names = "return [...document.querySelectorAll('[data-setting]')].map((e) => e.dataset.setting)"
    # Those of the method alone.
    assert page.run(names) == [
        *("method", "num_beams", "length_penalty", "num_captions", "prompt", "bad_words")
    ]
    page.click("[data-setting=num_beams]")
    page.press("Backspace", "3", "Tab")
    settle(page)
    page.wait("document.querySelectorAll('.samples').length")
    changed = [{"num_beams": 3}, {"num_beams": 3, "num_captions": 3}]
    assert [one["settings"] for one in server.asked[-3:-1]] == changed
    page.click("[data-setting=prompt]")
    page.press(*"we see", "Tab")
    page.wait("document.querySelector('.prompt')")
    settle(page)
    assert texts(page, ".prompt") == ["we see"]
    assert texts(page, ".word") == SAID
    asked = len(server.asked)
    page.click("[data-setting=num_beams]")
    page.press("Backspace", *"99", "Tab")  # More than the server takes.
    page.click("#settings .buttons button")
    settle(page)
    page.wait("document.querySelectorAll('.samples').length")
    assert [one["settings"] for one in server.asked[asked:]] == [{}, {"num_captions": 4}, SAMPLES]
    page.click("[data-setting=method]")
    page.press("Down", "Enter")
    page.wait("document.querySelector('.others h2')?.textContent.includes('Other samples')")
    settle(page)
    assert page.run(names) == [
        *("method", "num_captions", "temperature", "top_p", "seed", "prompt", "bad_words")
    ]
    assert server.asked[-1]["settings"] == {"method": "sample", "num_captions": 4}


@IN_BROWSER
def test_samples_are_drawn_again(opened):
    page, _, _ = opened
    page.click(".again")
    page.wait("document.querySelector('.samples li:last-child').textContent.includes('seed 1')")
    assert len(texts(page, ".samples")) == 1
    assert page.run("return document.activeElement.className") == "again"


@IN_BROWSER
def test_the_answer_is_copied(opened):
    page, _, address = opened
    granted = {"name": "clipboard-read"}
    page.devtools("Browser.setPermission", permission=granted, setting="granted", origin=address)
    page.click(".facts button:last-child")
    page.wait("document.getElementById('status').textContent === 'Copied'")
    copied = json.loads(page.run("return navigator.clipboard.readText()"))
    assert copied["caption"] == "a dog runs on the grass"
    assert copied["words"] == SAID
    assert copied["decoding"]["method"] == "beam"
    assert "attention" not in copied


@IN_BROWSER
def test_a_busy_server_is_asked_again_and_errors_are_sentences(opened):
    page, server, _ = opened
    server.errors = [
        (503, {"Retry-After": "1"}, {"error": "the queue is full"}),
        (504, {"Retry-After": "1"}, {"error": "it was not answered within 30 s"}),
        (200, {}, {"model": "tiny", "decoding": {}, "results": [{"error": "cat.jpg: damaged"}]}),
    ]
    page.run("document.querySelectorAll('#examples button')[1].click()")
    page.wait("document.querySelector('.caption').textContent.includes('busy')")
    page.wait("!document.getElementById('alert').hidden")
    assert texts(page, "#alert") == ["cat.jpg: damaged"]
    assert texts(page, ".caption") == ["No caption"]
    # The browser's own line about the status.
    assert all("503" in line or "504" in line for line in page.complaints())


@IN_BROWSER
@pytest.mark.parametrize("width", [PHONE, 1280])
def test_two_models_are_side_by_side(browser, width):
    server = FakeServer(models=("one", "other"))
    server.said["other"] = ""
    with serving(server) as address:
        browser.open(address, width, 800)
        # As a file that is dropped.
        browser.run(
            """const data = new DataTransfer();
            data.items.add(new File([arguments[0]], "any.svg", {type: "image/svg+xml"}));
            const dropped = {dataTransfer: data, bubbles: true, cancelable: true};
            document.body.dispatchEvent(new DragEvent("drop", dropped))""",
            '<svg xmlns="http://www.w3.org/2000/svg" width="900" height="300"/>',
        )
        settle(browser, 2)
        assert texts(browser, ".who b") == ["one", "other"]
        assert texts(browser, ".caption")[1] == "says nothing"
        lefts = browser.run(
            "return [...document.querySelectorAll('.answer')].map((e) => e.offsetLeft)"
        )
        assert (lefts[0] == lefts[1]) == (width == PHONE)
        assert browser.run("return document.body.scrollWidth <= innerWidth")
        browser.run(
            """const beside = document.getElementById("beside");
            beside.value = "";
            beside.dispatchEvent(new Event("change"))"""
        )
        settle(browser)
        assert len(texts(browser, ".answer")) == 1
        assert browser.complaints() == []


@IN_BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_controls_have_names(opened, scheme):
    page, _, _ = opened
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.devtools("Emulation.setEmulatedMedia", features=features)
    page.run("document.getElementById('decoding').open = true")
    faint = page.run(
        """const often = {willReadFrequently: true};
        const canvas = document.createElement("canvas").getContext("2d", often);
        const light = (colour) => {
          canvas.fillStyle = colour;
          canvas.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((level) => {
            const share = level / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
          });
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (node) => {
          const {backgroundColor: colour} = getComputedStyle(node);
          return colour === "rgba(0, 0, 0, 0)" ? ground(node.parentElement) : colour;
        };
        return [...document.querySelectorAll("body *")].filter((node) => {
          const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
          if (!own || !node.checkVisibility()) return false;
          const [low, high] = [light(getComputedStyle(node).color), light(ground(node))]
            .sort((a, b) => a - b);
          return (high + 0.05) / (low + 0.05) < 4.5;
        }).map((node) => node.outerHTML)"""
    )
    page.devtools("Emulation.setEmulatedMedia", features=[])
    assert faint == []
    unnamed = page.run(
        """return [...document.querySelectorAll("button, input, select, img")].filter((node) =>
          !(node.textContent.trim() || node.labels?.length || node.ariaLabel || node.alt
            || node.querySelector("img")?.alt)).map((node) => node.outerHTML)"""
    )
    assert unnamed == []


def test_nothing_is_inline():
    """What a strict Content-Security-Policy forbids, and what a network would be needed for."""
    for address in ("/", "/page/page.js", "/page/page.css", "/page/view.js", "/page/view.css"):
        text = FILES[address].read_text(encoding="utf-8")
        assert "<style" not in text
        assert " style=" not in text
        assert "<script>" not in text
        assert not [line for line in text.splitlines() if "//" in line.replace("// ", "")]
