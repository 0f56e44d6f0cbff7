"""The two modes of the command line: train a run, evaluate a run."""

import functools
import json
import os
from collections.abc import Iterable

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax import build, checks, parallel, workdir
from capjax.data.captions import unigram_counts
from capjax.data.sections import check_images, open_captions, open_source, train_tokenizer
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
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
    without_encoder,
)
from capjax.models.summary import model_summary
from capjax.pretrained.weights import WeightsError, check_variables
from capjax.pretrained.word_vectors import fill_rows
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
    checks.check(config)
    if config.init_from and os.path.realpath(config.init_from) == os.path.realpath(directory):
        raise build.ConfigError(
            f"config.init_from={config.init_from} is this run's own workdir: give another --workdir"
        )
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
    if latest is None and config.init_from:
        workdir.load_config(config.init_from)
    if build.is_pretrained(config) and latest is None and not config.init_from:
        pretrained = build.pretrained_encoder(config)
    source = {name: check_images(config.dataset, split) for name, split in source.items()}
    _print_notes(source.values())
    table = {name: open_captions(config.dataset, source[name]) for name in source}
    if config.init_from:
        # Its parameters know no other words.
        tokenizer = workdir.load_tokenizer(config.init_from if latest is None else directory)
    else:
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
    bias = build.log_frequencies(counts) if config.decoder.get("smart_bias") else None
    model = build.captioner(config, tokenizer, bias)
    shape = build.resize(config.dataset).shape
    try:
        like = jax.eval_shape(lambda: model.init_variables(jax.random.key(config.seed), shape))
        lengths = (config.dataset.captions_per_image, config.dataset.max_length)
        print(model_summary(model, shape, *lengths))
    except ValueError as error:  # Fields that do not fit each other or the image's size.
        raise build.ConfigError(f"this config makes no model: {error}") from error
    checks.check_trainable(config, like["params"])

    if latest is None:
        variables = _start(config, model, like, shape, pretrained, tokenizer, counts)
        params, frozen = split_frozen(variables, *build.frozen_parts(config))
        workdir.save(directory, config, tokenizer, fingerprints)
        workdir.save_frozen(directory, frozen)
        workdir.save_selection(directory, source)
    else:
        # What training began with may have gone: what stays lies in the workdir, and the rest comes
        # from the checkpoint.
        params, frozen = split_frozen(like, *build.frozen_parts(config))
        frozen = workdir.load_frozen(directory) if frozen else {}
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
    stopping = EarlyStopping(**config.early_stopping)
    if latest is None:
        state = fresh(params, frozen=frozen)
    else:
        like = jax.eval_shape(fresh, params).replace(frozen=frozen)
        state, progress = checkpoints.restore(latest, like)
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
    model: Captioner,
    like: Variables,
    shape: tuple[int, ...],
    pretrained: Variables | None,
    tokenizer: Tokenizer,
    counts: np.ndarray,
) -> Variables:
    """What a new run has at step 0; `like` are the model's variables without values.

    Raises:
      WorkdirError: `init_from` is no run, or one of another model.
      WeightsError: the word vectors can't be used.
    """
    key = jax.random.key(config.seed)
    if config.init_from:
        return _from_run(config.init_from, like)
    if build.is_pretrained(config):
        variables = init_around(model, key, shape, pretrained)
    else:
        variables = model.init_variables(key, shape)
    if config.word_vectors.file:
        embedding = variables["params"]["decoder"]["tokens"]["embedding"]
        vectors = build.word_vectors(config, tokenizer, embedding.shape[1])
        print(vectors.summary(counts))
        variables["params"]["decoder"]["tokens"]["embedding"] = fill_rows(embedding, vectors)
    return variables


def _from_run(directory: str, like: Variables) -> Variables:
    """The best variables of another run, for a model with variables `like`."""
    run = load(directory)
    try:
        check_variables(run.variables, like, f"config.init_from, {directory}")
    except WeightsError as error:
        raise workdir.WorkdirError(str(error)) from error
    print(f"starting from step {run.step} of {directory}")
    return run.variables


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
    checks.check(config)
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
        variables = without_encoder(variables)
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
