"""CIDEr-D by pycocoevalcap, and captions as arrays, for tests of rewards."""

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

EOS = 2


def pad(captions, length, beyond=0):
    """Captions by image to int32 [B, K, T], with `beyond` after each, and lengths [B, K]."""
    tokens = np.full((len(captions), max(map(len, captions)), length), beyond, np.int32)
    lengths = np.zeros(tokens.shape[:2], np.int32)
    for image, own in enumerate(captions):
        for k, ids in enumerate(own):
            tokens[image, k, : len(ids)], lengths[image, k] = ids, len(ids)
    return tokens, lengths


def official(hypotheses, references, corpus=None):
    """pycocoevalcap's CIDEr-D of one text an image, float [B]; a corpus gives another idf."""
    scorer = CiderScorer()
    for own, said in zip(references, hypotheses, strict=True):
        scorer += (said, own)
    if corpus is None:
        return scorer.compute_score()[1]
    counted = CiderScorer()
    for own in corpus:
        counted += ("", own)
    counted.compute_doc_freq()
    scorer.document_frequency = counted.document_frequency
    size = np.log(float(len(corpus)))

    class OfCorpus(CiderScorer):
        ref_len = property(lambda self: size, lambda self, _: None)

    scorer.__class__ = OfCorpus
    return np.array(scorer.compute_cider())
