"""Sources of TensorFlow Datasets (TFDS) with the features of `coco_captions`.

They are read by random access from ArrayRecord files, without TensorFlow; images stay encoded.
"""

import hashlib
import json
import os
import urllib.error
import urllib.request

import numpy as np
import tensorflow_datasets as tfds

from capjax.data.source import Example
from capjax.files.errors import DataError

# Size of the archives that TFDS 4.9 downloads for coco_captions, by its checksum files: train2014,
# val2014, test2014, test2015 and the annotations. Unpacking needs the same again.
_COCO_DOWNLOAD = "of about 40 GB"

_PROBE_SECONDS = 5
_HASHED_BYTES = 1 << 16
_HASHED_EXAMPLES = 64


class TfdsSource:
    """One split of a prepared TFDS dataset; thread-safe.

    Attributes:
      name: dataset and split, e.g. "coco_captions/train+restval".
      fingerprint: digest of dataset, version and split, and of its content, so that a dataset
        prepared anew, whose record files have other bytes, has the same fingerprint.
      former_fingerprint: by the rule of earlier versions: of the record files' bytes.
      selection: {}.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *, generated: bool = False):
        """Opens a split, or any split expression of TFDS, such as "train[:1000]".

        Args:
          builder: of a prepared dataset.
          split: the split.
          generated: whether a program makes the content, of which name and version then say all;
            else the fingerprint takes in the sizes of all splits and 64 examples of this one.

        Raises:
          DataError: the dataset lacks features of coco_captions, its files do not allow random
            access, or there is no such split; the message lists those that exist.
        """
        try:
            files = builder.info.splits[split].file_instructions
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{builder.info.name} has no split {split!r}; there are "
                f"{', '.join(sorted(builder.info.splits))}"
            ) from error
        features = _check_features(builder.info)
        self._id_key = next(key for key in ("image/id", "image/filename") if key in features)
        # Parsing only these three takes half the time of parsing all features of COCO.
        self._features = tfds.features.FeaturesDict(
            {key: features[key] for key in ("image", self._id_key, "captions")}
        )
        self._decoders = {"image": tfds.decode.SkipDecoding()}
        try:
            self._records = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except NotImplementedError as error:
            raise DataError(
                f"{builder.data_dir} was prepared without random access. Convert it: python -m "
                f"tensorflow_datasets.scripts.convert_format --dataset_version_dir="
                f"{builder.data_dir} --out_file_format=array_record --out_dir=NEW_FOLDER, or "
                "prepare it anew in another data_dir"
            ) from error
        self.name = f"{builder.info.name}/{split}"
        self.selection = {}
        self.fingerprint = self._fingerprint(builder.info, split, generated)
        self.former_fingerprint = _former_fingerprint(builder.info, split, files)

    def _fingerprint(self, info: tfds.core.DatasetInfo, split: str, generated: bool) -> str:
        parts = [info.full_name, split, len(self)]
        if not generated:
            parts += [info.splits[name].num_bytes for name in sorted(info.splits)]
            for index in np.unique(np.linspace(0, len(self) - 1, _HASHED_EXAMPLES, dtype=int)):
                image, *rest = self[index]
                parts.append([hashlib.sha256(image).hexdigest(), *rest])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        # TFDS raises ValueError, but a for loop over the source ends by IndexError only.
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has no example {index}, only {len(self)}")
        record = self._features.deserialize_example_np(
            self._records[int(index)], decoders=self._decoders
        )
        texts = record["captions"]["text"]
        return Example(record["image"], _text(record[self._id_key]), tuple(map(_text, texts)))


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_features(info: tfds.core.DatasetInfo) -> dict[str, tfds.features.FeatureConnector]:
    features = dict(info.features)
    missing = []
    if not isinstance(features.get("image"), tfds.features.Image):
        missing.append("image: tfds.features.Image")
    if "image/id" not in features and "image/filename" not in features:
        missing.append("image/id or image/filename")
    captions = features.get("captions")
    if not isinstance(captions, tfds.features.Sequence) or "text" not in captions.feature:
        missing.append('captions: tfds.features.Sequence({"text": ...})')
    if missing:
        raise DataError(
            f"{info.name} lacks features of coco_captions: {'; '.join(missing)}. "
            f"It has {', '.join(features)}"
        )
    return features


def _former_fingerprint(info: tfds.core.DatasetInfo, split: str, files) -> str:
    parts = [info.full_name, split]
    for file in files:
        path = tfds.core.Path(file.filename)
        with path.open("rb") as content:
            head = hashlib.sha256(content.read(_HASHED_BYTES)).hexdigest()
        parts.append([path.name, path.stat().length, head, file.skip, file.take])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def data_root(data_dir: str):
    """The root folder of TFDS's datasets; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return tfds.core.Path(data_dir or default).expanduser()


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a dataset, downloaded and prepared where needed.

    Args:
      name: TFDS's name, with or without a config: "coco_captions/2014".
      data_dir: see `data_root`.

    Raises:
      DataError: the dataset cannot be prepared; the message says what would work.
    """
    root = data_root(data_dir)
    return _find_prepared(name, root) or _prepare(name, root)


def _find_prepared(name: str, root) -> tfds.core.DatasetBuilder | None:
    """The newest version prepared under root/name, read without the dataset's own code."""
    folders = [
        info.parent
        for pattern in ("*/dataset_info.json", "*/*/dataset_info.json")
        for info in (root / name).glob(pattern)
        # Not the folder of an unfinished preparation.
        if tfds.core.Version.is_valid(info.parent.name)
    ]
    if not folders:
        return None
    if len(configs := sorted({str(folder.parent) for folder in folders})) > 1:
        raise DataError(f"{name} is prepared in several configs, name one: {', '.join(configs)}")
    return tfds.builder_from_directory(max(folders, key=lambda f: tfds.core.Version(f.name)))


def _prepare(name: str, root) -> tfds.core.DatasetBuilder:
    """Downloads a dataset and writes it as ArrayRecord."""
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(
            f"{name} is not prepared in {root}, and TensorFlow Datasets has no dataset of that "
            "name; see `tfds.list_builders()`"
        ) from error
    sizes = {url: info.size for url, info in (builder.url_infos or {}).items()}
    try:
        _probe(next((url for url in sizes if url.startswith("http")), None))
        builder.download_and_prepare()
    except Exception as error:  # No common class: network, disk, manual downloads, ...
        size = f"of up to {sum(sizes.values()) / 1e6:,.0f} MB" if sizes else "of unknown size"
        if builder.name == "coco_captions":
            size = _COCO_DOWNLOAD
        manual = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        raise DataError(
            f"{name} is not prepared in {root}, and preparing it failed: {error}. What would "
            f"work: run once with a network (a download {size}, kept in {root}/downloads); or "
            f"copy a prepared ArrayRecord folder from elsewhere to {builder.data_dir}; or give "
            "its data_dir." + (f" Files to download by hand: {manual}" if manual else "")
        ) from error
    return builder


def _probe(url: str | None) -> None:
    """Raises OSError at once for a host without connection, which TFDS retries for minutes."""
    if url is None:
        return
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()  # The host answers; TFDS reports a missing file.
    except OSError as error:
        raise OSError(f"no connection to {request.host} ({error})") from error
