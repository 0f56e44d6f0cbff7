"""A caption whose words show where the model looked: one component for all pages that draw it.

The report, the server's page and `Run.show` hand a script of `FILES` what `encode_maps` and
`pieces` give; its functions are documented there.
"""

from pathlib import Path

from capjax.evaluate.caption_view.encoding import encode_maps, pieces, seen_part

__all__ = ["FILES", "encode_maps", "pieces", "seen_part"]

FILES = tuple(Path(__file__).parent / name for name in ("view.css", "view.js"))
