"""Writes the low-rank adapters of a trained run as a folder of Hugging Face's PEFT."""

from typing import cast

_LOAD = """\
from peft import PeftModel
from transformers import {2}
model = PeftModel.from_pretrained({2}.from_pretrained({1!r}), {0!r})
"""


def export_peft(workdir: str, to: str, checkpoint: str | int = "best") -> None:
    """Writes the folder `to`, and prints its files and the code that loads it.

    Args:
      workdir: the run's folder.
      to: a new or empty folder.
      checkpoint: see `capjax.load`.

    Raises:
      ExportError: the run has no adapters, transformers has no such captioner, or `to` is not
        empty.
      WorkdirError: the run can't be loaded.
    """
    # Imported here, so that --help is answered at once.
    from capjax.config import build
    from capjax.models.captioner import Captioner
    from capjax.pretrained.captioners.export_captioner import check_free
    from capjax.pretrained.captioners.exportable import exportable
    from capjax.pretrained.captioners.generation_file import Generation
    from capjax.pretrained.captioners.peft_adapters import write_adapters
    from capjax.pretrained.captioners.published import is_published
    from capjax.pretrained.errors import ExportError
    from capjax.run.load import load

    check_free(to)
    run = load(workdir, checkpoint, merged=False)
    model = cast(Captioner, run.model)  # A workdir holds no ensemble.
    if model.lora is None:
        raise ExportError(
            f"{workdir} has no adapters, since its config.lora.rank is 0: --format captioner "
            "writes all of its parameters"
        )
    resize = build.resize(run.config.dataset)
    # An adapter's folder does not say how to caption.
    captioner = exportable(model, run.variables, run.tokenizer, resize, Generation())
    base = run.config.init_from if is_published(run.config.init_from) else None
    names = write_adapters(to, captioner, model.lora, base)
    print(f"wrote {to} of {workdir}, step {run.step}: {', '.join(names)}")
    if base is None:
        print(f"# BASE is the captioner that `capjax export` makes of {run.config.init_from}.")
    print(_LOAD.format(to, base or "BASE", captioner.family.architecture), end="")
