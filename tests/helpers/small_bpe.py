"""The files of a small byte-level BPE as GPT-2's."""

import tokenizers

END_OF_TEXT = "<|endoftext|>"
TEXTS = (
    "A dog runs on the grass",
    "two dogs, a cat and the Cat!",
    " the man's dog",
    "naïve \N{DOG FACE}\u200d\N{SAFETY VEST} \N{SLIGHTLY SMILING FACE}",
)


def write_bpe(folder, size=280):
    """Trains it, and writes vocab.json and merges.txt; its end has the id 0."""
    backend = tokenizers.ByteLevelBPETokenizer()
    quiet = {"show_progress": False, "special_tokens": [END_OF_TEXT]}
    backend.train_from_iterator(TEXTS, vocab_size=size, min_frequency=1, **quiet)
    assert backend.get_vocab_size() == size
    backend.save_model(str(folder))
