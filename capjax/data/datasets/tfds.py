"""Datasets of TensorFlow Datasets (TFDS): `coco_captions`, and those with its features."""

import dataclasses

from capjax.data.dataset import Dataset
from capjax.data.source import Source
from capjax.parts.types import Name

# TFDS has Karpathy's names, and his train split in two parts.
_COCO_SPLITS = {"train": "train+restval", "validation": "val"}


@dataclasses.dataclass(frozen=True)
class Tfds(Dataset):
    """A dataset of TFDS, downloaded and prepared where needed.

    Attributes:
      tfds_name: TFDS's name: "coco_captions", or another dataset with its features.
      data_dir: TFDS's root folder of datasets; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    """

    tfds_name: Name
    data_dir: str = ""

    may_change = ("data_dir",)

    def open(self, split: str) -> Source:
        """Opens one split, by its name in TFDS.

        For coco_captions "train" is Karpathy's train + restval and "validation" his val.

        Raises:
          DataError: the dataset cannot be prepared or has no such split; the message says what
            would work.
        """
        # Imported here, because only TFDS's datasets need tensorflow-datasets.
        from capjax.data.tfds_source import TfdsSource, prepared

        builder = prepared(self.tfds_name, self.data_dir)
        if self.tfds_name.partition("/")[0] == "coco_captions":
            split = _COCO_SPLITS.get(split, split)
        return TfdsSource(builder, split)


PART = Tfds
