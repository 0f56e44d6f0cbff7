"""Datasets of TensorFlow Datasets (TFDS): `coco_captions`, and those with its features."""

import dataclasses

from capjax.data.dataset import Dataset
from capjax.data.source import Source
from capjax.parts.types import Name

# TFDS keeps Karpathy's names and his two parts of the train split apart.
_COCO_SPLITS = {"train": "train+restval", "validation": "val"}


@dataclasses.dataclass(frozen=True)
class Tfds(Dataset):
    """A dataset of TFDS, downloaded and prepared where it is not there.

    Attributes:
      tfds_name: TFDS's name of it: "coco_captions", or another with its features.
      data_dir: TFDS's root folder of datasets; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    """

    tfds_name: Name
    data_dir: str = ""

    def open(self, split: str) -> Source:
        """One split, by TFDS's name of it.

        Of coco_captions, "train" is Karpathy's train + restval and "validation" his val.

        Raises:
          DataError: the dataset is neither there nor to be had, or has no such split; the message
            says what would work.
        """
        # Imported here, because only this needs tensorflow-datasets.
        from capjax.data.tfds_source import TfdsSource, prepared

        builder = prepared(self.tfds_name, self.data_dir)
        if self.tfds_name.partition("/")[0] == "coco_captions":
            split = _COCO_SPLITS.get(split, split)
        return TfdsSource(builder, split)


PART = Tfds
