"""What an objective that draws captions has of an image beside the captions that are fed."""

import numpy as np

from capjax.data.references import References
from capjax.data.tokenizer import train_word_tokenizer

TOKENIZER = train_word_tokenizer(["a b c d"])
# One image has none, and one a word beyond the vocabulary.
CAPTIONS = [[[4, 2], [4, 5, 6, 2]], [], [[TOKENIZER.vocab_size, 2]]]


def test_references_are_whole_and_keys_an_images_own():
    captions = [[np.array(ids, np.int32) for ids in of_image] for of_image in CAPTIONS]
    references = References(captions, TOKENIZER, seed=3)
    index, positions = np.array([2, 0, 1, 2]), np.array([5, 6, 2**40, 8])
    found = references(index, positions)
    pad = TOKENIZER.pad_id
    np.testing.assert_array_equal(
        found["references"][:3],
        [
            [[TOKENIZER.vocab_size, 2, pad, pad], [pad] * 4],
            [[4, 2, pad, pad], [4, 5, 6, 2]],
            [[pad] * 4] * 2,
        ],
    )
    np.testing.assert_array_equal(found["reference_lengths"], [[2, 0], [2, 4], [0, 0], [2, 0]])
    keys = found["keys"]
    assert (keys.shape, keys.dtype) == ((4, 2), np.uint32)
    # An image has others in another epoch, and the same ones in whatever batch.
    assert len(np.unique(keys, axis=0)) == 4
    np.testing.assert_array_equal(references(index[2:], positions[2:])["keys"], keys[2:])
    other = References(captions, TOKENIZER, seed=4)(index, positions)["keys"]
    assert (other != keys).any(axis=1).all()
