"""Reads a published ViT as a run does: its fields, and the parameters of an encoder of these."""

import os

from capjax.models.encoders.vit import ViT
from capjax.pretrained.vit.read import load_vit, vit_fields


def read_vit(source, **given):
    """Fields and variables; arguments as of `vit_fields`."""
    fields = vit_fields(source, **given)
    side = fields["position_grid"][0] * fields["patch_size"]
    return fields, load_vit(ViT(**fields), os.fspath(source), side)
