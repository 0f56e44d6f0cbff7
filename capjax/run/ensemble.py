"""Several runs as one that captions and scores by the mean of what they say."""

import dataclasses
import hashlib
from collections.abc import Sequence

from capjax.files.errors import ReportedError
from capjax.models.ensemble import Average, Ensemble, join_variables
from capjax.pretrained.variables import fingerprint
from capjax.run.load import Run


class EnsembleError(ReportedError, ValueError):
    """Runs that can't be one; the message says what differs."""


def ensemble(runs: Sequence[Run], average: Average = "probabilities") -> Run:
    """Joins runs, also of different architectures, to one that captions and scores as a run does.

    Its config, and so its decoding settings and batch size, are those of the first.

    Args:
      runs: of one vocabulary.
      average: the mean of "probabilities", or of "log_probabilities", of each token.

    Raises:
      EnsembleError: there are no runs, or they differ in vocabulary.
    """
    if not runs:
        raise EnsembleError("an ensemble needs one run or more")
    first, *others = runs
    for number, run in enumerate(others, 2):
        if run.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise EnsembleError(
                f"run {number} of the ensemble has another vocabulary ({run.tokenizer.vocab_size} "
                f"tokens, and the first {first.tokenizer.vocab_size}): train its members on the "
                "same dataset and tokenizer settings, or with config.init_from of one"
            )
    resizes = [run.resize for run in runs]
    shapes = tuple(resize.shape for resize in resizes) if len({*resizes}) > 1 else ()
    return dataclasses.replace(
        first,
        model=Ensemble(tuple(run.model for run in runs), average, shapes),
        variables=join_variables([run.variables for run in runs]),
        members=tuple(runs),
        _ready={},
    )


def label_of_members(run: Run) -> str:
    """Part of the name of result files; "" for a run that is no ensemble."""
    if not isinstance(run.model, Ensemble):
        return ""
    weights = " ".join(fingerprint(member.variables) for member in run.members)
    digest = hashlib.sha256(f"{run.model.average} {weights}".encode()).hexdigest()[:8]
    return f"-ensemble{len(run.members)}-{digest}"
