"""Writes a captioner as a folder of transformers, the inverse of `read`.

The family's class, `AutoTokenizer` and `AutoImageProcessor` load from it.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import safetensors.numpy

from capjax.files.atomic import check_local, write_atomic
from capjax.pretrained.captioners.captioner import PretrainedCaptioner
from capjax.pretrained.captioners.generation_file import write_generation
from capjax.pretrained.errors import ExportError
from capjax.pretrained.preprocessing_file import write_preprocessing
from capjax.pretrained.vit import huggingface


def check_free(folder: str | os.PathLike) -> None:
    """Raises ExportError for a place where something lies, since nothing is written over.

    Raises OSError for a URL.
    """
    check_local(folder)
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise ExportError(f"{folder} is there already; give a folder that is new, or empty")


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[str]:
    """Yields an empty folder that is renamed to `folder` at the end, and removed after an error.

    Raises:
      ExportError: there is something already.
      OSError: it can't be written.
    """
    check_free(folder)
    place = os.path.abspath(folder)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    start = f".{os.path.basename(place)}."
    temporary = tempfile.mkdtemp(dir=os.path.dirname(place), prefix=start)
    try:
        yield temporary
        # mkdtemp makes folders for the owner alone.
        os.chmod(temporary, 0o755)
        os.rename(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_captioner(captioner: PretrainedCaptioner, folder: str | os.PathLike) -> list[str]:
    """Writes the folder, whole or not at all.

    Args:
      captioner: its position embeddings must be those of the grid of the images that `resize`
        makes, since current releases of transformers do not resample them.
      folder: a new or an empty one.

    Returns:
      The names of its files.

    Raises:
      ExportError: there is something already; or transformers has no such encoder, activation or
        resize.
      OSError: it can't be written.
    """
    check_free(folder)
    contents, tensors = _contents(captioner)
    with new_folder(folder) as temporary:
        most = captioner.fields.decoder["max_length"]
        contents |= captioner.family.write_tokenizer(captioner.tokenizer, temporary, most)
        for name, content in contents.items():
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            write_atomic(os.path.join(temporary, name), text.encode())
        weights = safetensors.numpy.save(tensors, {"format": "pt"})
        write_atomic(os.path.join(temporary, "model.safetensors"), weights)
        names = sorted(os.listdir(temporary))
    return names


def _contents(captioner: PretrainedCaptioner) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Returns the contents of the JSON files, by name, and the weights."""
    family, params = captioner.family, captioner.variables["params"]
    encoder = huggingface.write_config(
        captioner.encoder, captioner.resize.size, family.encoder_types
    )
    vit = huggingface.to_tensors(params["encoder"], captioner.encoder, encoder)
    tensors = {
        **{family.encoder_prefix + name: tensor for name, tensor in vit.items()},
        **family.to_tensors(params),
    }
    tensors = {name: np.ascontiguousarray(a, np.float32) for name, a in tensors.items()}
    mean, std = captioner.encoder["mean"], captioner.encoder["std"]
    return {
        "config.json": {
            "architectures": [family.architecture],
            "model_type": family.model_type,
            **family.write_config(captioner, encoder),
        },
        "generation_config.json": write_generation(captioner.generation, captioner.tokenizer),
        "preprocessor_config.json": {
            **write_preprocessing(captioner.resize, mean, std, family.resizer),
            **({"processor_class": family.processor} if family.processor else {}),
        },
    }, tensors
