"""The `shapes` dataset for TensorFlow Datasets, with the features of `coco_captions`.

Example i of a split is the image `shapes-<seed>-<split>-<i>`; `scene.scene_of` and
`grammar.captions_of` generate its scene and captions from that id.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator, Mapping

import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from capjax.data.shapes.draw import draw
from capjax.data.shapes.grammar import captions_of
from capjax.data.shapes.scene import SIZE, SPLITS, image_id, scene_of

SPLIT_SIZES = {"train": 8000, "validation": 1000, "test": 500, "heldout": 500}
"""Images a split."""


@dataclasses.dataclass(eq=False)
class ShapesConfig(tfds.core.BuilderConfig):
    """Number of images of each split, and the seed of the scenes."""

    sizes: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(SPLIT_SIZES))
    seed: int = 0


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Procedural scenes of two to four coloured shapes with five captions each."""

    # Must be raised when an image or a caption changes: the fingerprint of the data is of its name,
    # in which are the seed and the sizes, and of this.
    VERSION = tfds.core.Version("1.0.0")
    # There are no checksum files. TFDS 4.9.10 would look for them with importlib_resources, which
    # it does not declare as a dependency.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Two to four shapes that differ in colour, size and texture, with five captions "
                "of a small grammar each. The heldout split pairs colours and textures with "
                "shapes that the other splits never show with them."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "image/filename": tfds.features.Text(),
                    "image/id": tfds.features.Text(),
                    "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                }
            ),
            disable_shuffling=True,  # example i is image i
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        config = self.builder_config or ShapesConfig(name="default")
        return {
            split: self._generate_examples(split, number, config.seed)
            for split, number in config.sizes.items()
        }

    def _generate_examples(
        self, split: str, number: int, seed: int
    ) -> Iterator[tuple[int, dict[str, object]]]:
        for index in range(number):
            name = image_id(split, index, seed)
            yield (
                index,
                {
                    "image": io.BytesIO(encode_png(name)),
                    "image/filename": f"{name}.png",
                    "image/id": name,
                    "captions": [{"text": text} for text in captions_of(name)],
                },
            )


def encode_png(image_id: str) -> bytes:
    """The PNG file of an image, generated from its id."""
    buffer = io.BytesIO()
    # Level 1 is several times as fast as Pillow's default; the files are a tenth larger.
    Image.fromarray(draw(scene_of(image_id))).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def prepare(
    data_dir: str | os.PathLike | None = None,
    sizes: Mapping[str, int] = SPLIT_SIZES,
    seed: int = 0,
) -> tfds.core.DatasetBuilder:
    """The `shapes` builder; writes its data as ArrayRecord where needed.

    Args:
      data_dir: TFDS's root folder of datasets; None for TFDS's default.
      sizes: images a split. Other sizes than SPLIT_SIZES, or another seed, have a folder of their
        own.
      seed: of the scenes and captions; part of every image id.

    Raises:
      ValueError: `sizes` has an unknown or empty split, or `data_dir` has `shapes` in another file
        format.
    """
    wrong = {name: size for name, size in sizes.items() if name not in SPLITS or size < 1}
    if wrong or not sizes:
        raise ValueError(
            f"sizes must have one image or more for some of {', '.join(SPLITS)}; got {dict(sizes)}"
        )
    config = None
    if dict(sizes) != SPLIT_SIZES or seed:
        parts = [f"{split}{sizes[split]}" for split in SPLITS if split in sizes]
        config = ShapesConfig(name="-".join([f"seed{seed}", *parts]), sizes=sizes, seed=seed)

    def build() -> Shapes:
        return Shapes(data_dir=data_dir, config=config, file_format="array_record")

    with _quiet():
        builder = build()
        try:
            builder.download_and_prepare()
        except OSError:
            # Another process may have finished the same data meanwhile.
            builder = build()
            if not builder.is_prepared():
                raise
    return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's printed lines and log; its progress bar is on stderr."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
