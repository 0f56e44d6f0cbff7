"""Low-rank adapters in the folder format of Hugging Face's PEFT, read and written.

adapter_model.safetensors has two matrices, A [rank, D] and B [width, rank], for each adapted module
of the model of transformers, and adapter_config.json the factor of their product. A module may be
several projections of capjax, as BLIP's `qkv` and GPT-2's `c_attn` are. It has one A, and the
projections have one each. When they are written, A has the rows of all, B is block diagonal, and
the module's rank, in the `rank_pattern`, is the sum of theirs.

Nothing in a folder is executed.
"""

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from capjax.files.atomic import write_atomic
from capjax.models.lora import adapter_name, is_adapter, projections_of
from capjax.models.lora_fields import Lora
from capjax.parts.types import LARGEST
from capjax.pretrained import tables
from capjax.pretrained.captioners.captioner import PretrainedCaptioner
from capjax.pretrained.captioners.export_captioner import new_folder
from capjax.pretrained.checkpoint_folders import read_json, read_weights
from capjax.pretrained.errors import ExportError, WeightsError
from capjax.pretrained.vit import huggingface
from capjax.pretrained.weights import check_finite

CONFIG = "adapter_config.json"
# Best first.
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_NAME = re.compile(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight")
# Fields by which an adapter is not a product of two matrices, or other parameters train, too.
_REFUSED = (
    *("use_dora", "modules_to_save", "lora_bias", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora"),
    *("megatron_config", "arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
# Initialisations that leave the model's own parameters as they are; others change them, too.
_STARTS = (True, False, "gaussian", "orthogonal", "eva", None)

# Of one projection: A [D, rank] and B [rank, width].
Pair = tuple[np.ndarray, np.ndarray]


class _Place(NamedTuple):
    """A projection of capjax: the names of its layer and itself, and its sizes."""

    layer: str
    projection: str
    inputs: int
    width: int


def read_adapters(
    folder: str | os.PathLike, captioner: PretrainedCaptioner
) -> tuple[dict[str, Any], float]:
    """Reads the adapters of a captioner.

    Args:
      folder: of PEFT.
      captioner: that they are of; its variables are not needed.

    Returns:
      Parameters of adapters as in `capjax.models.lora`, NumPy, float32, of any ranks; and the
      factor of A B.

    Raises:
      WeightsError: it is no such folder, or its adapters are more than products of two matrices, or
        another model's; names the file and the field or the tensor.
    """
    folder = os.path.expanduser(os.fspath(folder))
    about = os.path.join(folder, CONFIG)
    if not os.path.isfile(about):
        raise WeightsError(f"{folder}: is no folder of PEFT: it has no {CONFIG}")
    config = read_json(about)
    _check_config(config, about)
    files = [os.path.join(folder, name) for name in _WEIGHTS]
    file = next(filter(os.path.isfile, files), None)
    if file is None:
        raise WeightsError(f"{folder}: has no weights: none of {', '.join(_WEIGHTS)}")
    pairs = _pairs(read_weights(file), file)
    modules, unused = _modules(captioner), _unused(captioner)
    found: dict[str, np.ndarray] = {}
    scales: set[float] = set()
    for module, (a, b) in sorted(pairs.items()):
        if module.startswith(unused):
            continue
        if module not in modules:
            raise WeightsError(
                f"{file}: adapts {module:.200}, which is no dense layer of a "
                f"{captioner.family.architecture} that can be adapted here"
            )
        places, start = modules[module], 0
        sizes = places[0].inputs, sum(place.width for place in places)
        if (len(a), b.shape[1]) != sizes:
            raise WeightsError(
                f"{file}: the adapter of {module} is of {len(a)} inputs and {b.shape[1]} outputs, "
                f"and the model's layer of {sizes[0]} and {sizes[1]}"
            )
        scales.add(_scale(config, module, len(b), about))
        for place in places:
            pair = _own(a, b[:, start : start + place.width], config["r"])
            start += place.width
            # Others of the module may be adapted without it.
            if pair[1].any() or not b.any():
                name = adapter_name(place.layer, place.projection)
                found |= {f"{name}/{matrix}": x for matrix, x in zip("ab", pair, strict=True)}
    if len(scales) != 1:
        raise WeightsError(
            f"{about}: scales its adapters by {', '.join(f'{s:g}' for s in sorted(scales))}, and "
            "one number is needed: lora_alpha / r must be the same in all"
        )
    return traverse_util.unflatten_dict(found, sep="/"), scales.pop()


def _check_config(config: Mapping[str, Any], path: str) -> None:
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{path}: peft_type is {config.get('peft_type')!r}, and must be 'LORA'")
    for name in _REFUSED:
        if config.get(name):
            raise WeightsError(
                f"{path}: {name}={config[name]!r:.60} is not supported: adapters are products of "
                "two matrices; merge them into the model with PEFT (merge_and_unload) instead"
            )
    if config.get("bias", "none") != "none":
        raise WeightsError(
            f"{path}: bias={config['bias']!r:.60} is not supported, which trains biases of the "
            "model, too; it must be 'none'"
        )
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise WeightsError(
            f"{path}: init_lora_weights={start!r:.60} is not supported, which changes parameters "
            "of the model, too; save_pretrained of PEFT converts such adapters"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise WeightsError(f"{path}: r={rank!r:.60} must be a whole number of 1 or more")
    numbers = [("lora_alpha", alpha)]
    for name in ("alpha_pattern", "rank_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict):
            raise WeightsError(f"{path}: {name}={pattern!r:.60} must be an object of numbers")
        numbers += pattern.items()
    for name, value in numbers:
        if type(value) not in (int, float) or not abs(value) < LARGEST:
            raise WeightsError(f"{path}: {name}={value!r:.60} must be a finite number")


def _pairs(tensors: Mapping[str, np.ndarray], file: str) -> dict[str, Pair]:
    """A [D, rank] and B [rank, width] by the name of their module."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or array.ndim != 2 or not jnp.issubdtype(array.dtype, jnp.floating):
            raise WeightsError(
                f"{file}: has {name:.200} {array.dtype} {list(array.shape)}, and adapters of dense "
                "layers alone are supported: *.lora_A.weight and *.lora_B.weight of two axes"
            )
        with np.errstate(over="ignore"):
            found.setdefault(match[1], {})[match[2]] = np.asarray(array, np.float32).T
    for module, pair in found.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None or a.shape[1] != len(b) or not len(b):
            raise WeightsError(
                f"{file}: {module} lacks one of lora_A and lora_B of equal ranks above 0"
            )
    check_finite(tensors, file)
    if not found:
        raise WeightsError(f"{file}: has no adapters")
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


def _scale(config: Mapping[str, Any], module: str, rank: int, path: str) -> float:
    """The factor of a module's A B."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        name = pattern.removeprefix("^")
        # PEFT takes any regular expression, which a stranger's file must not choose.
        if not re.fullmatch(r"[\w.]+", name):
            raise WeightsError(
                f"{path}: alpha_pattern has {pattern!r:.60}, and must have names of modules"
            )
        if module == name or (name == pattern and module.endswith(f".{name}")):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _own(a: np.ndarray, b: np.ndarray, rank: int) -> Pair:
    """Returns a projection's own A and B.

    Args:
      a: of the module, [D, ranks].
      b: the projection's part of the module's B, [ranks, width]; zero for the ranks of others.
      rank: of a projection.
    """
    if len(b) == rank or len(b) % rank:
        return a, b
    kept = b.reshape(-1, rank, b.shape[1]).any(axis=(1, 2)).repeat(rank)
    return a[:, kept], b[kept]


def write_adapters(
    folder: str | os.PathLike,
    captioner: PretrainedCaptioner,
    lora: Lora,
    base: str | None,
) -> list[str]:
    """Writes a folder that PEFT's `PeftModel.from_pretrained` loads.

    Args:
      folder: a new or an empty one.
      captioner: whose variables have adapters, as in `capjax.models.lora`.
      lora: their fields.
      base: the name or folder of the model of transformers that they are of, if it is known.

    Returns:
      The names of its files.

    Raises:
      ExportError: an adapted projection is no dense layer in transformers, or there is something in
        the folder.
      OSError: it can't be written.
    """
    flat = traverse_util.flatten_dict(dict(captioner.variables["params"]), sep="/")
    given = {name: leaf for name, leaf in flat.items() if is_adapter(name)}
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for module, places in _modules(captioner).items():
        pairs = []
        for place in places:
            name = adapter_name(place.layer, place.projection)
            own = tuple(given.pop(f"{name}/{matrix}", None) for matrix in "ab")
            pairs.append(None if own[0] is None else tuple(np.asarray(x) for x in own))
        if any(pair is not None for pair in pairs):
            a, b = _joined(pairs, [place.width for place in places])
            ranks[module] = a.shape[1]
            for matrix, array in (("A", a), ("B", b)):
                tensors[f"{_PREFIX}{module}.lora_{matrix}.weight"] = np.ascontiguousarray(array.T)
    if given:
        raise ExportError(
            f"config.lora.projections has what is no dense layer of a "
            f"{captioner.family.architecture} of transformers: {min(given).partition('/lora/')[0]}"
        )
    others = {module: rank for module, rank in ranks.items() if rank != lora.rank}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": _plain(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": {name: _plain(lora.scale * rank) for name, rank in others.items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    contents = {
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        _WEIGHTS[0]: safetensors.numpy.save(tensors, {"format": "pt"}),
    }
    with new_folder(folder) as place:
        for name, content in contents.items():
            write_atomic(os.path.join(place, name), content)
    return sorted(contents)


def _plain(number: float) -> float:
    """A whole number as PEFT writes one."""
    return int(number) if number == int(number) else number


def _joined(pairs: Sequence[Any], widths: Sequence[int]) -> Pair:
    """A [D, ranks] and B [ranks, widths] of a module of projections with adapters or None."""
    given = [pair for pair in pairs if pair is not None]
    if all(np.array_equal(a, given[0][0]) for a, _ in given):
        a, rank = given[0][0], given[0][0].shape[1]
        blocks = [np.zeros((rank, w), np.float32) for w in widths]
        blocks = [new if pair is None else pair[1] for new, pair in zip(blocks, pairs, strict=True)]
        return a, np.concatenate(blocks, axis=1)
    a = np.concatenate([a for a, _ in given], axis=1)
    b, row, column = np.zeros((a.shape[1], sum(widths)), np.float32), 0, 0
    for pair, width in zip(pairs, widths, strict=True):
        if pair is not None:
            b[row : row + len(pair[1]), column : column + width] = pair[1]
            row += len(pair[1])
        column += width
    return a, b


def _modules(captioner: PretrainedCaptioner) -> dict[str, tuple[_Place, ...]]:
    """Returns the projections of each dense layer of transformers, in the order of its outputs."""
    like = captioner.variables or jax.eval_shape(
        lambda: captioner.module().init_variables(jax.random.key(0), captioner.resize.shape)
    )
    flat = traverse_util.flatten_dict(dict(like["params"]), sep="/")
    shapes = {name: leaf.shape for name, leaf in flat.items() if not is_adapter(name)}
    found = {}
    for theirs, ours in _layers(captioner, shapes):
        places = []
        for layer in ours:
            inputs, width = shapes[f"{layer}/kernel"]
            names = projections_of(layer.rpartition("/")[2])
            places += [_Place(layer, name, inputs, width // len(names)) for name in names]
        each = len(places) // len(theirs)
        for number, module in enumerate(theirs):
            found[module] = tuple(places[number * each : (number + 1) * each])
    return found


def _section(captioner: PretrainedCaptioner) -> dict[str, Any]:
    """The section of the encoder in config.json."""
    types = captioner.family.encoder_types
    return huggingface.write_config(captioner.encoder, captioner.resize.size, types)


def _unused(captioner: PretrainedCaptioner) -> tuple[str, ...]:
    """Returns the prefixes of the encoder's modules that capjax leaves out, such as a pooler."""
    start = captioner.family.encoder_prefix
    return tuple(start + name for name in huggingface.left_out(_section(captioner)))


def _layers(
    captioner: PretrainedCaptioner, names: Collection[str]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yields the names of dense layers, theirs and ours, of each row of the captioner's tables."""
    family = captioner.family
    vits = huggingface.module_tables(_section(captioner))
    found = [("encoder", table, family.encoder_prefix) for table in vits]
    found += [(part, *rest) for part, rest in family.part_tables.items()]
    for part, table, start in found:
        own = [n.removeprefix(f"{part}/") for n in names if n.startswith(f"{part}/")]
        for theirs, ours in tables.layers(table, own, start):
            yield theirs, tuple(f"{part}/{layer}" for layer in ours)
