"""The dataset sections of a config, with one comment per field."""

from ml_collections import ConfigDict


def _dataset(name: str) -> ConfigDict:
    """Fields that every dataset has."""
    dataset = ConfigDict()
    dataset.name = name
    # Folder of parsed captions, checks of images and features of a frozen encoder, keyed by the
    # dataset's fingerprint; "" keeps no captions or checks, and makes cached features an error.
    dataset.cache_dir = "~/.cache/capjax"
    # Side of the square image that the encoder takes, in pixels.
    dataset.image_size = 64
    # Side to which images are resized before the central square is cropped; 0 crops nothing.
    dataset.resize_to = 0
    # Whether that resize keeps the aspect ratio: resize_to is then the shorter edge, else both.
    dataset.keep_aspect = False
    # "bilinear", "bicubic", "nearest", "box", "hamming" or "lanczos".
    dataset.interpolation = "bilinear"
    # Whether downscaling filters all pixels; False, as in TensorFlow, only with "bilinear".
    dataset.antialias = True
    # Whether half of an odd margin is rounded as in torchvision (half to even), else down.
    dataset.round_crop = False
    # Random resized crops in training: smallest share of an image's area in a crop; 1 does not
    # crop.
    dataset.crop_area = 1.0
    # Whether training mirrors half of the images. Off, because captions say left and right.
    dataset.flip = False
    # Captions per image in a training batch; of an image with more, a random choice.
    dataset.captions_per_image = 5
    # Longest training caption in tokens, with its end token.
    dataset.max_length = 24
    # Treatment of a longer caption: "drop" or "cut".
    dataset.over_length = "drop"
    # Whether captions are packed, so that a step computes on their tokens and not on padding.
    dataset.packed = True
    # Images of similar caption length share a batch, padded or packed to a multiple of this many
    # tokens; 0 gives all batches one shape.
    dataset.length_bucket = 8
    # Threads that read and decode images.
    dataset.num_threads = 4
    return dataset


def shapes_dataset() -> ConfigDict:
    """Procedural scenes, generated locally (`capjax.data.datasets.shapes`)."""
    dataset = _dataset("shapes")
    # Where TFDS keeps datasets; "" is TFDS's own default (~/tensorflow_datasets).
    dataset.data_dir = ""
    return dataset


def tfds_dataset(name: str = "shapes") -> ConfigDict:
    """A dataset of TFDS (`capjax.data.datasets.tfds`); "shapes" gives `shapes_dataset`."""
    if name == "shapes":
        return shapes_dataset()
    dataset = _dataset("tfds")
    # "coco_captions", or a dataset with the same features.
    dataset.tfds_name = name
    # Where TFDS keeps datasets; "" is TFDS's own default (~/tensorflow_datasets).
    dataset.data_dir = ""
    return dataset


def _files_dataset(name: str) -> ConfigDict:
    """Fields that every dataset of a user's files has."""
    dataset = _dataset(name)
    # Treatment of images that are missing, have no caption or can't be read: "refuse" to start and
    # name them, or "skip".
    dataset.bad_images = "refuse"
    # Whether images outside of the root are read: by an absolute path, "..", or a link.
    dataset.allow_outside = False
    return dataset


def flickr8k_dataset() -> ConfigDict:
    """Flickr8k's ordinary download (`capjax.data.datasets.flickr8k`)."""
    dataset = _files_dataset("flickr8k")
    # Its folder: images, captions.txt or Flickr8k.token.txt, and the split lists.
    dataset.root = ""
    return dataset


def karpathy_dataset() -> ConfigDict:
    """Karpathy's splits of COCO, Flickr8k or Flickr30k (`capjax.data.datasets.karpathy`)."""
    dataset = _files_dataset("karpathy")
    # dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json.
    dataset.file = ""
    # Folder of the images; for COCO the one that has train2014/ and val2014/.
    dataset.root = ""
    # Whether "restval" belongs to the train split, as is usual for COCO.
    dataset.restval = True
    return dataset


def coco_json_dataset() -> ConfigDict:
    """COCO's own caption files (`capjax.data.datasets.coco_json`)."""
    dataset = _files_dataset("coco_json")
    # captions_train*.json, and the folder of its images.
    dataset.train_file = ""
    dataset.train_root = ""
    # captions_val*.json, and the folder of its images; not read when a sample is drawn.
    dataset.validation_file = ""
    dataset.validation_root = ""
    # Number of captions or images sampled from the train file and split 80/20 into train and
    # validation; 0 reads both files whole.
    dataset.sample = 0
    # Unit of the sample: "captions" (then an image can be in both splits) or "images".
    dataset.sample_by = "captions"
    # Seed of the sample.
    dataset.sample_seed = 0
    return dataset


def folder_dataset() -> ConfigDict:
    """Your own images: a table of image, caption, split, or a folder (`capjax.data.rows`)."""
    dataset = _files_dataset("folder")
    # The table, with one caption per row; or a folder of images with metadata or text files.
    dataset.file = ""
    # Folder of relative image paths; "" is the file's folder.
    dataset.root = ""
    # Share of the images that becomes validation if the file has no splits; two images at least.
    dataset.validation_share = 0.1
    # Seed of that choice.
    dataset.split_seed = 0
    return dataset


def own_dataset(name: str, **fields) -> ConfigDict:
    """A dataset of your own, registered under `name`, with its fields (`docs/extending.md`)."""
    dataset = _dataset(name)
    dataset.update(fields)
    return dataset
