import io
import itertools
import sys
import time

import numpy as np
import pytest
from PIL import Image

from capjax.data.augment import Augmentation, draw_view
from capjax.data.batches import TrainBatches
from capjax.data.captions import encode_captions, read_captions
from capjax.data.images import ImageError, load_pixels
from capjax.data.reading import eval_batches
from capjax.data.resize import Resize
from capjax.data.source import Example
from capjax.data.tokenizer import train_word_tokenizer
from tests.helpers.command_line import python
from tests.helpers.sources import Source
from tests.helpers.ugly_images import encode

pytest.importorskip("tensorflow")
pipeline = pytest.importorskip("capjax.data.pipeline")
train_batches = pipeline.train_batches

TOKENIZER = train_word_tokenizer([" ".join("abcdefgh")])
SIZE = 6


class TinySource(Source):
    """Images of one colour, a different one each; image i has i % 4 captions."""

    name = "tiny/train"

    def __init__(self, images=11, broken=()):
        rng = np.random.default_rng(0)
        super().__init__([])
        for i in range(images):
            content = encode(Image.new("RGB", (8 + i, 9), (20 * i, 7, 255 - i)))
            captions = (
                " ".join(rng.choice(list("abcdefgh"), n)) for n in rng.integers(1, 9, i % 4)
            )
            encoded = b"not an image" if i in broken else content
            self.examples.append(Example(encoded, f"id-{i}", tuple(captions)))


SOURCE = TinySource()
ENCODED = encode_captions(read_captions(SOURCE, None), TOKENIZER, max_length=9, over_length="drop")
OPTIONS = {"batch_size": 4, "captions_per_image": 2, "resize": Resize(SIZE), "seed": 1}


def take(count, source=SOURCE, **options):
    batches = train_batches(source, ENCODED, TOKENIZER, **(OPTIONS | options))
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_pixels_belong_to_their_captions():
    for batch in take(9, length_bucket=3):
        assert batch["image"].shape == (4, SIZE, SIZE, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["tokens"].shape[:2] == batch["lengths"].shape == (4, 2)
        for pixels, tokens, lengths in zip(*batch.values(), strict=True):
            i = pixels[0, 0, 0] // 20
            np.testing.assert_array_equal(pixels, load_pixels(SOURCE[i].image, SIZE))
            for ids, length in zip(tokens, lengths, strict=True):
                if length:
                    assert TOKENIZER.decode(ids[1:]) in SOURCE[i].captions


@pytest.mark.parametrize("batch_size", [1, 4, 17])
@pytest.mark.parametrize("bucket", [None, 3])
def test_resuming_gives_the_same_batches(batch_size, bucket):
    options = {"batch_size": batch_size, "length_bucket": bucket, "bucket_window": 3}
    whole = take(11, **options)
    for first in (1, 7):
        assert_equal(take(11 - first, first_step=first, **options), whole[first:])


class NoisySource(TinySource):
    """Images in which no part is like another."""

    def __init__(self):
        super().__init__()
        for i, example in enumerate(self.examples):
            noise = np.random.default_rng(i).integers(0, 255, (20, 30 - i, 3)).astype(np.uint8)
            self.examples[i] = example._replace(image=encode(noise))


NOISY = NoisySource()
AUGMENTATION = Augmentation(crop_area=0.2, flip=True)


def augmented_by_position(count, augmentation=AUGMENTATION, **options):
    """The pixels at each place of the stream of images, from some way of cutting it."""
    options = OPTIONS | options
    batches = take(count, source=NOISY, augmentation=augmentation, **options)
    plan = TrainBatches(
        ENCODED,
        TOKENIZER,
        **{k: v for k, v in options.items() if k not in ("resize", "num_threads")},
    )
    return {
        int(position): (int(index), pixels)
        for step, batch in enumerate(batches)
        for position, index, pixels in zip(
            plan.positions(step), plan.index(step), batch["image"], strict=True
        )
    }


def test_augmentation_depends_on_the_position_alone():
    whole = augmented_by_position(12)
    assert sorted(whole) == list(range(48))
    for position, (index, pixels) in whole.items():
        picture = Image.open(io.BytesIO(NOISY[index].image))
        crop, flip = draw_view(AUGMENTATION, 1, position, picture.size)
        expected = load_pixels(picture, SIZE, crop=crop, flip=flip)
        np.testing.assert_array_equal(pixels, expected)
    for options in (
        {"batch_size": 16},
        {"batch_size": 3, "num_threads": 2},
        {"length_bucket": 3, "bucket_window": 2},
        {"packed": True, "captions_per_image": 1},
    ):
        other = augmented_by_position(3, **options)
        for position in other:
            assert other[position][0] == whole[position][0]
            np.testing.assert_array_equal(other[position][1], whole[position][1])
    # When it comes again, an image is seen otherwise.
    again = {}
    for index, pixels in whole.values():
        again.setdefault(index, set()).add(pixels.tobytes())
    assert all(len(seen) > 3 for seen in again.values())


@pytest.mark.parametrize("bucket", [None, 3])
def test_augmented_batches_resume_and_divide(bucket):
    options = {"length_bucket": bucket, "bucket_window": 3}
    options |= {"source": NOISY, "augmentation": AUGMENTATION}
    whole = take(9, **options)
    assert_equal(take(4, first_step=5, **options), whole[5:])
    halves = [take(9, process_index=h, process_count=2, **options) for h in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)]
    assert_equal(joined, whole)


def test_augmentation_that_is_off_changes_nothing():
    plain = take(6, source=NOISY)
    assert_equal(take(6, source=NOISY, augmentation=Augmentation()), plain)
    for index, pixels in augmented_by_position(6, augmentation=None).values():
        np.testing.assert_array_equal(pixels, load_pixels(NOISY[index].image, SIZE))
    mirrored = take(6, source=NOISY, augmentation=Augmentation(flip=True))
    before, after = (np.concatenate([b["image"] for b in some]) for some in (plain, mirrored))
    flipped = (before[:, :, ::-1] == after).all((1, 2, 3))
    assert ((before == after).all((1, 2, 3)) != flipped).all()
    assert 5 < flipped.sum() < 19


class SlowSource(TinySource):
    """Some of its images take their time."""

    def __getitem__(self, index):
        time.sleep(0.02 * (index % 3 == 0))
        return super().__getitem__(index)


def test_slow_images_change_nothing():
    quick = take(12, num_threads=1, batch_size=1)
    assert_equal(take(12, num_threads=5, batch_size=1, source=SlowSource()), quick)


@pytest.mark.parametrize("bucket", [None, 3])
def test_shares_of_two_hosts_make_up_the_batch(bucket):
    options = {"length_bucket": bucket, "bucket_window": 3}
    halves = [take(7, process_index=h, process_count=2, **options) for h in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)]
    assert_equal(joined, take(7, **options))


@pytest.mark.parametrize("batch_size", [4, 11, 16])
def test_evaluation_has_every_image_once(batch_size):
    options = {"batch_size": batch_size, "resize": Resize(SIZE)}
    batches = list(eval_batches(SOURCE, ENCODED, TOKENIZER, **options))
    assert {batch["image"].shape[0] for batch in batches} == {batch_size}
    assert len({batch["tokens"].shape for batch in batches}) == 1
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[index >= 0].tolist() == list(range(11))
    for batch in batches:
        for i, pixels, lengths in zip(
            batch["index"], batch["image"], batch["lengths"], strict=True
        ):
            expected = load_pixels(SOURCE[i].image, SIZE) if i >= 0 else np.zeros_like(pixels)
            np.testing.assert_array_equal(pixels, expected)
            assert (lengths > 0).sum() == (i % 4 if i >= 0 else 0)


def test_evaluation_without_captions_and_with_hosts():
    options = {"batch_size": 4, "resize": Resize(SIZE), "process_count": 2}
    both = [
        list(eval_batches(SOURCE, None, TOKENIZER, process_index=h, **options)) for h in range(2)
    ]
    assert [len(batches) for batches in both] == [3, 3]
    assert all(batch.keys() == {"image", "index"} for batches in both for batch in batches)
    index = np.concatenate([b["index"] for pair in zip(*both, strict=True) for b in pair])
    assert index.tolist() == [*range(11), -1]
    assert (
        list(eval_batches(TinySource(0), None, TOKENIZER, batch_size=4, resize=Resize(SIZE))) == []
    )


def test_an_unusable_image_is_named_after_the_good_batches():
    batches = eval_batches(
        TinySource(broken=[6]), ENCODED, TOKENIZER, batch_size=2, resize=Resize(SIZE)
    )
    assert [next(batches)["index"].tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ImageError, match="'id-6' of tiny/train: not an image"):
        next(batches)


def test_an_unusable_image_stops_training():
    with pytest.raises(ImageError, match="'id-9' of tiny/train"):
        take(20, source=TinySource(broken=[9]))


def test_an_error_of_the_source_comes_through():
    class Failing(TinySource):
        def __getitem__(self, index):
            if index == 5:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="the disk is gone"):
        take(20, source=Failing())


def test_wrong_arguments_are_refused_before_reading():
    with pytest.raises(ValueError, match="multiple of the 3"):
        train_batches(SOURCE, ENCODED, TOKENIZER, process_count=3, **OPTIONS)
    with pytest.raises(ValueError, match="not read from tiny/train"):
        train_batches(TinySource(5), ENCODED, TOKENIZER, **OPTIONS)


@pytest.mark.slow(reason="imports TensorFlow in a process of its own")
def test_leaving_in_the_middle_ends_the_process(tmp_path):
    # Threads of tf.data that still want Python's lock while it shuts down would hang it.
    script = tmp_path / "leave.py"
    script.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('test', {__file__!r})\n"
        "test = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(test)\n"
        "source = test.SlowSource()\n"
        "batches = test.train_batches(source, test.ENCODED, test.TOKENIZER, **test.OPTIONS)\n"
        "next(batches)\n"
    )
    done = python(script, PYTHONPATH=":".join(sys.path))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
