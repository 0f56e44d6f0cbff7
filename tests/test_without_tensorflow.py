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


TRAIN = """
import sys

class Hides:
    # Not by sys.modules[name] = None: einops takes that for an imported TensorFlow.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        hidden = name.partition(".")[0] in ("tensorflow", "tensorflow_datasets")
        return None if hidden else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Hides, sys.meta_path)
import numpy as np
from PIL import Image
from capjax.run.evaluate import evaluate, metrics_line
from capjax.run.train import train
from configs import folder_transformer
from tests.helpers.small_weights import ALPHA, write_small_weights

folder = sys.argv[1]
write_small_weights(f"{folder}/small.weights.h5")
rows = ["image,caption,split"]
for number in range(6):
    Image.fromarray(np.full((40, 40, 3), 40 * number, np.uint8)).save(f"{folder}/{number}.png")
    rows.append(f"{number}.png,a grey wall,{'train' if number < 4 else 'validation'}")
with open(f"{folder}/captions.csv", "w") as file:
    file.write(chr(10).join(rows))
config = folder_transformer.get_config()
config.dataset.file = f"{folder}/captions.csv"
config.dataset.cache_dir = f"{folder}/cache"
config.dataset.image_size = 32
config.encoder.weights = f"{folder}/small.weights.h5"
config.encoder.alpha = ALPHA
config.adapter.width = config.decoder.width = 16
config.batch_size = config.num_steps = config.eval_every = config.evaluation.batch_size = 2
config.optimizer.warmup_steps = 1
config.evaluation.num_samples = 0
train(config, f"{folder}/run")
print(metrics_line(evaluate(config, f"{folder}/run", split="validation", checkpoint="latest")))
"""


def test_a_run_over_cached_features_trains_and_evaluates(tmp_path):
    command = [sys.executable, "-c", TRAIN, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"CIDEr-D"' in done.stdout


def test_everything_else_imports():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert "capjax.main" in imported
    assert "capjax.caption" in imported
    assert "capjax.train.loop" in imported
