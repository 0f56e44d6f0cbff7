"""What training starts with: parameters, random, published or of another run, and its state."""

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from capjax.config import build, questions
from capjax.data.tokenizer import Tokenizer
from capjax.files.text import first_few
from capjax.models.captioner import (
    Captioner,
    Variables,
    encoder_variables,
    init_around,
    join_frozen,
    split_frozen,
)
from capjax.parallel import programs
from capjax.parallel.platform import on_cpu
from capjax.pretrained.captioners.gpt2 import fill_fresh
from capjax.pretrained.captioners.peft_adapters import read_adapters
from capjax.pretrained.captioners.published import is_published
from capjax.pretrained.captioners.read import read_captioner
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.weights import check_variables
from capjax.pretrained.word_vectors import fill_rows
from capjax.run.load import Run, load
from capjax.run.workdir import WorkdirError
from capjax.train.state import TrainState, stack_blocks

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The published weights that a new run starts from; None where the config names none.

    Attributes:
      encoder: its variables, NumPy.
      decoder: parameters of a GPT-2, NumPy, without those that attend to the image.
      lora: low-rank adapters, by the parts of the captioner.
    """

    encoder: Variables | None = None
    decoder: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None


def read_pretrained(config: ConfigDict) -> Pretrained:
    """Reads the published weights that a new run of the config starts from.

    Raises:
      WeightsError: they can't be loaded, or do not fit.
    """
    encoder = questions.is_pretrained(config) and "encoder" not in questions.init_parts(config)
    return Pretrained(
        build.pretrained_encoder(config) if encoder else None,
        build.pretrained_decoder(config) if questions.decoder_weights(config) else None,
        _pretrained_lora(config) if questions.has_lora(config) and config.lora.weights else None,
    )


def start_variables(
    config: ConfigDict,
    model: Captioner,
    like: Variables,
    *,
    pretrained: Pretrained,
    tokenizer: Tokenizer,
    counts: np.ndarray,
) -> tuple[Variables, dict[str, Any]]:
    """Initialises the variables of a new run.

    Args:
      config: the run's config.
      model: its model.
      like: shapes and types of its variables.
      pretrained: the published weights.
      tokenizer: the run's tokenizer.
      counts: of its tokens in the train split, [V].

    Returns:
      The variables, and the content of `start.json`: their sources other than chance.

    Raises:
      WorkdirError: `init_from` is no run, or its parts do not fit.
      WeightsError: the word vectors can't be used.
    """
    parts, record = questions.init_parts(config), {}
    adapters, like = split_frozen(like, questions.PARTS)
    if parts:
        run = load(config.init_from)
        _check_parts(config, run, like, parts, tokenizer)
        variables, record = _from_run(config, model, like, run, pretrained, tokenizer)
    else:
        variables = _fresh(config, model, pretrained)
    if pretrained.decoder is not None:
        record["decoder_weights"] = questions.decoder_weights(config)
    if model.lora is not None:
        variables = join_frozen(_adapters(config, model, adapters, pretrained.lora), variables)
        record |= {"lora_weights": config.lora.weights} if config.lora.weights else {}
    if config.word_vectors.file:
        embedding = variables["params"]["decoder"]["tokens"]["embedding"]
        vectors = build.word_vectors(config, tokenizer, embedding.shape[1])
        _logger.info(vectors.summary(counts))
        variables["params"]["decoder"]["tokens"]["embedding"] = fill_rows(embedding, vectors)
    return variables, record


def _fresh(config: ConfigDict, model: Captioner, pretrained: Pretrained) -> Variables:
    """Randomly initialised variables, except for the given weights."""
    key, shape = jax.random.key(config.seed), build.resize(config.dataset).shape
    if pretrained.encoder is None:
        variables = _draw(model, key, shape)
    else:
        variables = init_around(model, key, shape, pretrained.encoder, _draw)
    if pretrained.decoder is not None:
        params, source = variables["params"], questions.decoder_weights(config)
        params["decoder"], fresh = fill_fresh(pretrained.decoder, params["decoder"], source)
        parts = sorted({re.sub(r"^blocks_\d+", "blocks_*", n.rpartition("/")[0]) for n in fresh})
        _logger.info("decoder from %s; randomly initialised: %s", source, ", ".join(parts))
    return variables


def _draw(model: Captioner, key: jax.Array, shape: tuple[int, ...]) -> Variables:
    """`Captioner.init_variables`, whose program is kept."""
    return programs.run(lambda key: model.init_variables(key, shape), (model, shape), key)


def _pretrained_lora(config: ConfigDict) -> dict[str, Any]:
    """Reads the adapters of the config's folder of PEFT."""
    if not is_published(config.init_from):
        raise WeightsError(
            f"config.lora.weights={config.lora.weights} are adapters of a captioner of "
            f"transformers, and config.init_from={config.init_from} is none"
        )
    captioner = read_captioner(config.init_from, weights=False)
    adapters, scale = read_adapters(config.lora.weights, captioner)
    if not np.isclose(scale, config.lora.alpha / config.lora.rank, rtol=1e-6):
        raise WeightsError(
            f"{config.lora.weights}: its adapters are multiplied by {scale:g}, and config.lora."
            f"alpha={config.lora.alpha:g} / rank={config.lora.rank} by another number: set "
            f"config.lora.alpha={scale * config.lora.rank:g}"
        )
    return adapters


def _adapters(config: ConfigDict, model: Captioner, like: Any, given: Any) -> Any:
    """The given adapters, checked, or for None ones that change nothing: A random and B zero."""
    if given is not None:
        try:
            check_variables(given, like, config.lora.weights)
        except WeightsError as error:
            raise WeightsError(
                f"{error}. They must be those of config.lora.rank={config.lora.rank} and "
                f"config.lora.projections={config.lora.projections}"
            ) from error
        return given
    shape = build.resize(config.dataset).shape

    @jax.jit
    def init(key: jax.Array) -> Any:
        return split_frozen(model.init_variables(key, shape), questions.PARTS)[0]

    return init(jax.random.key(config.seed))


def _check_parts(
    config: ConfigDict, run: Run, like: Variables, parts: tuple[str, ...], tokenizer: Tokenizer
) -> None:
    """Raises WorkdirError, naming tensors, where the run's parts do not fit the new model."""
    axes = run.model.decoder.word_axes
    given = _with_words(run.variables, tokenizer.vocab_size, axes)

    def check(parts) -> None:
        check_variables(_only(given, parts), _only(like, parts), "")

    def fits(part: str) -> bool:
        try:
            check([part])
        except WeightsError:
            return False
        return True

    try:
        # With "all", a part that only the other run has is an error, too.
        check({*given["params"], *parts} if "all" in config.init_parts else parts)
    except WeightsError as error:
        fit = tuple(part for part in like["params"] if fits(part))
        advice = f"config.init_parts={fit} would fit" if fit else "none of its parts would fit"
        misfit = str(error).removeprefix(": ")
        raise WorkdirError(
            f"config.init_from={config.init_from}: {misfit}. With config.init_parts="
            f"{config.init_parts}; {advice}"
        ) from error


def _with_words(variables: Variables, size: int, axes: Mapping[str, int]) -> Variables:
    """Shapes of the variables with the decoder's vocabulary changed to `size`."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    decoder = traverse_util.flatten_dict(shapes["params"]["decoder"], sep="/")
    for name, axis in axes.items():
        if name in decoder:
            shape = list(decoder[name].shape)
            shape[axis] = size
            decoder[name] = jax.ShapeDtypeStruct(tuple(shape), decoder[name].dtype)
    shapes["params"]["decoder"] = traverse_util.unflatten_dict(decoder, sep="/")
    return shapes


def _only(variables: Variables, parts) -> Variables:
    return {
        name: {part: value[part] for part in parts if part in value}
        for name, value in variables.items()
    }


def _from_run(
    config: ConfigDict,
    model: Captioner,
    like: Variables,
    run: Run,
    pretrained: Pretrained,
    tokenizer: Tokenizer,
) -> tuple[Variables, dict[str, Any]]:
    """Variables with the given parts of `run`, the others randomly initialised; and a record."""
    parts = questions.init_parts(config)
    fresh = [part for part in like["params"] if part not in parts]
    new_words = "decoder" in parts and run.tokenizer.fingerprint != tokenizer.fingerprint
    variables = _only(run.variables, parts)
    if fresh or new_words:
        if "encoder" in parts:
            pretrained = dataclasses.replace(pretrained, encoder=encoder_variables(variables))
        around = _fresh(config, model, pretrained)
        variables = {
            name: {**around.get(name, {}), **variables.get(name, {})}
            for name in variables.keys() | around.keys()
        }
    sizes = _sizes(like, parts)
    _logger.info("starting from step %d of %s: %s taken", run.step, config.init_from, sizes)
    if fresh:
        _logger.info("randomly initialised: %s", _sizes(like, fresh))
    record = {
        "init_from": config.init_from,
        "step": run.step,
        "taken": list(parts),
        "fresh": fresh,
        "tokenizer": run.tokenizer.fingerprint,
    }
    if new_words:
        decoder = around["params"]["decoder"], run.variables["params"]["decoder"]
        variables["params"]["decoder"], new = _copy_words(
            *decoder, tokenizer, run.tokenizer, model.decoder.word_axes
        )
        both = tokenizer.vocab_size - len(new)
        named = f": {first_few(new)}" if new else ""
        words = tokenizer.vocab_size, both, len(new)
        _logger.info("of %d words that run has %d; %d are new%s", *words, named)
        record["words"] = {"taken": both, "fresh": len(new)}
    return variables, record


def _copy_words(
    fresh: Any, taken: Any, tokenizer: Tokenizer, its: Tokenizer, axes: Mapping[str, int]
) -> tuple[Any, list]:
    """`taken` for the vocabulary of `tokenizer`, with new words' rows of `fresh`; the new words."""
    old = {its.word(token): token for token in range(its.vocab_size)}
    words = [tokenizer.word(token) for token in range(tokenizer.vocab_size)]
    both = [token for token, word in enumerate(words) if word in old]
    theirs = [old[words[token]] for token in both]
    flat = traverse_util.flatten_dict(taken, sep="/")
    begun = traverse_util.flatten_dict(fresh, sep="/")
    for name, axis in axes.items():
        if name in flat:
            # A copy, since JAX arrays are immutable, with the vocabulary axis first.
            rows = np.moveaxis(np.array(begun[name]), axis, 0)
            rows[both] = np.moveaxis(np.asarray(flat[name]), axis, 0)[theirs]
            flat[name] = np.ascontiguousarray(np.moveaxis(rows, 0, axis))
    new = [word for word in words if word not in old]
    return traverse_util.unflatten_dict(flat, sep="/"), new


def _sizes(like: Variables, parts) -> str:
    """Sizes of parts: "encoder (1,234 parameters), decoder (567)"."""
    counts = {part: sum(x.size for x in jax.tree.leaves(like["params"][part])) for part in parts}
    texts = [f"{part} ({count:,})" for part, count in counts.items()]
    texts[0] = f"{texts[0][:-1]} parameters)"
    return ", ".join(texts)


def with_stacks(config: ConfigDict, model: Captioner, state: TrainState) -> TrainState:
    """A state whose blocks are stacked, where that is known to be quicker; changes its dicts."""
    # On a GPU their loop took a quarter longer (benchmarks/README.md), and other optimizers than
    # these depend on the array that a number is in.
    if not (on_cpu() and questions.has_elementwise_optimizer(config)):
        return state
    return stack_blocks(model, state)
