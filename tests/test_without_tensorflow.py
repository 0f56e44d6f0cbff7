"""All but the tf.data pipeline and the TFDS source import where TensorFlow is not installed."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

BLOCKED = """
import importlib, pathlib, sys
for name in ("tensorflow", "tensorflow_datasets"):
    sys.modules[name] = None  # Any import of it fails.
for file in sorted(pathlib.Path("capjax").rglob("*.py")):
    module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    if module not in ("capjax.data.tfds_source", "capjax.data.shapes.builder"):
        importlib.import_module(module)
        print(module)
"""


def test_everything_else_imports():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert "capjax.main" in imported
    assert "capjax.caption" in imported
    assert "capjax.train.loop" in imported
