"""A sweep's report: what is written, and the page in a real browser."""

import base64
import re

import numpy as np
import pytest

from capjax.evaluate.attention_maps import grid_maps
from experiments.report import write_report
from experiments.report_attention import captions_with_attention, config_of, open_data
from experiments.report_data import collect
from tests.helpers import browser as browsers
from tests.helpers.report_page import choose, copy, first_run, settle, shown_images, texts, value
from tests.helpers.small_report_sweep import IMAGES, write_small_sweep

PHONE = 390
IN_BROWSER = pytest.mark.slow(reason="one of many looks at a page; a test opens it every day")


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_small_sweep(folder)
    return folder


@pytest.fixture(scope="module", name="report")
def make_report(folder):
    """The page's folder, and what was printed on stderr while it was made."""
    out = folder / "out"
    write_report(str(folder / "sweep"), str(out), images=0)
    return out


@pytest.fixture(scope="module", name="browser")
def make_browser(tmp_path_factory):
    with browsers.opened(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(name="page")
def make_page(browser, report):
    """The page, freshly opened, its captions drawn; nothing may be wrong with it at the end."""
    browser.open(report / "index.html")
    settle(browser)
    yield browser
    assert browser.complaints() == []


def test_the_folder_says_what_the_sweep_says(report):
    index = value(report / "data/report.js")
    assert index["baseline"] == "whole"
    assert index["fields"] == ["dataset.keep_aspect", "decoder.width"]
    assert [run["status"] for run in index["runs"]] == ["done", "done", "failed", "waiting"]
    rows = {row["run"]: row for row in index["rows"] if row["evaluation"] == "greedy"}
    assert rows["cropped-seed0"]["fields"] == {"dataset.keep_aspect": True, "decoder.width": 32}
    assert index["runs"][0]["curves"]["validation"]["seconds"] == [5, 10]
    images = value(report / "data/images.js")
    assert images["total"] == len(images["ids"]) == IMAGES
    assert images["references"][0] == ["a red wall", "a red picture"]
    assert images["sizes"] == [[90, 70]] * IMAGES
    assert all((report / picture).read_bytes()[:4] == b"\x89PNG" for picture in images["pictures"])


def test_maps_are_those_of_the_captions(folder, report):
    run = collect(str(folder / "sweep")).runs[1]
    evaluation = run.evaluations["beam"]
    config = config_of(run, evaluation)
    found = captions_with_attention(config, run.workdir, evaluation, open_data(config), IMAGES)
    said = value(report / "data/captions-1-0.js")
    maps = value(report / "data/attention-1-0-0.js")
    for image, caption in enumerate(found):
        if image == IMAGES - 1:  # The file says what the model does not.
            assert said["captions"][image] == "a blue picture"
            assert maps[image] is said["words"][image] is None
            continue
        assert said["captions"][image] == caption.text == "".join(said["words"][image])
        height, width, text = maps[image]
        heat = np.frombuffer(base64.b64decode(text), np.uint8)
        heat = heat.reshape(len(caption.words), height, width)
        exact = grid_maps(caption).mean(axis=(1, 2))
        exact = 255 * exact / exact.max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(heat, exact, atol=0.51)
        # 90 x 70 pixels, of which the middle 70 x 70 are seen.
        np.testing.assert_allclose(said["boxes"][image], [1 / 9, 0, 8 / 9, 1], atol=0.03)


def test_another_report_replaces_it_and_nothing_else(folder, report, capsys, monkeypatch):
    other = folder / "other"
    write_report(str(folder / "sweep"), str(other), images=3, pictures="links", attention="none")
    images = value(other / "data/images.js")
    assert len(images["ids"]) == 3
    assert (other / images["pictures"][0]).samefile(folder / "pictures" / images["ids"][0])
    assert "words" not in value(other / "data/captions-0-0.js")
    write_report(str(folder / "sweep"), str(other), images=2, attention="none")
    assert sorted(file.name for file in (other / "pictures").iterdir()) == ["0.png", "1.png"]
    assert "2 thumbnails of captions/validation will take about" in capsys.readouterr().out
    # One that can't be made leaves the last one as it is.
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    monkeypatch.setattr("experiments.report.build.resize", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(str(folder / "sweep"), str(other), images=1, attention="none")
    assert before == {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    assert not list(folder.glob(".report-*"))


@IN_BROWSER
def test_the_table_sorts_and_filters(page):
    def ciders():
        cells = "return [...document.querySelectorAll('#results td:nth-child(3)')]"
        return page.run(f"{cells}.map((cell) => cell.firstChild.textContent)")

    rows = "#results tbody th .name"
    assert len(texts(page, rows)) == 6
    page.click("#results thead th:nth-child(3) button")
    cells = ciders()
    known = [float(cell) for cell in cells[:4]]
    assert known == sorted(known, reverse=True)
    assert known[0] > known[-1]
    assert cells[4:] == ["\u2013"] * 2
    page.press("Enter")  # The head keeps the focus.
    assert [float(cell) for cell in ciders()[:4]] == known[::-1]
    assert texts(page, "[aria-sort=ascending]") == ["CIDEr-D↑"]
    page.click("#filter")
    page.press(*"keep_aspect=true")
    assert texts(page, rows) == ["cropped-seed0"] * 2
    assert texts(page, "#legend button") == ["cropped"]
    intervals = texts(page, "#results .beside")
    page.click("#differences")
    assert len(texts(page, "#results .beside")) == len(intervals)
    assert all(re.match(r"[+\u2212]\d.*, p = [\d.]+", text) for text in texts(page, ".beside"))
    page.point("#results tbody tr:nth-child(2) .name")
    cells = "return [...document.querySelectorAll('#results tr:hover > *')]"
    grounds = page.run(f"{cells}.map((cell) => getComputedStyle(cell).background)")
    assert len(grounds) > 5
    assert len(set(grounds)) == 1


@IN_BROWSER
def test_text_of_a_run_stays_text(page):
    assert texts(page, "div.error") == ["out of <b>memory"]


@IN_BROWSER
def test_a_run_opens_its_captions(page):
    page.click("#results tbody tr:nth-child(6) .name")
    page.wait("document.querySelector('.who')?.textContent.startsWith('cropped-seed0 · greedy')")
    assert page.run("return document.activeElement.id") == "run"
    assert page.run("return document.getElementById('settings-run').selectedIndex") == 1


@IN_BROWSER
def test_curves_say_their_values(page):
    page.run("document.querySelector('.chart').focus()")
    page.press("Home", "Left", "End", "Right", "Left")
    assert texts(page, "#curve-value") == ["whole-seed0 (validation): 0.400 at step 10"]
    page.press("Down")
    assert texts(page, "#curve-value") == ["cropped-seed0 (training): 1.500 at step 10"]
    page.click("#axis label:nth-of-type(2)")
    page.run("document.querySelectorAll('.chart')[1].focus()")
    page.press("Left", "Down")
    assert texts(page, "#curve-value") == ["cropped-seed0: 11.0 at 15 s"]
    page.click("#legend button:nth-child(2)")
    lines = "return [...document.querySelectorAll('path.curve')].map((e) => e.dataset.run)"
    assert set(page.run(lines)) == {"0"}


@IN_BROWSER
def test_the_gallery_sorts_and_searches(page):
    choose(page, "run", "whole-seed0 · greedy")
    assert shown_images(page)[0] == 0  # The only one with words of its references.
    choose(page, "order", "worst first")
    assert shown_images(page)[-1] == 0
    choose(page, "run", "whole-seed0 · beam")
    choose(page, "order", "most different first")
    assert texts(page, ".card:first-child .who")[1].startswith("cropped-seed0 · beam")
    assert shown_images(page)[0] == IMAGES - 1
    assert texts(page, ".card:first-child .score :is(.better, .worse)")
    assert not texts(page, ".card:last-child .score :is(.better, .worse)")
    (said,) = texts(page, "#comparison")
    better = [int(count) for count in re.findall(r"better in (\d+)", said)]
    assert 0 < sum(better) < IMAGES
    assert said.endswith(f"and {IMAGES - sum(better)} are equal.")
    page.run("document.activeElement.blur()")
    page.press("/", *"blue pict")
    assert shown_images(page) == [IMAGES - 1]
    assert texts(page, "#count") == [f"1 of {IMAGES} images"]
    assert texts(page, ".word.found") == ["blue", "picture"]
    page.click("#in-references")
    assert len(shown_images(page)) == IMAGES / 3
    assert set(texts(page, "mark")) == {"blue", "picture"}


CANVAS = """(() => {
  const canvas = document.querySelector("canvas.on");
  return canvas && [canvas.dataset.word, canvas.style.left];
})()"""


def test_words_show_where_the_model_looked(page):
    choose(page, "order", "as in the data")
    words = texts(page, ".card:first-child button.word")
    page.point(".card:first-child button.word:nth-of-type(2)")
    assert page.wait(CANVAS) == ["1", "0%"]
    assert texts(page, ".card:first-child figcaption") == [f"at “{words[1]}”"]
    # All of it is coloured, and by more than one colour.
    colours = page.run("""const canvas = document.querySelector("canvas.on");
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const colours = new Set();
      for (let at = 0; at < data.length; at += 4) colours.add(data.slice(at, at + 4).join());
      return [...colours]""")
    assert len(colours) > 20
    assert {colour.split(",")[3] for colour in colours} == {"153"}
    page.point("h1")
    page.wait("!document.querySelector('canvas.on')")

    page.run("document.querySelector('.card:first-child button.word').focus()")
    page.wait(CANVAS)
    page.press("Right", "Right")
    page.wait(f"({CANVAS})?.[0] === '2'")
    assert page.run("return document.activeElement.dataset.word") == "2"
    page.press("Down")
    page.wait("document.querySelector('.card:nth-child(2) canvas.on')")
    page.press("Escape")
    page.wait("!document.querySelector('canvas.on')")
    # One tab stop a caption.
    assert len(texts(page, ".card:first-child button.word[tabindex='0']")) == 1


@IN_BROWSER
def test_arrow_keys_pass_over_captions_without_attention(page):
    choose(page, "order", "as in the data")
    choose(page, "other", "whole-seed0 · greedy")
    assert not texts(page, ".card:first-child .other button.word")
    page.run("document.querySelector('.card button.word').focus()")
    place = "return document.activeElement.closest('.card').dataset.image"
    page.press("Down")
    assert page.run(place) == "1"
    page.press("Up")
    assert page.run(place) == "0"


@IN_BROWSER
def test_what_differs_most_is_beside_another_run(page):
    choose(page, "order", "most different first")
    choose(page, "other", "cropped-seed0 · beam")
    choose(page, "run", "cropped-seed0 · beam")
    assert texts(page, ".card:first-child .run") == ["cropped-seed0 · beam", "whole-seed0 · beam"]
    assert page.run("return document.getElementById('other').selectedOptions[0].text").startswith(
        "whole-seed0"
    )


@IN_BROWSER
def test_maps_lie_on_what_was_seen(page):
    choose(page, "run", "cropped-seed0 · beam")
    page.run("document.querySelector('.card button.word').focus()")
    assert page.wait(CANVAS)[1] == "10%"


@IN_BROWSER
def test_other_decodings_share_maps_where_they_say_the_same(page):
    choose(page, "run", "whole-seed0 · greedy")
    choose(page, "order", "as in the data")
    assert texts(page, ".card:first-child .word") == ["a", "red", "wall"]
    assert not texts(page, ".card:first-child button.word")
    assert texts(page, ".card:nth-child(2) button.word")
    # Words that no reference has are told apart.
    assert not texts(page, ".card:first-child .unheard")
    assert texts(page, ".card:nth-child(2) .unheard")


@IN_BROWSER
def test_settings_are_there(page):
    assert "decoder.width" not in texts(page, ".differs th")  # Of the configs, this is the same.
    assert texts(page, ".differs th") == ["dataset.keep_aspect"]
    page.click("#settings-different")
    page.click("#settings-filter")
    page.press(*"num_beams")
    assert "decoding.num_beams" in texts(page, ".fields th")
    assert "dataset fingerprint" in texts(page, ".fields th")


@IN_BROWSER
@pytest.mark.parametrize("width", [PHONE, 1280])
def test_everything_fits_the_screen(browser, report, width):
    browser.open(report / "index.html", width, 800)
    settle(browser)
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.body.scrollWidth <= document.body.clientWidth")
    columns = "return getComputedStyle(document.getElementById('cards')).gridTemplateColumns"
    assert len(browser.run(columns).split()) == (1 if width == PHONE else 2)
    assert browser.run("return [...document.images].every((image) => image.alt)")
    assert browser.complaints() == []


@IN_BROWSER
def test_a_thousand_images_are_drawn_as_they_are_scrolled_to(browser, report, tmp_path):
    index, images, said = first_run(report)
    images = {name: found * 100 for name, found in images.items()}
    said = {name: found * 100 if isinstance(found, list) else found for name, found in said.items()}
    copy(report, tmp_path, report=index, images=images, captions_0_0=said)
    browser.open(tmp_path / "index.html")
    settle(browser)
    count = "document.querySelectorAll('.card').length"
    first = browser.run(f"return {count}")
    assert first <= 100
    assert texts(browser, "#count") == [f"{100 * IMAGES:,} of {100 * IMAGES:,} images"]
    browser.run("document.getElementById('footer').scrollIntoView()")
    browser.wait(f"{count} > {first}")


UGLY = [
    '<b>a</b> &amp; "dog" \'</script>',
    "\u05db\u05dc\u05d1 \u05e8\u05e5 \u05de\u05d4\u05e8",  # Hebrew, which runs to the left.
    "\N{DOG FACE} a\u0301 dog",
    "x" * 500,
    "",
]


@IN_BROWSER
def test_any_text_is_shown_as_it_is(browser, report, tmp_path):
    index, images, said = first_run(report)
    number = len(UGLY)
    images = {name: found if name == "total" else found[:number] for name, found in images.items()}
    images |= {"ids": UGLY, "references": [[text] for text in UGLY]}
    said |= {"captions": UGLY, "words": [re.findall(r"\s*\S+", text) for text in UGLY]}
    said["words"][2].insert(0, "")  # The first of the tokens of one character.
    maps = [[1, 2, base64.b64encode(b"\x00\xff" * len(words)).decode()] for words in said["words"]]
    index["title"] = index["runs"][0]["variant"] = index["runs"][0]["name"] = "<i>" + "name" * 50
    index["rows"] = [row | {"run": index["title"]} for row in index["rows"][:1]]
    handed = {"captions_0_0": said, "attention_0_0_0": maps}
    copy(report, tmp_path, report=index, images=images, **handed)
    for width in (1280, PHONE):
        browser.open(tmp_path / "index.html", width, 800)
        settle(browser)
        choose(browser, "order", "as in the data")
        assert texts(browser, ".caption") == [*UGLY[:-1], "says nothing"]
        assert texts(browser, ".references li") == UGLY
        assert texts(browser, "h1") == [index["title"]]
        stops = "[...c.querySelectorAll('button.word')].filter((b) => b.tabIndex === 0).length"
        stops = browser.run(
            f"return [...document.querySelectorAll('.caption')].map((c) => {stops})"
        )
        assert stops == [1, 1, 1, 1, 0]
        inside = "return document.body.scrollWidth <= document.body.clientWidth"
        assert browser.run(inside)
        name = "return document.querySelector('#results .name').getBoundingClientRect().right"
        assert browser.run(name) < width / 2
    browser.run("document.querySelector('.card:nth-child(2) button.word').focus()")
    browser.press("Left", "Left")
    assert browser.run("return document.activeElement.dataset.word") == "2"
    browser.click("#search")
    browser.press(*"zebra")
    assert texts(browser, "#cards") == ["no caption has all these words"]
    browser.press(*["Backspace"] * 5)
    assert len(shown_images(browser)) == number
    assert browser.complaints() == []


@IN_BROWSER
def test_a_missing_file_is_named_and_shows_nothing_else(browser, report, tmp_path):
    index, images, said = first_run(report)
    index["runs"] *= 2
    copy(report, tmp_path, report=index, images=images, captions_0_0=said)
    browser.open(tmp_path / "index.html")
    settle(browser)
    assert len(shown_images(browser)) == IMAGES
    browser.run("document.getElementById('run').selectedIndex = 1")
    browser.run("document.getElementById('run').dispatchEvent(new Event('input'))")
    settle(browser)
    assert "captions-1-0" in texts(browser, "#gallery-note")[0]
    assert not shown_images(browser)
    assert browser.complaints()  # Of the file.


@IN_BROWSER
def test_wall_time_is_shown_where_all_runs_have_it(browser, report, tmp_path):
    index, images, said = first_run(report)
    for curve in index["runs"][0]["curves"].values():
        curve["wall_seconds"] = [2.0 * step for step in curve["step"]]
    copy(report, tmp_path, report=index, images=images, captions_0_0=said)
    browser.open(tmp_path / "index.html")
    settle(browser)
    assert texts(browser, "#time-title") == ["wall time"]
    browser.click("#axis label:nth-of-type(2)")
    browser.run("document.querySelector('.chart').focus()")
    browser.press("End")
    assert texts(browser, "#curve-value") == ["whole-seed0 (validation): 0.200 at 40 s"]
