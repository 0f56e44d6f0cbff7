"""Procedural scenes of coloured shapes, captioned by a grammar; generated without a download."""

import dataclasses

from capjax.data.dataset import Dataset
from capjax.data.shapes import truth
from capjax.data.shapes.foils import foils_of
from capjax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Shapes(Dataset):
    """The `shapes` dataset, prepared by TFDS, with metrics of the truth of captions.

    Attributes:
      data_dir: TFDS's root folder of datasets; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
    """

    data_dir: str = ""

    may_change = ("data_dir",)
    metrics = truth.METRICS
    scorers = (lambda captions, references: truth.caption_metrics(captions),)
    image_scorers = (truth.image_metrics,)
    make_foils = staticmethod(foils_of)

    def open(self, split: str) -> Source:
        """Opens one split: "train", "validation", "test" or "heldout".

        Raises:
          DataError: there is no such split; the message lists those that exist.
        """
        # Imported here, because only TFDS's datasets need tensorflow-datasets.
        from capjax.data.shapes.builder import prepare
        from capjax.data.tfds_source import TfdsSource, data_root

        return TfdsSource(prepare(data_root(self.data_dir)), split, generated=True)


PART = Shapes
