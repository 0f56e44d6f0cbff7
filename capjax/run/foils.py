"""How often a model finds the true one of two captions likelier."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from capjax.data.dataset import NOVEL, Foil
from capjax.data.tokenizer import Tokenizer
from capjax.models.captioner import Captioner
from capjax.models.ensemble import Ensemble
from capjax.run.likelihood import Likelihood, encode_given


def foil_metrics(
    model: Captioner | Ensemble,
    tokenizer: Tokenizer,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    image_ids: Sequence[str],
    foils: Sequence[Foil],
    *,
    together: bool = False,
) -> dict[str, float]:
    """Accuracy of telling references from their foils by log-probability; a tie is half right.

    Args:
      model: the captioner.
      tokenizer: its tokenizer.
      variables: replicated.
      batches: of all images of a split; see `CaptionBatches`.
      image_ids: of the split, in its order.
      foils: of some of these images.
      together: see `Likelihood`.

    Returns:
      foil_accuracy: over all foils, except of kinds that begin with NOVEL.
      foil_accuracy_<kind>, foils_<kind>: of one kind, and the number of its foils.
      foil_accuracy_novel: over all others; absent where there are none.
      shuffled_foil_accuracy, shuffled_foil_accuracy_novel: with the next image that has foils in
        the image's place. About 0.5 if only the image tells reference and foil apart.
    """
    place = {image_id: index for index, image_id in enumerate(image_ids)}
    of_image: dict[int, list[Foil]] = defaultdict(list)
    for foil in foils:
        of_image[place[foil.image_id]].append(foil)
    with_foils = sorted(of_image)
    before = dict(zip(with_foils[1:] + with_foils[:1], with_foils, strict=True))
    texts = {
        index: [t for f in many for t in (f.reference, f.foil)] for index, many in of_image.items()
    }
    encoded = {index: encode_given(tokenizer, many, model) for index, many in texts.items()}
    # Each image's own pairs, and then another image's.
    rows = [encoded.get(i, []) + encoded.get(before.get(i, -1), []) for i in range(len(image_ids))]
    right: dict[str, list[float]] = defaultdict(list)
    for index, scored in Likelihood(model, tokenizer, together=together)(variables, batches, rows):
        if index not in of_image:
            continue
        true, false = np.array([values.sum() for values in scored]).reshape(-1, 2).T
        told = (np.sign(true - false) / 2 + 0.5).tolist()
        own = of_image[index]
        for foil, value in zip(own, told[: len(own)], strict=True):
            right[_group(foil)].append(value)
            right[f"foil_accuracy_{foil.kind}"].append(value)
        for foil, value in zip(of_image[before[index]], told[len(own) :], strict=True):
            right[f"shuffled_{_group(foil)}"].append(value)
    metrics = {name: float(np.mean(values)) for name, values in sorted(right.items())}
    counts = Counter(foil.kind for foil in foils)
    return metrics | {f"foils_{kind}": float(counts[kind]) for kind in sorted(counts)}


def _group(foil: Foil) -> str:
    return "foil_accuracy_novel" if foil.kind.startswith(NOVEL) else "foil_accuracy"
