"""A headless Chromium, driven by the W3C WebDriver protocol that its chromedriver speaks."""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # What a test points at is to stay there.
    "--disable-smooth-scrolling",
)

# Keys by the code points that the protocol has for them.
KEYS = {
    "Backspace": "\ue003",
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "End": "\ue010",
    "Home": "\ue011",
    "Left": "\ue012",
    "Up": "\ue013",
    "Right": "\ue014",
    "Down": "\ue015",
}


class Browser:
    """One window."""

    def __init__(self, address: str, profile, binary: str):
        self._address = address
        options = {"binary": binary, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/{made['sessionId']}"
        # A machine may stand still for minutes.
        self._ask("/timeouts", {"script": 60_000, "pageLoad": 60_000})

    def open(self, file, width: int = 1280, height: int = 1000) -> None:
        """Shows a file or an address in a window of this size, which may be a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        # Without it elements that are given the focus are not told so until something is clicked.
        self.devtools("Emulation.setFocusEmulationEnabled", enabled=True)
        self._ask("/url", {"url": "about:blank"})
        self._ask("/url", {"url": file if isinstance(file, str) else file.resolve().as_uri()})

    def devtools(self, command: str, **parameters):
        return self._ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str, *arguments):
        """What a function's body returns, a promise's result among it."""
        return self._ask("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments):
        """What an expression gives once it is true; looked at anew with every frame."""
        watch = f"""return new Promise((done) => {{
          const look = () => {{
            const found = ({script});
            if (found) done(found); else requestAnimationFrame(look);
          }};
          look();
        }})"""
        return self.run(watch, *arguments)

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other: by `KEYS`, or what they type."""
        pressed = [KEYS.get(key, key) for key in keys]
        actions = [
            {"type": kind, "value": value} for value in pressed for kind in ("keyDown", "keyUp")
        ]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def point(self, selector: str, *, click: bool = False) -> None:
        """Moves the mouse to the middle of the first element that fits, and may click."""
        # What comes into view may take its true size then, and move others.
        where = self.run(
            """const found = document.querySelector(arguments[0]);
            let last = null, frames = 0;
            return new Promise((done) => {
              const look = () => {
                found.scrollIntoView({block: "center"});
                const {left, top, width, height} = found.getBoundingClientRect();
                const here = [left + width / 2, top + height / 2].map(Math.round);
                frames = String(here) === last ? frames + 1 : 0;
                if (frames > 5) return done(here);
                last = String(here);
                requestAnimationFrame(look);
              };
              look();
            })""",
            selector,
        )
        move = {"type": "pointerMove", "x": where[0], "y": where[1], "duration": 0}
        actions = [move]
        if click:
            actions += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        self._ask("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def click(self, selector: str) -> None:
        self.point(selector, click=True)

    def complaints(self) -> list[str]:
        """What the page has written to its console since this was asked last."""
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def close(self) -> None:
        self._ask("", method="DELETE")

    def _ask(self, path: str, value=None, method: str = "POST"):
        body = None if value is None else json.dumps(value).encode()
        asked = urllib.request.Request(self._address + path, body, method=method)
        try:
            with urllib.request.urlopen(asked) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None


@contextlib.contextmanager
def opened(profile):
    """A browser with a new profile in a folder; skips where Chromium or its driver is missing."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        ports = (re.search(r"on port (\d+)\.", line) for line in process.stdout)
        port = next(found for found in ports if found)[1]
        browser = Browser(f"http://127.0.0.1:{port}/session", profile, binary)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
