"""The two modes of the command line: train a run, evaluate a run."""

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax.config import build, checks
from capjax.data.captions import CaptionTable, unigram_counts
from capjax.data.sections import check_images, open_captions, open_source, train_tokenizer
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.captioning import Caption, CaptionBatches, Sampling
from capjax.evaluate.figures import save_figure, training_curve
from capjax.evaluate.results import coco_results, code_version
from capjax.evaluate.scoring import image_results, score_captions
from capjax.files.atomic import write_json
from capjax.metrics import coco
from capjax.models.captioner import Captioner, encoder_variables, split_frozen, without_encoder
from capjax.models.summary import model_summary
from capjax.parallel import devices, processes
from capjax.pretrained.captioners.gpt2_tokenizer import tokenizer_of
from capjax.pretrained.variables import fingerprint
from capjax.run import environment, lock, workdir
from capjax.run.init import Pretrained, read_pretrained, start_variables
from capjax.run.load import load, load_tokenizer
from capjax.run.split import Split, feature_model, make_split, source_record, with_features
from capjax.train.checkpoint import CheckpointError, Checkpoints
from capjax.train.events import write_scalars
from capjax.train.finite import Watch
from capjax.train.loop import Cadence, EarlyStopping, is_finished
from capjax.train.loop import train as train_loop
from capjax.train.signals import EXIT_STATUS, Interrupted, Interruption
from capjax.train.state import init_state
from capjax.train.step import make_loss_step, make_train_step
from capjax.train.validate import TeacherForced, Validation
from capjax.train.writer import NoWriter, Writer, read_metrics


def train(config: ConfigDict, directory: str) -> None:
    """Trains the run in `directory`, from its latest checkpoint where there is one.

    Raises:
      ConfigError, DataError, WorkdirError, ProcessesError: before anything is computed.
      WorkdirError: the disk is full or can't be written; what was saved is whole.
      SystemExit: with status `signals.EXIT_STATUS` after SIGTERM or SIGINT; all is saved.
    """
    checks.check(config)
    checks.check_devices(config, "batch_size", "evaluation.batch_size")
    processes.check_equal("config", lambda: workdir.shared_fields(config))
    workdir.check_place(directory)
    if config.init_from and os.path.realpath(config.init_from) == os.path.realpath(directory):
        raise build.ConfigError(
            f"config.init_from={config.init_from} is this run's own workdir: give another --workdir"
        )
    is_first = processes.is_first()
    # Of several processes, the first keeps the workdir, and signals are for all of them together.
    with contextlib.ExitStack() as stack:
        interruption = Interruption()
        if is_first:
            stack.enter_context(lock.training_in(directory))
        if processes.count() == 1:
            stack.enter_context(interruption)
        try:
            with processes.first_alone():
                checkpoints = build.checkpoints(directory, config, read_only=not is_first)
            with checkpoints:
                latest = checkpoints.latest_step()
                processes.check_equal(f"checkpoints in {directory}", checkpoints.steps)
                if latest is not None:
                    workdir.check_same_run(directory, config)
                if latest is not None and _is_finished(config, checkpoints, latest):
                    print(f"{directory} is trained to its end, step {latest}: nothing to do")
                else:
                    _train(config, directory, checkpoints, latest, interruption)
        except Interrupted as error:
            reason = str(error) or "stopped by a signal before training"
            print(f"{reason}: the same command continues {directory}", flush=True)
            sys.exit(EXIT_STATUS)
        if not is_first:
            return
        interruption.poll()  # What is left takes no time.
        curve = workdir.path(directory, "figures", "training.png")
        rows = read_metrics(workdir.path(directory, "metrics.jsonl"))
        save_figure(training_curve(rows, config.early_stopping.metric), curve)
    print(f"done: {directory}; its curves are {curve}")


def _is_finished(config: ConfigDict, checkpoints: Checkpoints, step: int) -> bool:
    """Whether nothing is left to train after `step`; not of a checkpoint that is damaged."""
    try:
        progress = checkpoints.progress(step)
    except CheckpointError:
        return False
    stopping = _restore_stopping(config, progress, step)
    return is_finished(step, _cadence(config), stopping)


def _restore_stopping(config: ConfigDict, progress: dict[str, Any], step: int) -> EarlyStopping:
    stopping = EarlyStopping(**config.early_stopping)
    stopping.best, stopping.waited = progress["best"], progress["waited"]
    # Earlier versions saved no state before its evaluation.
    stopping.evaluated = progress.get("evaluated", step)
    return stopping


def _cadence(config: ConfigDict) -> Cadence:
    return Cadence(config.num_steps, config.log_every, config.eval_every, config.checkpoint_every)


def _train(
    config: ConfigDict,
    directory: str,
    checkpoints: Checkpoints,
    latest: int | None,
    interruption: Interruption,
) -> None:
    with processes.first_alone():
        own = None if latest is None else directory
        source, table, pretrained, tokenizer = _read(config, own)
    tokenizer = tokenizer or train_tokenizer(config.tokenizer, table["train"])
    fingerprints = {
        "tokenizer": tokenizer.fingerprint,
        **{name: source[name].fingerprint for name in source},
    }
    processes.check_equal("data", lambda: fingerprints)
    if latest is not None:
        workdir.check_same_data(directory, fingerprints)
    splits = {name: make_split(config, source[name], table[name], tokenizer) for name in source}
    for split in splits.values():
        print(f"{split.source.name}: {split.encoded.report.summary()}")

    counts = unigram_counts(splits["train"].encoded, tokenizer.vocab_size)
    _print_smart_start(counts, tokenizer.banned_ids)
    bias = build.log_frequencies(counts) if config.decoder.get("smart_bias") else None
    model = build.captioner(config, tokenizer, bias)
    shape = build.resize(config.dataset).shape
    like = build.shapes(config, model)
    lengths = (config.dataset.captions_per_image, config.dataset.max_length)
    print(model_summary(model, shape, *lengths))
    checks.check_trainable(config, like["params"])

    if latest is None:
        variables, start = start_variables(
            config, model, like, pretrained=pretrained, tokenizer=tokenizer, counts=counts
        )
        params, frozen = split_frozen(variables, *build.frozen_parts(config))
        if processes.is_first():
            workdir.save(directory, config, tokenizer, fingerprints)
            workdir.save_frozen(directory, frozen)
            workdir.save_selection(directory, source)
            workdir.save_start(directory, start)
            environment.save(directory)
    else:
        # What training began with may have gone: what stays lies in the workdir, and the rest comes
        # from the checkpoint.
        params, stays = split_frozen(like, *build.frozen_parts(config))
        frozen = workdir.load_frozen(directory) if stays else {}
        workdir.check_frozen(directory, frozen, stays)
    if build.is_cached(config):
        encoder = encoder_variables(frozen)
        views = {"train": config.encoder.cache_views, "validation": 1}
        splits = {
            name: with_features(split, model.encoder, encoder, views=views[name])
            for name, split in splits.items()
        }
        model, frozen = feature_model(model, splits["train"]), without_encoder(frozen)
    optimizer = build.optimizer(config)
    fresh = functools.partial(
        init_state,
        optimizer=optimizer,
        ema=config.ema_decay > 0,
        baseline=build.draws_locations(config),
    )
    watch = Watch(config.optimizer.skip_nonfinite)
    if latest is None:
        first, state = 0, fresh(params, frozen=frozen)
        stopping = EarlyStopping(**config.early_stopping)
    else:
        like = jax.eval_shape(fresh, params).replace(frozen=frozen)
        state, progress = checkpoints.restore_latest(like)
        first = int(state.step)
        stopping = _restore_stopping(config, progress, first)
        # Runs of earlier versions have none.
        watch.skipped, watch.streak = progress.get("skipped", 0), progress.get("streak", 0)
        print(f"continuing {directory} from step {first}")
        if changes := environment.changes(directory):
            print(changes)
    started = {"params": state.params, "frozen": state.frozen}
    processes.check_equal("parameters", lambda: fingerprint(started))
    with Writer(directory, resume_step=first) if processes.is_first() else NoWriter() as writer:
        validation = _validation(config, directory, model, splits["validation"], writer)
        validation = dataclasses.replace(
            validation, batches=lambda: interruption.watch(splits["validation"].eval_batches())
        )
        interruption.poll()
        if latest is None:
            writer.hyperparameters(workdir.flat(config))
        train_loop(
            devices.replicate(state),
            _train_step(config, model, optimizer),
            devices.prefetch(splits["train"].train_batches(first)),
            validation,
            cadence=_cadence(config),
            schedule=build.schedule(config),
            stopping=stopping,
            watch=watch,
            checkpoints=checkpoints,
            writer=writer,
            interruption=interruption,
        )


def _read(
    config: ConfigDict, own: str | None
) -> tuple[dict[str, Source], dict[str, CaptionTable], Pretrained | None, Tokenizer | None]:
    """The splits, their captions, the weights that a run starts from, a tokenizer that is given.

    `own` is the run's workdir where it goes on, and starts from no weights.
    """
    # What is quick to find wrong comes first: the files, then the weights, then every image.
    source = {name: open_source(config.dataset, name) for name in ("train", "validation")}
    tokenizer = _given_tokenizer(config, own)
    pretrained = read_pretrained(config) if own is None else None
    source = {name: check_images(config.dataset, split) for name, split in source.items()}
    _print_notes(source.values())
    table = {name: open_captions(config.dataset, source[name]) for name in source}
    return source, table, pretrained, tokenizer


def _given_tokenizer(config: ConfigDict, own: str | None) -> Tokenizer | None:
    """The tokenizer that is not made of the data, if there is one; `own` as of `_read`."""
    source, keeps = build.decoder_weights(config), build.keeps_tokenizer(config)
    if own is not None:
        return workdir.load_tokenizer(own) if source or keeps else None
    # Also where it is not kept: so `init_from` is found to be no run before all else.
    theirs = load_tokenizer(config.init_from) if config.init_from else None
    if keeps:
        return theirs
    return tokenizer_of(source) if source else None


def _print_notes(sources: Iterable[Source]) -> None:
    """Says what a reader of the scores must know of the data."""
    for source in sources:
        if note := source.selection.get("note"):
            print(f"{source.name}: {note}")


def _train_step(config, model, optimizer):
    step = make_train_step(
        model,
        optimizer,
        seed=config.seed,
        objective=build.objective(config),
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    return devices.map_devices(step, donate=(0,))


def _validation(
    config: ConfigDict, directory: str, model: Captioner, split: Split, writer: Writer
) -> Validation:
    search = build.beam_search(config.decoding)
    samplings = [
        (f"temperature_{temperature:g}", Sampling(temperature, search.max_length, config.seed))
        for temperature in config.evaluation.temperatures
    ]
    pixels, inputs = split.samples(config.evaluation.num_samples)
    return Validation(
        loss_step=devices.map_devices(make_loss_step(model)),
        captions=CaptionBatches(model, split.tokenizer, together=True),
        search=search,
        shown=CaptionBatches(model, split.tokenizer, attention=True),
        samplings=samplings,
        batches=split.eval_batches,
        table=split.table,
        pixels=pixels,
        inputs=inputs,
        scorers=build.scorers(config),
        writer=writer,
        figures=workdir.path(directory, "figures"),
    )


def _print_smart_start(counts: np.ndarray, banned: tuple[int, ...]) -> None:
    """What the first loss is to be beside: no knowledge, and the words' frequencies alone."""
    allowed = np.delete(counts, list(banned))
    share = allowed[allowed > 0] / allowed.sum()
    print(
        f"vocabulary {len(counts)}: a uniform guess costs {np.log(len(counts)):.3f} nats a token, "
        f"the train split's frequencies {-(share * np.log(share)).sum():.3f}"
    )


def evaluate(
    config: ConfigDict, directory: str, *, split: str, checkpoint: str
) -> dict[str, float]:
    """Captions and scores a split; writes the results and prints the metrics, one JSON line last.

    Fields of `workdir.FREE` are `config`'s; the rest must be the run's own.
    """
    checks.check(config)
    checks.check_devices(config, "evaluation.batch_size")
    processes.check_equal("config", lambda: workdir.shared_fields(config))
    workdir.check_same_run(directory, config, workdir.FREE_IN_EVALUATION)
    run = load(directory, checkpoint)
    with processes.first_alone():
        source = check_images(config.dataset, open_source(config.dataset, split))
        table = open_captions(config.dataset, source)
    workdir.check_same_data(directory, {split: source.fingerprint})
    processes.check_equal("data", lambda: source.fingerprint)
    processes.check_equal(f"checkpoints in {directory}", lambda: fingerprint(run.variables))
    _print_notes([source])
    data = make_split(config, source, table, run.tokenizer)
    model, variables = run.model, run.variables
    if build.is_cached(config):
        data = with_features(data, model.encoder, encoder_variables(variables))
        model = feature_model(model, data)
        variables = without_encoder(variables)
    variables = devices.replicate(variables)
    search = build.beam_search(config.decoding)
    forced = TeacherForced(devices.map_devices(make_loss_step(model)), variables)
    batches = forced.watch(data.eval_batches())
    caption_batches = CaptionBatches(model, run.tokenizer, together=True)
    captioned = caption_batches(variables, batches, search)
    bar = functools.partial(tqdm, total=len(source), disable=not processes.is_first())
    captions = {
        table.image_ids[index]: caption
        for index, caption in bar(captioned, desc=f"caption {source.name}")
    }

    def report() -> dict[str, float]:
        texts = {image_id: caption.text for image_id, caption in captions.items()}
        metrics = {**forced.metrics(), **score_captions(table, texts, build.scorers(config))}
        metrics["finished"] = float(np.mean([caption.finished for caption in captions.values()]))
        stem = f"{split}-step{run.step}-{search.label}"
        record = {"split": split, "source": source_record(source), "images": len(source)}
        record |= {"step": run.step, "tokenizer": run.tokenizer.fingerprint}
        stem = workdir.path(directory, "evaluation", stem)
        # On one line: it is for programs, and has thousands of numbers.
        images = image_results(table, texts, build.image_scorers(config))
        write_json(f"{stem}.images.json", images, indent=None)
        # Beneath the training's events, which makes them columns of its row under HParams.
        log = workdir.path(directory, "tensorboard", f"{split}-{search.label}")
        write_scalars(log, run.step, {f"evaluation/{name}": metrics[name] for name in metrics})
        _report(config, stem, captions, metrics, record)
        return metrics

    return processes.from_first(report)


def _report(
    config: ConfigDict,
    stem: str,
    captions: dict[str, Caption],
    metrics: dict[str, float],
    record: dict[str, Any],
) -> None:
    """Writes an evaluation's results and prints them; `record` says of what they are."""
    write_json(f"{stem}.captions.json", coco_results(captions))
    notes = {} if "METEOR" in metrics else {"METEOR": f"not computed: {coco.why_no_meteor()}"}
    write_json(
        f"{stem}.metrics.json",
        {
            "metrics": metrics,
            "notes": notes,
            **record,
            "decoding": {"method": "beam search", **config.decoding.to_dict()},
            "seed": config.seed,
            "code": code_version(),
            "config": config.to_dict(),
        },
    )
    for name, note in notes.items():
        print(f"{name} {note}")
    print(f"wrote {stem}.captions.json, .images.json and .metrics.json")
    print(json.dumps({name: round(value, 4) for name, value in metrics.items()}))
