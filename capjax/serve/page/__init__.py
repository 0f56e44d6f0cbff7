"""The page of the server: static files, which load nothing but themselves.

`FILES` has the file of each address of the page. It keeps to a Content-Security-Policy of its own
server alone, without inline scripts or styles; `index.html` states it.
"""

from pathlib import Path

from capjax.evaluate import caption_view

_HERE = Path(__file__).parent

FILES: dict[str, Path] = {"/": _HERE / "index.html"} | {
    f"/page/{file.name}": file
    for file in (*_HERE.glob("page.*"), _HERE / "icon.svg", *caption_view.FILES)
}
FILES |= {f"/page/examples/{file.name}": file for file in _HERE.glob("examples/*.*g")}
