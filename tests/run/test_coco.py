"""The headline config on a small dataset with COCO's features, and without any."""

import json

import pytest

from tests.helpers.command_line import main
from tests.helpers.small_weights import ALPHA, write_small_weights
from tests.helpers.tiny_coco import builder_class, coco_features

CONFIG = "configs/coco_transformer.py"
# As large as the config has it but for what a laptop can't do in seconds.
SMALL = [
    "--config.num_steps=2",
    "--config.eval_every=2",
    "--config.batch_size=4",
    "--config.optimizer.warmup_steps=1",
    "--config.dataset.image_size=32",
    f"--config.encoder.alpha={ALPHA}",
    "--config.adapter.depth=1",
    "--config.adapter.width=32",
    "--config.decoder.width=32",
    "--config.decoder.num_heads=2",
    "--config.decoder.num_layers=1",
    "--config.tokenizer.min_count=1",
    "--config.evaluation.batch_size=4",
    "--config.evaluation.num_samples=0",
    "--config.decoding.num_beams=2",
]


@pytest.mark.slow(reason="its data and, on other data, its training are tested every day")
def test_trains_and_evaluates_on_cocos_features(home, tmp_path):
    builder_class(coco_features())(
        data_dir=tmp_path / "data", file_format="array_record"
    ).download_and_prepare()
    write_small_weights(tmp_path / "small.weights.h5")
    arguments = [
        *SMALL,
        f"--config.encoder.weights={tmp_path / 'small.weights.h5'}",
        f"--config.dataset.data_dir={tmp_path / 'data'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    done = main(home, *arguments, config=CONFIG)
    assert "coco_captions/train+restval:" in done.stdout
    assert "of 50 images" in done.stdout
    done = main(home, *arguments, "--mode", "evaluate", "--split", "validation", config=CONFIG)
    metrics = json.loads(done.stdout.splitlines()[-1])
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
