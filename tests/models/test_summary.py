from capjax.config import build
from capjax.models.summary import model_summary
from configs import base


def test_a_frozen_encoder_is_one_row():
    model = build.captioner_of(base.get_config(), vocab_size=9)
    every = model_summary(model, (64, 64, 3), 5, 24).splitlines()
    frozen = model_summary(model, (64, 64, 3), 5, 24, frozen=("encoder",)).splitlines()
    (row,) = [line for line in frozen if line.startswith("encoder (frozen)")]
    (same,) = [line for line in every if line.startswith("encoder ")]
    assert row.split()[-1] == same.split()[-1]
    inside = every.index(same) + 1
    blocks = [line for line in every[inside:] if line.startswith("  ")][:4]
    assert len(frozen) < len(every) - 3
    assert not {line.split()[0] for line in blocks} & {line.split()[0] for line in frozen}
