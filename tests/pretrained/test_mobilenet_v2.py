"""ImageNet weights by name: which file, and what is said where it can't be had."""

import sys

import pytest

from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.pretrained.keras.mobilenet_v2 import imagenet_file, load_mobilenet_v2
from capjax.pretrained.weights import WeightsError
from tests.helpers.keras_downloads import fake_keras
from tests.helpers.small_weights import ALPHA, write_small_weights


@pytest.fixture(name="asked")
def make_asked(monkeypatch):
    """Keras's downloader, replaced: notes what it was asked for."""
    asked = []

    def get_file(name, origin, cache_subdir):
        asked.append((name, origin, cache_subdir))
        return f"/models/{name}"

    fake_keras(monkeypatch, get_file)
    return asked


@pytest.mark.parametrize(
    ("alpha", "side", "file"),
    [(1.0, 224, "1.0_224"), (0.35, 100, "0.35_96"), (1.4, 500, "1.4_224"), (0.5, 64, "0.5_96")],
)
def test_the_file_of_this_width_and_the_nearest_size(asked, alpha, side, file):
    """Names as keras.applications.mobilenet_v2 forms them."""
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{file}_no_top.h5"
    assert imagenet_file(MobileNetV2(alpha), side) == f"/models/{name}"
    ((asked_name, origin, folder),) = asked
    assert asked_name == name
    assert origin.endswith(f"/keras-applications/mobilenet_v2/{name}")
    assert folder == "models"


def test_what_is_downloaded_is_loaded(monkeypatch, tmp_path):
    write_small_weights(tmp_path / "small.weights.h5")
    fake_keras(monkeypatch, lambda *_, **__: str(tmp_path / "small.weights.h5"))
    found = load_mobilenet_v2(MobileNetV2(ALPHA), "imagenet", 96)
    assert found["params"]["Conv1"]["kernel"].shape == (3, 3, 3, 16)


def test_without_a_network_it_says_what_would_work(monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure")  # As Keras raises it.

    fake_keras(monkeypatch, fail)
    with pytest.raises(WeightsError, match=r"URL fetch failure.*encoder\.weights=FILE"):
        imagenet_file(MobileNetV2(), 224)


def test_without_keras_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras.utils", None)
    with pytest.raises(WeightsError, match=r"not installed.*pip install keras"):
        imagenet_file(MobileNetV2(), 224)


def test_there_are_no_weights_of_other_widths():
    with pytest.raises(WeightsError, match=r"for alpha \(0\.35, .*\), not 0\.9"):
        imagenet_file(MobileNetV2(0.9), 224)
