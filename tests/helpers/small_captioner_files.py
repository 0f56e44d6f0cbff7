"""A folder of a small BLIP or GIT as transformers writes it, without weights."""

import json

from tests.helpers.small_wordpiece import VOCABULARY, write_wordpiece

_VISION = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION |= {"intermediate_size": 16, "patch_size": 4, "image_size": 8}
_TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
_TEXT |= {"intermediate_size": 12, "max_position_embeddings": 16, "pad_token_id": 0}
# The start token of BLIP has no word.
_OF_BLIP = {"vocab_size": len(VOCABULARY) + 2, "bos_token_id": len(VOCABULARY), "sep_token_id": 3}
_OF_GIT = {"vocab_size": len(VOCABULARY), "bos_token_id": 2, "eos_token_id": 3}


def write_captioner_files(folder, kind="blip", model_type=None):
    """Writes config.json and the files of processor and tokenizer, and makes the folder."""
    folder.mkdir()
    vision = {"model_type": f"{kind}_vision_model", **_VISION}
    config = {"model_type": model_type or kind, "vision_config": vision}
    config |= {**_TEXT, **_OF_GIT} if kind == "git" else {"text_config": {**_TEXT, **_OF_BLIP}}
    (folder / "config.json").write_text(json.dumps(config))
    about = {"image_processor_type": "BlipImageProcessor", "resample": 3}
    about |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 8, "width": 8}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    (folder / "generation_config.json").write_text(json.dumps({"num_beams": 2, "max_length": 6}))
    write_wordpiece(folder)
