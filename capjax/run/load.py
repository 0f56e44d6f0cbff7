"""Loads a trained captioner from its workdir or its files. Needs no TensorFlow."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import jax
import numpy as np
from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.decoding import choose_method
from capjax.config.errors import ConfigError
from capjax.config.fields import check_values
from capjax.data.given import Images, is_image
from capjax.data.images import AnyImage
from capjax.data.reading import eval_batches
from capjax.data.resize import Resize, Resizes
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.caption_view.notebook import CaptionView
from capjax.evaluate.captioning import Caption, CaptionBatches
from capjax.evaluate.methods import Consensus, Method, settings_of
from capjax.evaluate.results import code_version
from capjax.models import few_rows
from capjax.models.captioner import Captioner, Variables, join_frozen, split_frozen
from capjax.models.ensemble import Ensemble
from capjax.models.lora import merge
from capjax.parallel import devices
from capjax.pretrained.captioners.published import is_published
from capjax.pretrained.variables import fingerprint
from capjax.run.likelihood import Likelihood, describe, encode_given, totals
from capjax.run.published import load_published, read_published
from capjax.run.rewards import reward_table
from capjax.run.workdir import Workdir, WorkdirError
from capjax.train.checkpoint import CheckpointError, Checkpoints


@dataclasses.dataclass(repr=False)
class Run:
    """A trained captioner.

    Attributes:
      config: the whole config; of a captioner of transformers, one made from its files.
      tokenizer: its tokenizer.
      model: the linen module.
      variables: all parameters, trained and frozen, NumPy; the moving average if the run has one.
      step: number of updates; 0 if unknown.
      members: the runs of an ensemble, whose first the config, the step and the tokenizer are of.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    model: Captioner | Ensemble
    variables: Variables
    step: int
    members: tuple["Run", ...] = ()
    _ready: dict = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        if self.members:
            return f"<Run of {len(self.members)}: {', '.join(map(repr, self.members))}>"
        return (
            f"<Run of {self.architecture}: {self.num_parameters:,} parameters, "
            f"{self.tokenizer.vocab_size:,} tokens, step {self.step}>"
        )

    @property
    def architecture(self) -> str:
        """The names of encoder and decoder; of an ensemble, those of each member."""
        configs = (member.config for member in self.members or (self,))
        return ", ".join(f"{c.encoder.name} and {c.decoder.name}" for c in configs)

    @property
    def num_parameters(self) -> int:
        """The number of all parameters, trained and frozen."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    @property
    def resize(self) -> Resize | Resizes:
        """Makes the model's input of an image."""
        if isinstance(self.model, Ensemble) and self.model.shapes:
            return Resizes(tuple(member.resize for member in self.members))
        return build.resize(self.config.dataset)

    @overload
    def caption(self, images: AnyImage, **options: Any) -> Caption: ...

    @overload
    def caption(self, images: Sequence[AnyImage], **options: Any) -> list[Caption]: ...

    def caption(
        self,
        images: AnyImage | Sequence[AnyImage],
        *,
        method: Method | str | None = None,
        attention: bool = False,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Caption | list[Caption]:
        """Captions one image, or a list of images in their order.

        Args:
          images: a path, encoded bytes, a Pillow image or a uint8 array [H, W, 3], or a list of
            such in any mixture.
          method: a `BeamSearch`, `Sampling` or `Consensus`; or the name of one as in the config,
            which is a setting; by default the run's decoding settings.
          attention: True adds attention maps to each caption.
          batch_size: most images at once; by default the run's evaluation batch.
          **settings: instead of a method, changes to the run's decoding settings, such as
            num_beams=3 or temperature=0.7, prompt="a photo of"; see `choose_method`.

        Returns:
          The `Caption` of one image; a list of them for a list. With num_captions=3 each has two
          `alternatives`.

        Raises:
          capjax.data.images.ImageError: an image can't be used; names the first one.
          capjax.config.errors.ConfigError: the run can't decode with the settings.
        """
        if is_image(images):
            return self.caption(
                [images], method=method, attention=attention, batch_size=batch_size, **settings
            )[0]
        if method is None or isinstance(method, str):
            method = self.method(method=method, **settings)
        elif settings:
            raise ConfigError(f"give a method, or {' and '.join(settings)}, not both")
        batches = self.pixel_batches(Images(images), batch_size)
        found = dict(self.caption_batches(batches, method=method, attention=attention))
        return [found[index] for index in range(len(images))]

    def show(self, images: AnyImage | Sequence[AnyImage], **settings: Any) -> CaptionView:
        """Captions images for a notebook, where each word shows where the model looked.

        Args and errors are those of `caption`; `attention` is True if the decoder has attention.
        """
        images = [images] if is_image(images) else images
        settings = {"attention": self.model.decoder.has_attention, **settings}
        return CaptionView(images, self.caption(images, **settings), self.resize)

    def method(self, **settings: Any) -> Method:
        """The run's decoding method with changed settings; see `choose_method`."""
        method = choose_method(self.config, self.tokenizer, **settings)
        longest = self.model.decoder.longest_caption
        # Of an ensemble the least of its members'; the first token fed is bos.
        if longest is not None and method.max_length > longest + 1:
            raise ConfigError(
                f"config.decoding.max_length={method.max_length} must lie in 2 to {longest + 1}: "
                "a member of this ensemble can't be fed more"
            )
        return self.with_table(method)

    def with_table(self, method: Method) -> Method:
        """The method with the table of its reward, if it is consensus without one."""
        if not isinstance(method, Consensus) or method.table is not None:
            return method
        if method.reward not in self._ready:
            self._ready[method.reward] = reward_table(method.reward, self.config, self.tokenizer)
        return dataclasses.replace(method, table=self._ready[method.reward])

    def score(
        self,
        images: AnyImage | Sequence[AnyImage],
        captions: Sequence[str | Sequence[str]],
        *,
        batch_size: int | None = None,
    ) -> Any:
        """Scores given captions of images, by their log-probability under the model.

        Args:
          images: one image or a list, as in `caption`.
          captions: for each image, one caption or several; of one image, just those.
          batch_size: as in `caption`.

        Returns:
          For each image a `ScoredCaption`, or a list of them where several captions were given.
          A caption's sum is minus its teacher-forced loss, summed over its tokens, not averaged.

        Raises:
          ValueError: there are not as many entries of captions as images.
          capjax.run.likelihood.ScoreError: a caption is longer than the model can be fed.
          capjax.data.images.ImageError: an image can't be used; names the first one.
        """
        if is_image(images):
            return self.score([images], [captions], batch_size=batch_size)[0]
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images and captions for {len(captions)} of them")
        texts = [[given] if isinstance(given, str) else list(given) for given in captions]
        encoded = [encode_given(self.tokenizer, many, self.model) for many in texts]
        batches = self.pixel_batches(Images(images), batch_size)
        found = dict(self.score_batches(batches, encoded))
        scored = [
            [
                describe(self.tokenizer, *parts)
                for parts in zip(texts[i], encoded[i], found[i], strict=True)
            ]
            for i in range(len(images))
        ]
        return [
            many[0] if isinstance(given, str) else many
            for given, many in zip(captions, scored, strict=True)
        ]

    def score_all(
        self, images: Sequence[AnyImage], captions: Sequence[str], *, batch_size: int | None = None
    ) -> np.ndarray:
        """Scores every caption with every image of a list: log-probabilities float32 [I, captions].

        A column ranks the images by a caption. Rows rank captions, of which shorter and commoner
        ones are likelier with any image: subtract what they have on average over images.

        Args and errors are those of `score`.
        """
        encoded = encode_given(self.tokenizer, captions, self.model)
        batches = self.pixel_batches(Images(images), batch_size)
        return totals(self.score_batches(batches, [encoded] * len(images)), len(images), encoded)

    def score_batches(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        captions: Sequence[Sequence[np.ndarray]],
    ) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yields (index, log-probabilities of the tokens of each caption) of every image.

        Args:
          batches: of pixels; see `CaptionBatches`.
          captions: for each image, by its index, captions of `likelihood.encode_given`.
        """
        if "likelihood" not in self._ready:
            self._ready["likelihood"] = Likelihood(self.model, self.tokenizer)
        return self._ready["likelihood"](self._on_devices(), batches, captions)

    def pixel_batches(
        self, source: Source, batch_size: int | None = None, count: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of a source's pixels, of `batch_shape`'s rows for `count` images or for all."""
        return eval_batches(
            source,
            None,
            self.tokenizer,
            batch_size=self.batch_shape(batch_size, len(source) if count is None else count),
            resize=self.resize,
            num_threads=self.config.dataset.num_threads,
        )

    def _on_devices(self) -> Variables:
        if "variables" not in self._ready:
            self._ready["variables"] = devices.replicate(few_rows.prepared(self.variables))
        return self._ready["variables"]

    def batch_shape(self, batch_size: int | None, count: int | None = None) -> int:
        """Rows of a batch: `batch_size` or the evaluation's, rounded up to a multiple of devices.

        For few images, `count`, it is the next power of two, so that few sizes are compiled.
        """
        size = batch_size or self.config.evaluation.batch_size
        if count is not None:
            size = min(size, 1 << max(count - 1, 0).bit_length())
        return size + -size % jax.local_device_count()

    def caption_batches(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        *,
        method: Method | None = None,
        attention: bool = False,
    ) -> Iterator[tuple[int, Caption]]:
        """Yields (index, caption) of every image in batches of pixels, as soon as it is known.

        Args:
          batches: see `CaptionBatches`.
          method: see `caption`.
          attention: see `caption`.
        """
        method = self.with_table(method) if method else self.method()
        # Kept for later calls, since each is compiled at its first use.
        if attention not in self._ready:
            self._ready[attention] = CaptionBatches(self.model, self.tokenizer, attention=attention)
        return self._ready[attention](self._on_devices(), batches, method)


def made_by(run: Run, method: Method) -> dict[str, Any]:
    """Everything captions depend on besides the images, for JSON."""
    return {
        **members_of(run),
        "step": run.step,
        "weights": fingerprint(run.variables),
        "tokenizer": run.tokenizer.fingerprint,
        "decoding": settings_of(method),
        "seed": run.config.seed,
        "code": code_version(),
        "config": run.config.to_dict(),
    }


def members_of(run: Run) -> dict[str, Any]:
    """The members of an ensemble, for JSON; nothing of another run."""
    if not isinstance(run.model, Ensemble):
        return {}
    members = [
        {"step": each.step, "weights": fingerprint(each.variables), "config": each.config.to_dict()}
        for each in run.members
    ]
    return {"ensemble": {"average": run.model.average, "members": members}}


def load(
    directory: str | os.PathLike,
    checkpoint: str | int = "best",
    *,
    adapter: str | os.PathLike = "",
    merged: bool = True,
) -> Run:
    """Loads a trained captioner.

    Args:
      directory: the workdir; or a captioner of transformers (BLIP, GIT, or a ViT with a GPT-2): its
        folder, or its name on huggingface.co, "organisation/name".
      checkpoint: "best" by the run's early-stopping metric, "latest", or a step, also as text;
        ignored for a captioner of transformers. If the "best" or "latest" one is damaged, a
        warning says so and the next one is taken.
      adapter: a folder of PEFT with low-rank adapters of the captioner of transformers.
      merged: whether low-rank adapters of a run become part of its parameters; otherwise its
        model has them.

    Raises:
      capjax.run.workdir.WorkdirError: it is no run, or the checkpoint is missing or damaged.
      capjax.pretrained.weights.WeightsError: the captioner of transformers can't be used.
    """
    directory = os.fspath(directory)
    if is_published(directory):
        return Run(*load_published(directory, adapter), step=0)
    if adapter:
        raise WorkdirError(f"{directory} is a run, whose adapters are its own: give none")
    workdir = Workdir(directory)
    config, tokenizer = workdir.load_config(), workdir.load_tokenizer()
    with workdir.blamed():
        check_values(config)
        model = build.captioner(config, tokenizer)
        like, stays = split_frozen(build.shapes(config, model), *build.frozen_parts(config))
        opened = workdir.checkpoints(config, read_only=True)
    with opened as checkpoints:
        steps = _choose_steps(checkpoints, checkpoint)
        try:
            step, params = checkpoints.first_whole(
                steps, lambda step: checkpoints.restore_params(step, like)
            )
        except CheckpointError as error:
            raise WorkdirError(str(error)) from error
    frozen = workdir.load_frozen() if stays else {}
    workdir.check_frozen(frozen, stays)
    variables = join_frozen(params, frozen)
    if model.lora is not None and merged:
        model, variables = model.clone(lora=None), merge(variables, model.lora.scale)
    return Run(config, tokenizer, model, variables, step)


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """Loads the tokenizer of a trained captioner; arguments and errors as for `load`."""
    directory = os.fspath(directory)
    if is_published(directory):
        return read_published(directory, weights=False).tokenizer
    workdir = Workdir(directory)
    workdir.load_config()  # Its error names a folder that is no run.
    return workdir.load_tokenizer()


def _choose_steps(checkpoints: Checkpoints, checkpoint: str | int) -> list[int]:
    """The steps to try, in order; only one if the checkpoint is a step."""
    steps = checkpoints.steps()
    if checkpoint == "best" and steps:
        return checkpoints.ranking()
    if checkpoint == "latest" and steps:
        return steps[::-1]
    step = checkpoint
    if isinstance(step, str) and step.isdecimal():  # As command lines give it.
        step = int(step)
    if step not in steps:
        there = f"there are steps {steps}, 'best' and 'latest'" if steps else "it has none yet"
        raise WorkdirError(f"{checkpoints.directory}: no checkpoint {checkpoint!r}; {there}")
    return [step]
