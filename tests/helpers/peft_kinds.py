"""Captioners of transformers that PEFT adapts, and its warnings; needs torch and transformers."""

import pytest

from tests.helpers import transformers_blips, transformers_captioners, transformers_gits
from tests.helpers.small_bpe import write_bpe
from tests.helpers.small_wordpiece import write_wordpiece

# PEFT asks transformers by a name of before, and says where GPT-2's matrices lie.
QUIET = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]
# The helper, what saves its models, and what writes a tokenizer beside them.
KINDS = {
    "blip": (transformers_blips, transformers_blips.save_folder, write_wordpiece),
    "git": (transformers_gits, transformers_gits.save_folder, write_wordpiece),
    "vit_gpt2": (transformers_captioners, transformers_captioners.save_captioner, write_bpe),
}
