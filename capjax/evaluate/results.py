"""Evaluation results on disk: COCO results JSON, and metrics with all that made them."""

import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from capjax.data.atomic import write_atomic
from capjax.evaluate.captioning import Caption


def write_json(path: str, value: Any) -> None:
    """Writes readable JSON atomically, making its folder."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode("utf-8"))


def coco_results(captions: Mapping[str, Caption]) -> list[dict[str, Any]]:
    """The COCO results format; an image id in plain decimal becomes the integer COCO wants."""
    return [
        {
            "image_id": int(image_id) if re.fullmatch("0|[1-9][0-9]*", image_id) else image_id,
            "caption": caption.text,
        }
        for image_id, caption in captions.items()
    ]


def code_version() -> dict[str, str]:
    """capjax's version, its git commit where it is a checkout, and JAX's version and backend."""
    here = os.path.dirname(os.path.abspath(__file__))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "capjax": importlib.metadata.version("capjax"),
        "commit": commit.stdout.strip() or "unknown",
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }
