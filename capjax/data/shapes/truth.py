"""Metrics of how far captions of `shapes` are true, and of how much they state.

Truth alone rewards silence: a caption that never states a size is never wrong about one. So the
facts of each kind are counted against those of the references, and `coverage` is the ratio of the
kind that is stated least.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from capjax.data.shapes import grammar
from capjax.data.shapes.facts import KINDS, Claims, check, facts_of, is_true, parse
from capjax.data.shapes.scene import HELDOUT_PAIRS, Scene, Thing, scene_of

METRICS = (
    "truth_rate",
    "shuffled_truth_rate",
    "parsed_rate",
    "facts_per_caption",
    "facts",
    "coverage",
)
"""The metrics that `caption_metrics` always returns."""


def image_metrics(hypotheses: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The "truth_rate" of each caption, 1 or 0, by image id; `caption_metrics` has the mean.

    Raises:
      ValueError: an id is not of `shapes`.
    """
    true = {
        image_id: float(is_true(caption, scene_of(image_id)))
        for image_id, caption in hypotheses.items()
    }
    return {"truth_rate": true}


def caption_metrics(hypotheses: Mapping[str, str], seed: int = 0) -> dict[str, float]:
    """Metrics of the truth and the coverage of captions.

    Args:
      hypotheses: a caption for each image id of `shapes`; the scenes and references are generated
        from the ids.
      seed: for the shuffled images.

    Returns:
      Fractions, and numbers of captions or facts:
      truth_rate: captions that parse and have only true facts.
      shuffled_truth_rate: the same with each caption compared with another image, each image once.
      parsed_rate: captions that parse.
      facts_per_caption: mean number of facts, 0 for a caption that does not parse.
      facts: facts_per_caption over that of the references.
      coverage: the least of all coverage_<kind>.
      coverage_<kind>: distinct facts of one of KINDS over the references' mean; those of a caption
        count up to the most that one reference of its image states. Absent where the references
        state none.
      truth_rate_<kind>, stated_<kind>: true facts among those of one of KINDS, and their number;
        the rate is absent where it is 0.
      novel_attribute_captions, novel_attribute_truth_rate: captions that state the colour or
        texture that makes a thing of the image one of HELDOUT_PAIRS, and the true ones among them.
      novel_pair_captions, novel_pair_truth_rate: the same of captions that state the pair, of that
        colour or texture and the shape. Both are absent where no image has such a thing, and the
        rates also where no caption states it.

    Raises:
      ValueError: fewer than two captions, or an id that is not of `shapes`.
    """
    if len(hypotheses) < 2:
        raise ValueError(
            "caption_metrics needs two captions or more, to compare each with another image; "
            f"got {len(hypotheses)}"
        )
    ids = sorted(hypotheses)
    scenes = [scene_of(image_id) for image_id in ids]
    claims = [parse(hypotheses[image_id]) for image_id in ids]
    others = [scenes[j] for j in _derangement(len(ids), seed)]
    true, held = _judge(claims, scenes)
    shuffled, _ = _judge(claims, others)
    stated = {kind: held[kind, True] + held[kind, False] for kind in KINDS}
    per_caption = sum(stated.values()) / len(ids)
    references = [[parse(text) for text in grammar.captions_of(image_id)] for image_id in ids]
    number = sum(len(facts_of(claim)) for many in references for claim in many)
    coverage = _coverage(claims, references)
    metrics = {
        "truth_rate": sum(true) / len(ids),
        "shuffled_truth_rate": sum(shuffled) / len(ids),
        "parsed_rate": sum(claim is not None for claim in claims) / len(ids),
        "facts_per_caption": per_caption,
        "facts": per_caption / (number / sum(map(len, references))),
        "coverage": min(coverage.values()),
    }
    metrics |= {f"coverage_{kind}": value for kind, value in coverage.items()}
    for kind in KINDS:
        metrics[f"stated_{kind}"] = float(stated[kind])
        if stated[kind]:
            metrics[f"truth_rate_{kind}"] = held[kind, True] / stated[kind]
    return metrics | _novel(claims, scenes, true)


def _stated_kinds(claims: Claims | None) -> Counter[str]:
    """The number of distinct facts of each kind: saying the same twice counts once."""
    if claims is None:
        return Counter()
    described = [frozenset(mention.attributes) for mention in claims.mentions]
    distinct = {
        (fact.kind, fact.value, described[fact.mention] if fact.mention >= 0 else None)
        for fact in facts_of(claims)
    }
    return Counter(kind for kind, _, _ in distinct)


def _coverage(
    claims: Sequence[Claims | None], references: Sequence[Sequence[Claims | None]]
) -> dict[str, float]:
    """The coverage of each kind of facts that the references state."""
    covered: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for claim, many in zip(claims, references, strict=True):
        own, theirs = _stated_kinds(claim), [_stated_kinds(reference) for reference in many]
        for kind in KINDS:
            covered[kind] += min(own[kind], max(counts[kind] for counts in theirs))
            expected[kind] += sum(counts[kind] for counts in theirs) / len(theirs)
    return {kind: covered[kind] / expected[kind] for kind in KINDS if expected[kind]}


def _novel(
    claims: Sequence[Claims | None], scenes: Sequence[Scene], true: Sequence[bool]
) -> dict[str, float]:
    """Truth of the captions that state what is novel in their image; see `caption_metrics`."""
    novel = [novel_things(scene) for scene in scenes]
    if not any(novel):
        return {}
    found = {}
    for name, states in (("attribute", _states_attribute), ("pair", _states_pair)):
        told = [
            held
            for claim, things, held in zip(claims, novel, true, strict=True)
            if claim is not None and any(states(claim, *thing) for thing in things)
        ]
        found[f"novel_{name}_captions"] = float(len(told))
        if told:
            found[f"novel_{name}_truth_rate"] = sum(told) / len(told)
    return found


def novel_things(scene: Scene) -> list[tuple[Thing, str]]:
    """The things that are one of HELDOUT_PAIRS, each with the kind of the attribute of its pair."""
    return [
        (thing, kind)
        for thing in scene.things
        for kind in ("colour", "texture")
        if (getattr(thing, kind), thing.shape) in HELDOUT_PAIRS
    ]


def _states_attribute(claims: Claims, thing: Thing, kind: str) -> bool:
    wanted = (kind, getattr(thing, kind))
    return any(wanted in mention.attributes for mention in claims.mentions)


def _states_pair(claims: Claims, thing: Thing, kind: str) -> bool:
    wanted = {(kind, getattr(thing, kind)), ("shape", thing.shape)}
    return any(wanted <= {*mention.attributes} for mention in claims.mentions)


def _judge(
    claims: Iterable[Claims | None], scenes: Iterable[Scene]
) -> tuple[list[bool], Counter[tuple[str, bool]]]:
    """The truth of each caption, and the counts of facts by (kind, truth)."""
    true = []
    held: Counter[tuple[str, bool]] = Counter()
    for claim, scene in zip(claims, scenes, strict=True):
        verdicts = [] if claim is None else check(claim, scene)
        true.append(claim is not None and all(verdicts))
        if claim is not None:
            held.update(zip((fact.kind for fact in facts_of(claim)), verdicts, strict=True))
    return true, held


def _derangement(number: int, seed: int) -> list[int]:
    """A permutation without a fixed point: one cycle in random order."""
    order = np.argsort(np.random.Generator(np.random.PCG64(seed)).random(number))
    result = [0] * number
    for here, there in zip(order, np.roll(order, 1), strict=True):
        result[int(here)] = int(there)
    return result
