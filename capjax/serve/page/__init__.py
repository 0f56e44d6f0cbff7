"""The page of the server: static files, which load nothing but themselves.

`FILES` has the file of each address of the page. It keeps to a Content-Security-Policy of its own
server alone, without inline scripts or styles; `index.html` states it.
"""

from pathlib import Path
from typing import Any

from capjax.evaluate import caption_view
from capjax.serve.served import Served, SettingsError

_HERE = Path(__file__).parent

FILES: dict[str, Path] = {"/": _HERE / "index.html"} | {
    f"/page/{file.name}": file
    for file in (*_HERE.glob("page.*"), _HERE / "icon.svg", *caption_view.FILES)
}
FILES |= {f"/page/examples/{file.name}": file for file in _HERE.glob("examples/*.*g")}

# As in page.js.
_SHOWN, _TOP_P = 4, 0.9


def usual(served: Served) -> list[dict[str, Any]]:
    """The settings besides a model's own that the page asks for where nobody changed any."""
    offered, own = {found["name"]: found for found in served.settings()}, served.defaults()
    if "num_captions" not in offered:
        return []
    shown = min(_SHOWN, offered["num_captions"].get("most", _SHOWN))
    found: list[dict[str, Any]] = []
    beams = own["num_beams"] if own["method"] == "beam" else shown
    if own["num_captions"] == 1 and min(shown, beams) > 1:
        found.append({"num_captions": min(shown, beams)})
    if own["method"] != "sample" and "sample" in offered["method"]["choices"]:
        samples = {"method": "sample", "num_captions": shown, "seed": own["seed"]}
        found.append({**samples, "top_p": _TOP_P})
    return [settings for settings in found if _takes(served, settings)]


def _takes(served: Served, settings: dict[str, Any]) -> bool:
    try:
        served.method(settings)
    except SettingsError:
        return False
    return True
