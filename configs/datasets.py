"""The dataset sections of a config, every field with a comment."""

from ml_collections import ConfigDict


def _dataset(name: str) -> ConfigDict:
    """What every dataset has."""
    dataset = ConfigDict()
    dataset.name = name
    # Where captions read once, checks of images and features of a frozen encoder are kept, keyed by
    # the dataset's fingerprint; "" keeps no captions or checks, and refuses features.
    dataset.cache_dir = "~/.cache/capjax"
    # Side of the square that an encoder sees, in pixels.
    dataset.image_size = 64
    # Side that images are resized to before that square is cut out of the middle; 0 cuts nothing.
    dataset.resize_to = 0
    # Whether that resize keeps the aspect ratio: resize_to is the shorter edge, or both.
    dataset.keep_aspect = False
    # "bilinear", "bicubic", "nearest", "box", "hamming" or "lanczos".
    dataset.interpolation = "bilinear"
    # Whether it takes in all pixels of a larger image; without, as TensorFlow, only "bilinear".
    dataset.antialias = True
    # Whether an odd margin is halved as in torchvision (half to even); else down.
    dataset.round_crop = False
    # Random resized crops in training: least share of an image's area that a crop keeps; 1 does
    # not crop.
    dataset.crop_area = 1.0
    # Whether training mirrors half of the images. Off, because captions say left and right.
    dataset.flip = False
    # Captions of an image in one training batch; an image with more gives a random choice.
    dataset.captions_per_image = 5
    # Longest training caption in tokens, its end token counted.
    dataset.max_length = 24
    # What happens to a longer one: "drop" or "cut".
    dataset.over_length = "drop"
    # Whether a step computes on the captions' tokens alone, packed, or on their padding too.
    dataset.packed = True
    # Images of like caption length come in one batch, padded or packed to a multiple of this many
    # tokens; 0 gives all batches one shape.
    dataset.length_bucket = 8
    # Threads that read and decode images.
    dataset.num_threads = 4
    return dataset


def shapes_dataset() -> ConfigDict:
    """Procedural scenes, made on the spot (`capjax.data.datasets.shapes`)."""
    dataset = _dataset("shapes")
    # Where TFDS keeps datasets; "" is TFDS's own default (~/tensorflow_datasets).
    dataset.data_dir = ""
    return dataset


def tfds_dataset(name: str = "shapes") -> ConfigDict:
    """A dataset of TFDS (`capjax.data.datasets.tfds`); "shapes" is that of `shapes_dataset`."""
    if name == "shapes":
        return shapes_dataset()
    dataset = _dataset("tfds")
    # "coco_captions", or any with its features.
    dataset.tfds_name = name
    # Where TFDS keeps datasets; "" is TFDS's own default (~/tensorflow_datasets).
    dataset.data_dir = ""
    return dataset


def _files_dataset(name: str) -> ConfigDict:
    """A user's files, read where they lie."""
    dataset = _dataset(name)
    # A file that can't be read as an image: "refuse" to start, naming it, or "skip" and count it.
    dataset.bad_images = "refuse"
    # Whether an image may lie outside of its root: by an absolute path, by "..", or by a link.
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
    # Draws so many captions or images from the train file and splits them 80/20 into train and
    # validation; 0 takes both files whole.
    dataset.sample = 0
    # What is drawn: "captions" (then an image may lie in both splits) or "images".
    dataset.sample_by = "captions"
    # Seed of the draw.
    dataset.sample_seed = 0
    return dataset


def folder_dataset() -> ConfigDict:
    """Your own images: a JSONL or CSV file of image, caption, split (`data.datasets.folder`)."""
    dataset = _files_dataset("folder")
    # The file; a row a caption.
    dataset.file = ""
    # Folder that image paths start from; "" is the file's own.
    dataset.root = ""
    # Share of the images that becomes validation where the file names no splits.
    dataset.validation_share = 0.1
    # Seed of that choice.
    dataset.split_seed = 0
    return dataset


def own_dataset(name: str, **fields) -> ConfigDict:
    """A dataset of your own, registered under `name`, with its fields (`docs/extending.md`)."""
    dataset = _dataset(name)
    dataset.update(fields)
    return dataset
