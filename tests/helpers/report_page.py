"""A report's page: its data, and what a browser shows of it."""

import json
import re
import shutil
from pathlib import Path


def value(file: Path):
    """What a file of the page's data hands over."""
    found = re.fullmatch(r'report\.put\("([\w-]+)",(.*)\);\n', file.read_text(), re.DOTALL)
    assert found[1] == file.stem
    return json.loads(found[2])


def copy(page, folder, **handed):
    """A page like the report's in a new folder, with what is handed over instead of its data."""
    shutil.copytree(page, folder, ignore=shutil.ignore_patterns("data"), dirs_exist_ok=True)
    (folder / "data").mkdir()
    for name, found in handed.items():
        name = name.replace("_", "-")
        script = f"report.put({json.dumps(name)},{json.dumps(found)});\n"
        (folder / "data" / f"{name}.js").write_text(script)


def first_run(report):
    """What the page is handed of a report with the first run and evaluation alone."""
    index = value(report / "data/report.js")
    index["runs"] = index["runs"][:1]
    index["runs"][0]["evaluations"] = index["runs"][0]["evaluations"][:1]
    return index, value(report / "data/images.js"), value(report / "data/captions-0-0.js")


def texts(page, selector):
    return page.run(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def shown_images(page):
    return page.run("return [...document.querySelectorAll('.card')].map((e) => +e.dataset.image)")


def settle(page):
    """Waits for the cards that were asked for."""
    page.wait("document.getElementById('cards').ariaBusy === 'false'")


def choose(page, name, wanted):
    """Chooses in a select, by an option's text; what is drawn after that is there."""
    page.run(
        """const select = document.getElementById(arguments[0]);
        select.value = [...select.options].find((o) => o.text === arguments[1]).value;
        select.dispatchEvent(new Event("input", {bubbles: true}))""",
        name,
        wanted,
    )
    settle(page)
