"""The headline config on a small dataset with COCO's features, and without any."""

import json

import pytest

from capjax.run.evaluate import evaluate
from capjax.run.train import train
from configs import coco_transformer
from tests.helpers.command_line import main
from tests.helpers.small_weights import ALPHA, write_small_weights
from tests.helpers.tiny_coco import builder_class, coco_features

CONFIG = "configs/coco_transformer.py"
# As large as the config has it but for what a laptop can't do in seconds.
SMALL = {
    "dtype": "float32",  # In bfloat16 a CPU's program takes long to compile.
    "num_steps": 2,
    "eval_every": 2,
    "batch_size": 4,
    "optimizer.warmup_steps": 1,
    "dataset.image_size": 32,
    "encoder.alpha": ALPHA,
    "adapter.depth": 1,
    "adapter.width": 32,
    "decoder.width": 32,
    "decoder.num_heads": 2,
    "decoder.num_layers": 1,
    "tokenizer.min_count": 1,
    "evaluation.batch_size": 4,
    "evaluation.num_samples": 0,
    "decoding.num_beams": 2,
}


@pytest.mark.slow(reason="its data and, on other data, its training are tested every day")
def test_trains_and_evaluates_on_cocos_features(tmp_path, caplog):
    builder_class(coco_features())(
        data_dir=tmp_path / "data", file_format="array_record"
    ).download_and_prepare()
    write_small_weights(tmp_path / "small.weights.h5")
    config = coco_transformer.get_config()
    here = {"encoder.weights": str(tmp_path / "small.weights.h5")}
    here |= {"dataset.data_dir": str(tmp_path / "data"), "dataset.cache_dir": str(tmp_path)}
    config.update_from_flattened_dict({**SMALL, **here})
    train(config, str(tmp_path / "run"))
    assert "coco_captions/train+restval:" in caplog.text
    assert "of 50 images" in caplog.text
    metrics = evaluate(config, str(tmp_path / "run"), split="validation", checkpoint="best")
    assert "CIDEr-D" in metrics
    assert "truth_rate" not in metrics
    results = next((tmp_path / "run" / "evaluation").glob("validation-*.captions.json"))
    # Image ids are COCO's integers again.
    assert sorted(row["image_id"] for row in json.loads(results.read_text())) == [50, 51, 52]


@pytest.mark.slow(reason="a process that imports TFDS; errors of datasets are tested every day")
def test_says_what_it_needs_where_coco_is_not(home, tmp_path):
    # Where there is a network it must not be found: COCO is 40 GB.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    arguments = [f"--config.dataset.data_dir={tmp_path}", f"--workdir={tmp_path / 'run'}"]
    done = main(home, *arguments, config=CONFIG, check=False, no_proxy="", **nowhere)
    assert done.returncode == 1
    assert "coco_captions is not prepared in" in done.stderr
    assert "download" in done.stderr
    assert "Traceback" not in done.stderr
