"""Configs, parts and the face of the command import neither JAX nor TensorFlow."""

from tests.helpers.command_line import python
from tests.helpers.shipped import READ_CHECKPOINTS

HEAVY = ("jax", "jaxlib", "flax", "optax", "tensorflow", "tensorflow_datasets")

PROGRAM = f"""
import importlib, pathlib, sys
import configs.base, capjax, capjax.cli.app, capjax.config.shipped, capjax.parts
for file in sorted(pathlib.Path("configs").glob("*.py")):
    module = importlib.import_module(f"configs.{{file.stem}}")
    if hasattr(module, "get_config") and file.stem not in {READ_CHECKPOINTS!r}:
        print(file.stem, module.get_config().decoder.name)
heavy = sorted(set({HEAVY!r}) & sys.modules.keys())
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""


def test_configs_are_made_without_jax():
    done = python("-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    assert "shapes_transformer transformer\n" in done.stdout
    assert "coco_bahdanau_gru bahdanau\n" in done.stdout
