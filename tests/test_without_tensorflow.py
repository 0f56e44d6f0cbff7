"""All but the tf.data pipeline and the TFDS source import where TensorFlow is not installed."""

import pytest

from tests.helpers.command_line import REPOSITORY, python

HIDE = """
import sys

class Hides:
    # Not by sys.modules[name] = None: einops takes that for an imported TensorFlow.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        hidden = name.partition(".")[0] in ("tensorflow", "tensorflow_datasets")
        return None if hidden else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Hides, sys.meta_path)
"""

# Of TensorFlow, and of the extra `onnx`.
OTHERS = ["capjax.data.tfds_source", "capjax.data.shapes.builder"]
OTHERS += ["capjax.artefact.onnx_runner", "capjax.artefact.write_onnx"]
IMPORTS = f"""
OTHERS = {OTHERS}
import importlib, pathlib
for file in sorted(pathlib.Path("capjax").rglob("*.py")):
    module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    if module not in OTHERS:
        importlib.import_module(module)
        print(module)
"""

TRAINS = """
import pathlib, sys
from capjax.run.evaluate import evaluate, metrics_line
from capjax.run.train import train
from tests.helpers.tiny_run import over_features, write_folder

folder = pathlib.Path(sys.argv[1])
write_folder(folder)
config, run = over_features(folder), str(folder / "run")
train(config, run)
print(metrics_line(evaluate(config, run, split="validation", checkpoint="latest")))
"""


def test_everything_else_imports():
    done = python("-c", f"{HIDE}{IMPORTS}")
    imported = done.stdout.split()
    count = len([*(REPOSITORY / "capjax").rglob("*.py")]) - len(OTHERS)
    assert len({*imported} & {"capjax.main", "capjax.caption", "capjax.train.loop"}) == 3
    assert sum(name.startswith("capjax") for name in imported) >= count, done.stderr


@pytest.mark.slow(reason="a run of its own; the modules are imported every day")
def test_a_run_over_cached_features_trains_and_evaluates(tmp_path):
    done = python("-c", f"{HIDE}{TRAINS}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"CIDEr-D"' in done.stdout
