"""Captions in a notebook: images whose words show where the model looked."""

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from capjax.data.images import AnyImage, load_image
from capjax.data.resize import Resize, Resizes
from capjax.evaluate.caption_view import FILES, encode_maps, pieces, seen_part
from capjax.files.text import finite

if TYPE_CHECKING:
    from capjax.evaluate.captioning import Caption

# Longest side of an image in the notebook's file, in pixels.
_SIDE = 480

# Each output runs a script of its own, and a shadow root keeps its style from the notebook's. Where
# scripts are not run, as in a notebook that is not trusted, the captions are there as text.
_OUTPUT = """<div data-captions="{name}">{texts}</div>
<script>(() => {{
{view}
const style = {style}, all = {all};
for (const host of document.querySelectorAll('[data-captions="{name}"]')) {{
  if (host.shadowRoot) continue;
  const root = host.attachShadow({{mode: "open"}});
  root.append(Object.assign(document.createElement("style"), {{textContent: style}}));
  const grid = root.appendChild(document.createElement("div"));
  grid.className = "gallery";
  for (const said of all) captionView.show(grid, said);
}}
}})();</script>"""


class CaptionView:
    """Images and their captions, which a notebook draws.

    Attributes:
      images: as they were given.
      captions: of each.
    """

    def __init__(
        self,
        images: Sequence[AnyImage],
        captions: Sequence["Caption"],
        resize: Resize | Resizes,
    ):
        self.images, self.captions, self._resize = images, captions, resize

    def __repr__(self) -> str:
        return "\n".join(caption.text for caption in self.captions)

    def _repr_html_(self) -> str:
        rows = [self._row(*pair) for pair in zip(self.images, self.captions, strict=True)]
        style, view = (file.read_text(encoding="utf-8") for file in FILES)
        data = _script(rows)
        return _OUTPUT.format(
            name=hashlib.sha256(data.encode()).hexdigest()[:16],
            texts="".join(f"<p>{html.escape(caption.text)}</p>" for caption in self.captions),
            view=view,
            style=_script(style),
            all=data,
        )

    def _row(self, image: AnyImage, caption: "Caption") -> dict[str, Any]:
        """What `captionView.show` takes."""
        picture = load_image(image)
        row: dict[str, Any] = {
            "seen": seen_part(self._resize, *picture.size),
            "text": caption.text,
            "pieces": pieces(caption.text, caption.words),
            "log_probs": caption.log_probs,
            "attention": None if caption.attention is None else encode_maps(caption),
            "alternatives": [other.text for other in caption.alternatives],
        }
        picture.thumbnail((_SIDE, _SIDE))
        # A drawing stays sharp, and a photograph small.
        kind = "PNG" if max(picture.size) < 160 else "JPEG"
        file = io.BytesIO()
        picture.save(file, kind, quality=85)
        content = base64.b64encode(file.getvalue()).decode()
        return {**row, "src": f"data:image/{kind.lower()};base64,{content}"}


def _script(value: Any) -> str:
    """JSON that a <script> element can hold."""
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
