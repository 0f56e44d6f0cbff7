"""What Python code and config files of users rest on, as JSON values.

    python -m tests.compatibility.interface

adds to `interface.json` what is not in it yet; the rest was made by the code of commit c32e60f.
"""

import dataclasses
import importlib.util
import inspect
import json
import os
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

import capjax
from configs import base
from tests.compatibility import runs
from tests.helpers.small_captioner_files import write_captioner_files

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "interface.json"

_ENCODERS = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "inception_v3",
    "resnet50",
    "resnet101",
    "resnet152",
)

# Every config file, and the documented arguments that need no network. Files lie in the folder of
# `vit_frozen` and of `exported`, and beside them those of a BLIP and a GIT.
CONFIGS = {
    "coco_bahdanau_gru": (),
    "coco_blip": ("./blip",),
    "coco_git": ("./git",),
    "coco_show_attend_tell": ("fine_tune",),
    "coco_transformer": ("karpathy", "coco_json"),
    "coco_vit_gpt2": ("./captioner",),
    "flickr8k_bahdanau_gru": ("mobilenet_v2",),
    "flickr8k_show_attend_tell": ("mobilenet_v2",),
    "flickr8k_transformer": ("fine_tune", *_ENCODERS, "./vit.safetensors"),
    "folder_blip": ("./blip",),
    "folder_git": ("./git",),
    "folder_transformer": (*_ENCODERS, "./vit.safetensors"),
    "folder_vit_gpt2": ("./captioner",),
    "shapes_transformer": (),
    "shapes_vit_gpt2": (),
}
# These without an argument read a captioner of huggingface.co.
_NEED_NETWORK = tuple(
    f"{data}_{model}" for data in ("coco", "folder") for model in ("vit_gpt2", "blip", "git")
)

# Functions of `configs.base` that give a section or a config.
SECTIONS = (
    "adapter",
    "bahdanau_decoder",
    "blip_decoder",
    "coco_json_dataset",
    "conv_encoder",
    "efficientnet_b0",
    "flickr8k_dataset",
    "folder_dataset",
    "get_config",
    "git_decoder",
    "gpt2_decoder",
    "inception_v3",
    "karpathy_dataset",
    "mobilenet_v2",
    "mobilenet_v3",
    "patch_encoder",
    "resnet",
    "tfds_dataset",
    "transformer_decoder",
    "vit",
)
# And those that change one.
CHANGES = {"use_encoder": "./vit.safetensors", "use_captioner": "./captioner"}

SWEEPS = ("shapes_variants", "flickr8k_variants", "flickr8k_recurrent", "coco_variants")

CLASSES = ("BeamSearch", "Caption", "Run", "Sampling")


def describe(folder: Path) -> dict:
    """All of it; `folder` has the files of the runs `vit_frozen` and `exported`."""
    for kind in ("blip", "git"):
        write_captioner_files(folder / kind, kind)
    before = os.getcwd()
    os.chdir(folder)
    try:
        found = {
            "exported": sorted(capjax.__all__),
            "classes": {name: _describe_class(getattr(capjax, name)) for name in CLASSES},
            "load": _parameters(capjax.load),
            "configs": {name: flat(make()) for name, make in _config_files()},
            "sections": {name: flat(getattr(base, name)()) for name in SECTIONS},
            "changes": {name: flat(_changed(name, by)) for name, by in CHANGES.items()},
            "sweeps": {name: _describe_sweep(name) for name in SWEEPS},
        }
    finally:
        os.chdir(before)
    return json.loads(json.dumps(found))


def flat(config: ConfigDict, prefix: str = "") -> dict:
    """Every field by its dotted name."""
    found = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _config_files():
    for name, arguments in CONFIGS.items():
        make = _module(ROOT / "configs" / f"{name}.py").get_config
        if name not in _NEED_NETWORK:
            yield name, make
        for argument in arguments:
            yield f"{name}:{argument}", lambda make=make, argument=argument: make(argument)


def _module(file: Path):
    spec = importlib.util.spec_from_file_location(f"recorded_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _changed(name: str, by: str) -> ConfigDict:
    config = base.get_config()
    getattr(base, name)(config, by)
    return config


def _describe_class(kind: type) -> dict:
    public = [name for name in vars(kind) if not name.startswith("_")]
    return {
        "fields": [f.name for f in dataclasses.fields(kind) if not f.name.startswith("_")],
        "methods": {
            name: _parameters(getattr(kind, name))
            for name in sorted(public)
            if inspect.isfunction(getattr(kind, name))
        },
        "properties": sorted(n for n in public if isinstance(getattr(kind, n), property)),
    }


def _parameters(function) -> dict:
    return {
        name: [parameter.kind.name, repr(parameter.default)]
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _describe_sweep(name: str) -> dict:
    sweep = _module(ROOT / "experiments" / f"{name}.py").get_sweep()
    return {
        "variants": [variant.name for variant in sweep.variants],
        "evaluations": {name: dict(fields) for name, fields in sweep.evaluations.items()},
        "baseline": sweep.baseline,
        "seeds": list(sweep.seeds),
    }


def main() -> None:
    """Records it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vit_frozen", "exported"):
            runs.unpack(name, Path(folder))
        found = describe(Path(folder))
    recorded = json.loads(RECORD.read_text())
    for part in ("configs", "sections", "changes"):
        recorded[part] = {**found[part], **recorded[part]}
    text = json.dumps(recorded, indent=1, sort_keys=True)
    # A field and its value on one line.
    RECORD.write_text(text + "\n")


if __name__ == "__main__":
    main()
