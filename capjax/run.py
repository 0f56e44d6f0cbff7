"""The two modes of the command line: train a run, evaluate a run."""

import json
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax import build, parallel, workdir
from capjax.data.captions import unigram_counts
from capjax.data.sections import check_images, open_captions, open_source, train_tokenizer
from capjax.data.source import Source
from capjax.evaluate.captioning import CaptionBatches, Sampling
from capjax.evaluate.figures import save_figure, training_curve
from capjax.evaluate.results import coco_results, code_version, write_json
from capjax.evaluate.scoring import score_captions
from capjax.load import load
from capjax.metrics import coco
from capjax.models.captioner import (
    Captioner,
    Variables,
    encoder_variables,
    init_around,
    split_frozen,
)
from capjax.models.summary import model_summary
from capjax.splits import Split, feature_model, make_split, source_record, with_features
from capjax.train.checkpoint import Checkpoints
from capjax.train.loop import Cadence, EarlyStopping
from capjax.train.loop import train as train_loop
from capjax.train.state import init_state
from capjax.train.step import make_loss_step, make_train_step
from capjax.train.validate import TeacherForced, Validation
from capjax.train.writer import Writer, read_metrics


def train(config: ConfigDict, directory: str) -> None:
    """Trains the run in `directory`, from its latest checkpoint where there is one.

    Raises:
      ConfigError, DataError, WorkdirError: before anything is computed.
    """
    build.check(config)
    with build.checkpoints(directory, config) as checkpoints:
        latest = checkpoints.latest_step()
        if latest is not None:
            workdir.check_same_run(directory, config)
        _train(config, directory, checkpoints, latest)
    curve = workdir.path(directory, "figures", "training.png")
    rows = read_metrics(workdir.path(directory, "metrics.jsonl"))
    save_figure(training_curve(rows, config.early_stopping.metric), curve)
    print(f"done: {directory}; its curves are {curve}")


def _train(
    config: ConfigDict, directory: str, checkpoints: Checkpoints, latest: int | None
) -> None:
    # What is quick to find wrong comes first: the files, then the weights, then every image.
    source = {name: open_source(config.dataset, name) for name in ("train", "validation")}
    pretrained = None
    if build.is_pretrained(config) and latest is None:
        pretrained = build.pretrained_encoder(config)
    source = {name: check_images(config.dataset, split) for name, split in source.items()}
    _print_notes(source.values())
    table = {name: open_captions(config.dataset, source[name]) for name in source}
    tokenizer = train_tokenizer(config.tokenizer, table["train"])
    fingerprints = {
        "tokenizer": tokenizer.fingerprint,
        **{name: source[name].fingerprint for name in source},
    }
    if latest is not None:
        workdir.check_same_data(directory, fingerprints)
    splits = {name: make_split(config, source[name], table[name], tokenizer) for name in source}
    for split in splits.values():
        print(f"{split.source.name}: {split.encoded.report.summary()}")

    counts = unigram_counts(splits["train"].encoded, tokenizer.vocab_size)
    _print_smart_start(counts, tokenizer.banned_ids)
    bias = build.log_frequencies(counts) if config.decoder.smart_bias else None
    model = build.captioner(config, tokenizer, bias)
    shape = (config.dataset.image_size,) * 2 + (3,)
    try:
        lengths = (config.dataset.captions_per_image, config.dataset.max_length)
        print(model_summary(model, shape, *lengths))
    except ValueError as error:  # Fields that do not fit each other or the image's size.
        raise build.ConfigError(f"this config makes no model: {error}") from error

    params, frozen = _start(config, directory, model, shape, pretrained)
    if latest is None:
        workdir.save(directory, config, tokenizer, fingerprints)
        workdir.save_frozen(directory, frozen)
        workdir.save_selection(directory, source)
    if build.is_cached(config):
        encoder = encoder_variables(frozen)
        views = {"train": config.encoder.cache_views, "validation": 1}
        splits = {
            name: with_features(split, model.encoder, encoder, views=views[name])
            for name, split in splits.items()
        }
        model, frozen = feature_model(model, splits["train"]), {}
    optimizer = build.optimizer(config)
    state = init_state(params, optimizer, ema=config.ema_decay > 0, frozen=frozen)
    stopping = EarlyStopping(**config.early_stopping)
    if latest is not None:
        state, progress = checkpoints.restore(latest, state)
        stopping.best, stopping.waited = progress["best"], progress["waited"]
        print(f"continuing {directory} from step {latest}")
    with Writer(directory, resume_step=latest or 0) as writer:
        train_loop(
            parallel.replicate(state),
            _train_step(config, model, optimizer),
            parallel.prefetch(splits["train"].train_batches(latest or 0)),
            _validation(config, directory, model, splits["validation"], writer),
            cadence=Cadence(
                config.num_steps, config.log_every, config.eval_every, config.checkpoint_every
            ),
            schedule=build.schedule(config),
            stopping=stopping,
            checkpoints=checkpoints,
            writer=writer,
        )


def _start(
    config: ConfigDict,
    directory: str,
    model: Captioner,
    shape: tuple[int, ...],
    pretrained: Variables | None,
) -> tuple[Any, Variables]:
    """Parameters to train and variables that stay, as a new run has them at step 0."""
    key = jax.random.key(config.seed)
    freeze = build.is_frozen(config)
    if not build.is_pretrained(config):
        return split_frozen(model.init_variables(key, shape), freeze_encoder=freeze)
    params, frozen = split_frozen(init_around(model, key, shape, pretrained), freeze_encoder=freeze)
    # The file of weights may have gone by the time of a later visit, which takes what stays from
    # the workdir and the rest from its checkpoint.
    return params, workdir.load_frozen(directory) if pretrained is None else frozen


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
        label_smoothing=config.label_smoothing,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    return parallel.map_devices(step, donate=(0,))


def _validation(
    config: ConfigDict, directory: str, model: Captioner, split: Split, writer: Writer
) -> Validation:
    search = build.beam_search(config.decoding)
    samplers = [
        (
            f"temperature_{temperature:g}",
            CaptionBatches(
                model,
                split.tokenizer,
                Sampling(temperature, search.max_length, config.seed),
                attention=True,
            ),
        )
        for temperature in config.evaluation.temperatures
    ]
    pixels, inputs = split.samples(config.evaluation.num_samples)
    return Validation(
        loss_step=parallel.map_devices(make_loss_step(model)),
        search=CaptionBatches(model, split.tokenizer, search),
        samplers=samplers,
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
    build.check(config)
    workdir.check_same_run(directory, config, workdir.FREE_IN_EVALUATION)
    run = load(directory, checkpoint)
    source = check_images(config.dataset, open_source(config.dataset, split))
    workdir.check_same_data(directory, {split: source.fingerprint})
    _print_notes([source])
    table = open_captions(config.dataset, source)
    data = make_split(config, source, table, run.tokenizer)
    model, variables = run.model, run.variables
    if build.is_cached(config):
        data = with_features(data, model.encoder, encoder_variables(variables))
        model = feature_model(model, data)
        variables = {"params": split_frozen(variables, freeze_encoder=True)[0]}
    variables = parallel.replicate(variables)
    search = build.beam_search(config.decoding)
    forced = TeacherForced(parallel.map_devices(make_loss_step(model)), variables)
    batches = forced.watch(data.eval_batches())
    captioned = CaptionBatches(model, run.tokenizer, search)(variables, batches)
    captions = {
        table.image_ids[index]: caption
        for index, caption in tqdm(captioned, total=len(source), desc=f"caption {source.name}")
    }
    stem = workdir.path(directory, "evaluation", f"{split}-step{run.step}-{search.label}")
    write_json(f"{stem}.captions.json", coco_results(captions))

    texts = {image_id: caption.text for image_id, caption in captions.items()}
    metrics = {**forced.metrics(), **score_captions(table, texts, build.scorers(config))}
    metrics["finished"] = float(np.mean([caption.finished for caption in captions.values()]))
    notes = {} if "METEOR" in metrics else {"METEOR": f"not computed: {coco.why_no_meteor()}"}
    write_json(
        f"{stem}.metrics.json",
        {
            "metrics": metrics,
            "notes": notes,
            "split": split,
            "source": source_record(source),
            "images": len(source),
            "step": run.step,
            "decoding": {"method": "beam search", **config.decoding.to_dict()},
            "tokenizer": run.tokenizer.fingerprint,
            "seed": config.seed,
            "code": code_version(),
            "config": config.to_dict(),
        },
    )
    for name, note in notes.items():
        print(f"{name} {note}")
    print(f"wrote {stem}.captions.json and {stem}.metrics.json")
    print(json.dumps({name: round(value, 4) for name, value in metrics.items()}))
    return metrics
