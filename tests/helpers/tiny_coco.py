"""A small TFDS dataset of the very features and layout of coco_captions, made where it is used."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SPLITS = {"train": range(40), "restval": range(40, 50), "val": range(50, 53), "test": range(53, 55)}


def image(i):
    content = io.BytesIO()
    Image.new("RGB", (9, 7), (i, 2 * i, 255 - i)).save(content, "JPEG", quality=95)
    return content.getvalue()


def builder_class(features, *, splits=SPLITS, dataset="coco_captions", **changed):
    """A dataset of the given features, laid out as TFDS lays out the one of that name."""

    class Dataset(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014")]  # noqa: RUF012
        name = dataset
        code_path = None  # TFDS would look beside this file for checksums

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(ids) for name, ids in splits.items()}

        def _generate_examples(self, ids):
            for i in ids:
                captions = [{"id": k, "text": f"caption {k} of {i}, é"} for k in range(i % 3 + 1)]
                box = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
                example = {
                    "image": image(i),
                    "image/filename": f"COCO_{i:012d}.jpg",
                    "image/id": i,
                    "objects": [
                        {"id": 1, "area": 2, "bbox": box, "label": 3, "is_crowd": False},
                    ],
                    "captions": captions,
                } | changed
                yield i, {key: example[key] for key in features}

    return Dataset


def coco_features():
    """The features of TFDS 4.9's coco_captions."""
    return {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "objects": tfds.features.Sequence(
            {
                "id": np.int64,
                "area": np.int64,
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=80),
                "is_crowd": np.bool_,
            }
        ),
        "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
    }
