"""Trains a run from its config, or continues an interrupted one."""

import contextlib
import dataclasses
import functools
import logging
import os
import sys
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from capjax.config import build, checks, questions
from capjax.config.errors import ConfigError
from capjax.config.identity import FREE, flat, shared_fields
from capjax.data.captions import unigram_counts
from capjax.data.sections import check_images, open_captions, open_source, train_tokenizer
from capjax.data.source import Source, fingerprints
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import CaptionBatches
from capjax.evaluate.figures import save_figure, training_curve
from capjax.evaluate.methods import Method, Sampling
from capjax.models.captioner import (
    Captioner,
    Variables,
    encoder_variables,
    split_frozen,
    without_encoder,
)
from capjax.parallel import devices, processes, programs
from capjax.pretrained.captioners.gpt2_tokenizer import tokenizer_of
from capjax.pretrained.variables import fingerprint
from capjax.run.features import feature_model, with_features
from capjax.run.init import Pretrained, read_pretrained, start_variables, with_stacks
from capjax.run.load import load_tokenizer
from capjax.run.log_train import log_best, log_smart_start, log_summary
from capjax.run.references import prepare
from capjax.run.rewards import ready
from capjax.run.split import Split, import_reader, log_notes, make_split
from capjax.run.stopping import new_stopping, restored_stopping
from capjax.run.workdir import Workdir
from capjax.train.checkpoint import CheckpointError, Checkpoints
from capjax.train.finite import Watch
from capjax.train.loop import Cadence, is_finished
from capjax.train.loop import train as train_loop
from capjax.train.objective import is_prepared
from capjax.train.profiler import Profiler
from capjax.train.signals import EXIT_STATUS, Interrupted, Interruption
from capjax.train.state import TrainState, init_state
from capjax.train.step import make_loss_step, make_train_step
from capjax.train.validate import Validation
from capjax.train.writer import NoWriter, Writer, read_metrics

_logger = logging.getLogger(__name__)


def train(config: ConfigDict, directory: str, *, profile: int = 0) -> None:
    """Trains the run in `directory`, from its latest checkpoint if there is one.

    `profile` is the number of steps that jax.profiler traces into the workdir.

    Raises:
      ConfigError, DataError, WorkdirError, ProcessesError: before anything is computed.
      WorkdirError: the disk is full or can't be written; saved files stay intact.
      SystemExit: with status `signals.EXIT_STATUS` after SIGTERM or SIGINT, after saving.
    """
    workdir = Workdir(directory)
    _check(config, workdir)
    # Only the first process writes to the workdir. Several processes handle a signal together.
    with contextlib.ExitStack() as stack:
        interruption = Interruption()
        if processes.is_primary():
            stack.enter_context(workdir.train_lock())
        if processes.count() == 1:
            stack.enter_context(interruption)
        try:
            _train_to_the_end(config, workdir, interruption, profile)
        except Interrupted as error:
            reason = str(error) or "stopped by a signal before training"
            _logger.info("%s: the same command continues %s", reason, directory)
            sys.exit(EXIT_STATUS)
        if not processes.is_primary():
            return
        interruption.poll()  # The rest takes no time.
        curve = workdir.path(workdir.FIGURES, "training.png")
        rows = read_metrics(workdir.path(workdir.METRICS))
        save_figure(training_curve(rows, config.early_stopping.metric), curve)
        log_best(config, workdir)
    _logger.info("done: %s; its curves are %s", directory, curve)


def _check(config: ConfigDict, workdir: Workdir) -> None:
    """Raises ConfigError, WorkdirError or ProcessesError; runs the checks that read no data."""
    checks.check(config)
    checks.check_devices(config, "batch_size", "evaluation.batch_size")
    processes.check_equal("config", lambda: shared_fields(config))
    workdir.check_place()
    own = os.path.realpath(workdir.directory)
    if config.init_from and os.path.realpath(config.init_from) == own:
        raise ConfigError(
            f"config.init_from={config.init_from} is this run's own workdir: give another --workdir"
        )


def _train_to_the_end(
    config: ConfigDict, workdir: Workdir, interruption: Interruption, profile: int
) -> None:
    """Opens the checkpoints, and trains unless the latest one ends the training."""
    with processes.primary_first():
        checkpoints = workdir.checkpoints(config, read_only=not processes.is_primary())
    with checkpoints:
        latest = checkpoints.latest_step()
        processes.check_equal(f"checkpoints in {workdir.directory}", checkpoints.steps)
        if latest is None:
            checks.check_start_files(config)
        else:
            longer = config.num_steps > workdir.load_config().num_steps
            workdir.check_same_run(config, (*FREE, "num_steps") if longer else FREE)
        if latest is not None and _is_finished(config, checkpoints, latest):
            _logger.info(
                "%s is trained to its end, step %d: nothing to do (with a higher config.num_steps "
                "it is trained further, unless it stopped early)",
                *(workdir.directory, latest),
            )
        else:
            profiler = Profiler(workdir.path(workdir.PROFILE), profile)
            _train(config, workdir, checkpoints, interruption, profiler, is_new=latest is None)


def _is_finished(config: ConfigDict, checkpoints: Checkpoints, step: int) -> bool:
    """True if nothing is left to train after `step`; False for a damaged checkpoint."""
    try:
        progress = checkpoints.progress(step)
    except CheckpointError:
        return False
    return is_finished(step, _cadence(config), restored_stopping(config, progress, step))


def _train(
    config: ConfigDict,
    workdir: Workdir,
    checkpoints: Checkpoints,
    interruption: Interruption,
    profiler: Profiler,
    *,
    is_new: bool,
) -> None:
    """Trains a new run from the start, or an old one from its newest checkpoint."""
    data = _read_data(config, workdir, is_new=is_new)
    method = ready(build.decoding_method(config.decoding), config, data.tokenizer)
    import_reader(config)
    model, shapes = _make_model(config, data)
    objective = checks.fitting_objective(config, model.decoder, data.tokenizer)
    if is_new:
        params, frozen = _start(config, workdir, data, model, shapes)
        stopping = new_stopping(config, data.splits["validation"].table.captions)
    else:
        params, frozen = _load_frozen(config, workdir, shapes)
    splits, constants = data.splits, None
    if is_prepared(objective):
        if is_new and processes.is_primary():
            workdir.save_beginning(params)
        splits, constants = prepare(
            objective, splits, params if is_new else workdir.load_beginning(params)
        )
    if questions.is_cached(config):
        splits = _with_features(config, splits, model, encoder_variables(frozen))
        model, frozen = feature_model(model, splits["train"]), without_encoder(frozen)
    optimizer = build.optimizer(config)
    step = make_train_step(
        model,
        optimizer,
        seed=config.seed,
        objective=objective,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    kept = {"ema": config.ema_decay > 0, "baseline": model.decoder.draws_locations}
    begin = functools.partial(init_state, optimizer=optimizer, **kept)
    if is_new:
        state, progress = begin(params, frozen=frozen), None
    else:
        state, progress = _restore(workdir, checkpoints, jax.eval_shape(begin, params), frozen)
        _note_changes(config, workdir)
        stopping = restored_stopping(config, progress, int(state.step))
    state = state.replace(constants=constants)
    first = int(state.step)
    started = {"params": state.params, "frozen": state.frozen}
    processes.check_equal("parameters", functools.partial(fingerprint, started))
    state = devices.replicate(with_stacks(config, model, state), donate=True)
    # Otherwise training would have all of them in memory twice.
    del started, params, frozen, constants, data
    with _open_writer(config, workdir, first) as writer:
        split = splits["validation"]
        validation = _validation(config, workdir, model, split, method, writer, interruption)
        interruption.poll()
        if is_new:
            writer.hyperparameters(flat(config))
        train_loop(
            state,
            programs.map_step(step, (model, objective, flat(config))),
            devices.prefetch(splits["train"].train_batches(first)),
            validation,
            cadence=_cadence(config),
            schedule=build.schedule(config),
            stopping=stopping,
            watch=_watch(config, progress),
            checkpoints=checkpoints,
            writer=writer,
            interruption=interruption,
            profiler=profiler,
        )


@dataclasses.dataclass(frozen=True)
class _Data:
    """A run's data, and the published weights of a new run.

    Attributes:
      sources: the images, by split.
      splits: images and captions as tokens, by split, without cached features.
      tokenizer: made the tokens.
      fingerprints: of the tokenizer and of every source.
      counts: of the tokens in the train split, [V].
      pretrained: published weights; None if the run is not new.
    """

    sources: dict[str, Source]
    splits: dict[str, Split]
    tokenizer: Tokenizer
    fingerprints: dict[str, str]
    counts: np.ndarray
    pretrained: Pretrained | None


def _read_data(config: ConfigDict, workdir: Workdir, *, is_new: bool) -> _Data:
    """Reads and checks the data; raises WorkdirError if they differ from those of an old run."""
    with processes.primary_first():
        # Quick checks come first: the files, then the weights, then every image.
        sources = {name: open_source(config.dataset, name) for name in ("train", "validation")}
        tokenizer = _given_tokenizer(config, None if is_new else workdir)
        pretrained = read_pretrained(config) if is_new else None
        sources = {name: check_images(config.dataset, source) for name, source in sources.items()}
        for split, field in (("train", "batch_size"), ("validation", "evaluation.batch_size")):
            checks.check_batch(config, field, len(sources[split]), sources[split].name)
        log_notes(sources.values())
        tables = {name: open_captions(config.dataset, sources[name]) for name in sources}
        tokenizer = tokenizer or train_tokenizer(config, tables["train"])
    found = {"tokenizer": (tokenizer.fingerprint,)}
    found |= {name: fingerprints(source) for name, source in sources.items()}
    now = {name: value for name, (value, *_) in found.items()}
    processes.check_equal("data", lambda: now)
    if not is_new:
        workdir.check_same_data(found)
    splits = {name: make_split(config, sources[name], tables[name], tokenizer) for name in sources}
    for split in splits.values():
        _logger.info("%s: %s", split.source.name, split.encoded.report.summary())
    counts = unigram_counts(splits["train"].encoded, tokenizer.vocab_size)
    return _Data(sources, splits, tokenizer, now, counts, pretrained)


def _given_tokenizer(config: ConfigDict, own: Workdir | None) -> Tokenizer | None:
    """The tokenizer, unless it is trained on the data: then None. `own` is None for a new run."""
    source, keeps = questions.decoder_weights(config), questions.keeps_tokenizer(config)
    if own is not None:
        return own.load_tokenizer() if source or keeps else None
    # Also loaded if it is not kept, so that an `init_from` that is no run fails early.
    theirs = load_tokenizer(config.init_from) if config.init_from else None
    if keeps:
        return theirs
    return tokenizer_of(source) if source else None


def _make_model(config: ConfigDict, data: _Data) -> tuple[Captioner, Variables]:
    """Builds the model and the shapes of its variables; logs a summary."""
    log_smart_start(data.counts, data.tokenizer.banned_ids)
    bias = build.log_frequencies(data.counts) if config.decoder.get("smart_bias") else None
    model = build.captioner(config, data.tokenizer, bias)
    shapes = build.shapes(config, model)
    log_summary(config, model, shapes["params"])
    checks.check_trainable(config, shapes["params"])
    return model, shapes


def _start(
    config: ConfigDict, workdir: Workdir, data: _Data, model: Captioner, shapes: Variables
) -> tuple[Any, Variables]:
    """Initialises a new run's parameters and frozen variables, and writes its first files."""
    variables, record = start_variables(
        config,
        model,
        shapes,
        pretrained=data.pretrained,
        tokenizer=data.tokenizer,
        counts=data.counts,
    )
    params, frozen = split_frozen(variables, *build.frozen_parts(config))
    if processes.is_primary():
        workdir.save(config, data.tokenizer, data.fingerprints)
        workdir.save_frozen(frozen)
        workdir.save_selection(data.sources)
        workdir.save_start(record)
        workdir.save_environment()
    return params, frozen


def _load_frozen(config: ConfigDict, workdir: Workdir, shapes: Variables) -> tuple[Any, Variables]:
    """The shapes of an old run's parameters, and its frozen variables.

    Neither needs the files that training began with: workdir and checkpoint have all.
    """
    params, stays = split_frozen(shapes, *build.frozen_parts(config))
    frozen = workdir.load_frozen() if stays else {}
    workdir.check_frozen(frozen, stays)
    return params, frozen


def _with_features(
    config: ConfigDict, splits: dict[str, Split], model: Captioner, encoder: Variables
) -> dict[str, Split]:
    views = {"train": config.encoder.cache_views, "validation": 1}
    return {
        name: with_features(split, model.encoder, encoder, views=views[name])
        for name, split in splits.items()
    }


def _restore(
    workdir: Workdir, checkpoints: Checkpoints, like: TrainState, frozen: Variables
) -> tuple[TrainState, dict[str, Any]]:
    """Restores the newest intact state and its progress; logs its step."""
    state, progress = checkpoints.restore_latest(like.replace(frozen=frozen))
    _logger.info("continuing %s from step %d", workdir.directory, int(state.step))
    return state, progress


def _note_changes(config: ConfigDict, workdir: Workdir) -> None:
    """Logs what changed since the run began, and records a raised number of steps."""
    for changes in filter(None, (workdir.environment_changes(), workdir.changes_now(config))):
        _logger.info(changes)
    before = workdir.load_config().num_steps
    if config.num_steps != before:
        _logger.info(
            "%d steps instead of %d: from here on the learning rate is that of the longer schedule",
            *(config.num_steps, before),
        )
        if processes.is_primary():
            workdir.save_num_steps(config.num_steps)


def _open_writer(config: ConfigDict, workdir: Workdir, first: int) -> Writer | NoWriter:
    if not processes.is_primary():
        return NoWriter()
    return Writer(workdir.directory, resume_step=first, wandb_project=config.wandb_project)


def _watch(config: ConfigDict, progress: dict[str, Any] | None) -> Watch:
    """The count of skipped updates at a checkpoint, or of a new run without progress."""
    watch = Watch(config.optimizer.skip_nonfinite)
    if progress is not None:
        # An imported run made no updates and has no such entries.
        watch.skipped, watch.streak = progress.get("skipped", 0), progress.get("streak", 0)
    return watch


def _cadence(config: ConfigDict) -> Cadence:
    return Cadence(config.num_steps, config.log_every, config.eval_every, config.checkpoint_every)


def _validation(
    config: ConfigDict,
    workdir: Workdir,
    model: Captioner,
    split: Split,
    method: Method,
    writer: Writer,
    interruption: Interruption,
) -> Validation:
    samplings = [
        (f"temperature_{t:g}", Sampling(t, method.max_length, config.seed, control=method.control))
        for t in config.evaluation.temperatures
    ]
    pixels, inputs = split.samples(config.evaluation.num_samples)
    return Validation(
        loss_step=programs.map_devices(make_loss_step(model), (model, "loss")),
        captions=CaptionBatches(model, split.tokenizer, together=True),
        method=method,
        shown=CaptionBatches(model, split.tokenizer, attention=True),
        samplings=samplings,
        batches=lambda: interruption.watch(split.eval_batches()),
        table=split.table,
        prompt=split.prompt,
        pixels=pixels,
        inputs=inputs,
        scorers=build.scorers(config),
        writer=writer,
        figures=workdir.path(workdir.FIGURES),
    )
