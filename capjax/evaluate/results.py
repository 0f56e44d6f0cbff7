"""Evaluation results: COCO results JSON, and the code version that made them."""

import importlib.metadata
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from capjax.evaluate.captioning import Caption


def coco_results(captions: Mapping[str, Caption]) -> list[dict[str, Any]]:
    """Rows of the COCO results format; a plain decimal image id becomes an integer."""
    return [
        {"image_id": _id(image_id), "caption": caption.text}
        for image_id, caption in captions.items()
    ]


def alternatives_of(captions: Mapping[str, Caption]) -> list[dict[str, Any]]:
    """Rows of all captions of each image, the best first, with their scores."""
    return [
        {
            "image_id": _id(image_id),
            "captions": [
                {"caption": each.text, "log_prob": each.log_prob, "score": each.score}
                for each in caption
            ],
        }
        for image_id, caption in captions.items()
    ]


def _id(image_id: str) -> int | str:
    return int(image_id) if re.fullmatch("0|[1-9][0-9]{0,17}", image_id) else image_id


def code_version() -> dict[str, str]:
    """The versions of capjax and JAX, the git commit of a checkout, and the backend of JAX."""
    return {
        "capjax": _package_version(),
        "commit": commit(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }


def _package_version() -> str:
    try:
        return importlib.metadata.version("capjax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Commit of the capjax checkout; not of a repository that has it in a virtual environment."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "no checkout"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
