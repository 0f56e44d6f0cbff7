from collections import Counter

import numpy as np
import pytest

from capjax.data.batches import Schedule, TrainBatches, eval_indices, eval_text, lay_out, pack
from capjax.data.captions import CaptionTable, encode_captions
from capjax.data.tokenizer import train_word_tokenizer
from tests.helpers.effort import examples

hypothesis = pytest.importorskip("hypothesis")
example, given = hypothesis.example, hypothesis.given
settings, st = hypothesis.settings, hypothesis.strategies

MAX_LENGTH = 12
TOKENIZER = train_word_tokenizer([" ".join("abcdefghijklmnopqrstuvwxyz")])


def encode(counts, seed=0):
    """Captions of random length: `counts[i]` of them for image i."""
    rng = np.random.default_rng(seed)
    captions = tuple(
        tuple(" ".join(rng.choice(list("abcdefgh"), rng.integers(1, MAX_LENGTH))) for _ in range(k))
        for k in counts
    )
    table = CaptionTable(tuple(map(str, range(len(counts)))), captions, "abc")
    return encode_captions(table, TOKENIZER, max_length=MAX_LENGTH, over_length="drop")


def longest(encoded):
    return np.array([max(map(len, captions), default=0) for captions in encoded.tokens])


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        assert (a is None) == (b is None)
        np.testing.assert_array_equal(a, b)


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    seed=st.sampled_from([0, 1, 2**63 - 1]),
    bucket=st.booleans(),
    window=st.integers(1, 5),
    windows=st.integers(1, 4),
)
@settings(max_examples=examples(60), deadline=None)
@example(n=5, batch_size=2, seed=0, bucket=True, window=5, windows=1)
@example(n=4, batch_size=2, seed=0, bucket=True, window=3, windows=1)
def test_images_occur_equally_often(n, batch_size, seed, bucket, window, windows):
    encoded = encode([1] * n)
    schedule = Schedule(
        encoded,
        batch_size=batch_size,
        seed=seed,
        sort_by=longest(encoded) if bucket else None,
        bucket_window=window,
    )
    assert len(schedule) == n
    # A window is an epoch's batches at most.
    steps = windows * (min(window, max(n // batch_size, 1)) if bucket else 1)
    plans = [schedule(step) for step in range(steps)]
    seen = Counter(i for plan in plans for i in plan.index.tolist())
    total = steps * batch_size
    assert {seen[i] for i in range(n)} <= {total // n, -(-total // n)}
    positions = np.sort(np.concatenate([plan.positions for plan in plans]))
    np.testing.assert_array_equal(positions, np.arange(total))
    assert all(plan.index.shape == (batch_size,) for plan in plans)


def test_every_epoch_has_every_image_in_a_new_order():
    schedule = Schedule(encode([1] * 30), batch_size=5, seed=3)
    epochs = [
        np.concatenate([schedule(step).index for step in range(first, first + 6)]).tolist()
        for first in (0, 6, 12)
    ]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, list(range(30))]}) == 4
    other = Schedule(encode([1] * 30), batch_size=30, seed=4)(0).index
    assert other.tolist() != epochs[0]


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=8),
    st.sampled_from([None, 3]),
    st.booleans(),
)
@settings(max_examples=examples(25), deadline=None)
def test_a_batch_depends_on_its_step_alone(steps, bucket, packed):
    encoded = encode([3] * 13)
    options = {"batch_size": 4, "seed": 5, "length_bucket": bucket, "bucket_window": 7}
    options |= {"captions_per_image": 2, "packed": packed}
    batches = TrainBatches(encoded, TOKENIZER, **options)
    for step in steps:
        assert_equal(batches(step), TrainBatches(encoded, TOKENIZER, **options)(step))


def test_bucketing_sorts_by_length_and_shuffles_batches():
    encoded = encode([3] * 200)
    lengths = longest(encoded)
    sorting = Schedule(encoded, batch_size=10, seed=0, sort_by=lengths, bucket_window=20)
    plain = Schedule(encoded, batch_size=10, seed=0)
    sorted_, mixed = ([lengths[s(step).index] for step in range(20)] for s in (sorting, plain))
    assert np.mean(np.ptp(sorted_, axis=1)) < 0.3 * np.mean(np.ptp(mixed, axis=1))
    means = [batch.mean() for batch in sorted_]
    assert means != sorted(means)


@pytest.mark.parametrize(
    ("packed", "sizes"), [(True, {(12, 12), (24, 24)}), (False, {(4, 8), (12, 12)})]
)
def test_images_of_like_size_are_in_a_batch(packed, sizes):
    """Like in all their tokens if they are packed, or else in those of the longest caption."""
    lengths = ((12,), (4, 4, 4), (8, 8, 8), (12, 12)) * 3
    captions = tuple(tuple(" ".join("a" * (n - 1)) for n in own) for own in lengths)
    table = CaptionTable(tuple(map(str, range(12))), captions, "abc")
    encoded = encode_captions(table, TOKENIZER, max_length=MAX_LENGTH, over_length="drop")
    options = {"batch_size": 6, "captions_per_image": 3, "seed": 0, "length_bucket": 1}
    batches = TrainBatches(encoded, TOKENIZER, packed=packed, **options)
    over = np.sum if packed else np.max
    found = [over(batches(step).lengths, axis=1) for step in range(2)]
    assert {(int(size.min()), int(size.max())) for size in found} == sizes


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bucket", [4, 7, None])
def test_shapes_are_multiples_of_the_bucket_up_to_the_limit(bucket, packed):
    options = {"batch_size": 3, "captions_per_image": 2, "seed": 0, "packed": packed}
    batches = TrainBatches(encode([2, 1, 2] * 5), TOKENIZER, length_bucket=bucket, **options)
    seen = set()
    for step in range(60):
        batch = batches(step)
        tokens, limit = batch.lengths.max(), MAX_LENGTH
        size = batch.tokens.shape[2] - 1
        if packed:
            assert size == MAX_LENGTH
            tokens, limit = batch.lengths.sum(axis=1).max(), 2 * MAX_LENGTH
            size = batch.packing.shape[1]
        assert size == (min(-(-tokens // bucket) * bucket, limit) if bucket else limit)
        seen.add(int(size))
    assert len(seen) == 1 if bucket is None else len(seen) > 1


def test_packing_finds_all_tokens_in_order():
    options = {"batch_size": 6, "captions_per_image": 3, "seed": 0, "length_bucket": 4}
    batches = TrainBatches(encode([5, 1, 3, 2]), TOKENIZER, packed=True, **options)
    for step in range(10):
        _, tokens, lengths, packing, _ = batches(step)
        targets = tokens[:, :, 1:].reshape(len(tokens), -1)
        for row, places, ends in zip(targets, packing, lengths, strict=True):
            expected = [row[MAX_LENGTH * c + t] for c, end in enumerate(ends) for t in range(end)]
            assert row[places[places >= 0]].tolist() == expected
            assert (places[ends.sum() :] == -1).all()
    with pytest.raises(ValueError, match="broadcast"):
        pack(np.array([[3, 2]], np.int32), 4, 4)


def test_images_without_captions_are_left_out():
    schedule = Schedule(encode([0, 2, 0, 1, 3]), batch_size=4, seed=0)
    assert len(schedule) == 3
    assert {i for step in range(9) for i in schedule(step).index.tolist()} == {1, 3, 4}
    with pytest.raises(ValueError, match="no image has a caption"):
        Schedule(encode([0, 0]), batch_size=4, seed=0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bucket", [None, 1])
@pytest.mark.parametrize("hosts", [2, 3])
def test_shares_of_the_hosts_make_up_the_batch(bucket, hosts, packed):
    encoded = encode([5, 4, 1, 7, 2])
    options = {"batch_size": 6, "captions_per_image": 3, "seed": 0, "length_bucket": bucket}
    options["packed"] = packed
    whole = TrainBatches(encoded, TOKENIZER, **options)
    parts = [
        TrainBatches(encoded, TOKENIZER, **options, process_index=h, process_count=hosts)
        for h in range(hosts)
    ]
    for step in range(12):
        shares = zip(*(part(step) for part in parts), strict=True)
        joined = [None if x[0] is None else np.concatenate(x) for x in shares]
        assert_equal(joined, whole(step))
        np.testing.assert_array_equal(whole.index(step), whole(step).index)


def test_captions_are_the_images_own_and_drawn_anew():
    encoded = encode([5, 4, 1, 7])
    batches = TrainBatches(encoded, TOKENIZER, batch_size=4, captions_per_image=4, seed=0)
    drawn = {i: Counter() for i in range(4)}
    for step in range(60):
        index, tokens, lengths, *_ = batches(step)
        assert (lengths > 0).sum(axis=1).tolist() == [min(4, len(encoded.tokens[i])) for i in index]
        for i, rows, ends in zip(index.tolist(), tokens, lengths, strict=True):
            own = [ids.tolist() for ids in encoded.tokens[i]]
            found = [row[1 : end + 1].tolist() for row, end in zip(rows, ends, strict=True) if end]
            places = {own.index(ids) for ids in found}
            assert len(places) == len(found)
            drawn[i].update(places)
    assert [len(drawn[i]) for i in range(4)] == [5, 4, 1, 7]
    assert min(drawn[3].values()) > 60 * 4 / 7 / 2


def test_lay_out():
    first, second = np.array([7, 8, 2], np.int32), np.array([9, 2], np.int32)
    tokens, lengths = lay_out([[first, second], [second], []], 2, 4, TOKENIZER)
    assert tokens.dtype == lengths.dtype == np.int32
    assert tokens.tolist() == [
        [[1, 7, 8, 2, 0], [1, 9, 2, 0, 0]],
        [[1, 9, 2, 0, 0], [0] * 5],
        [[0] * 5, [0] * 5],
    ]
    assert lengths.tolist() == [[3, 2], [2, 0], [0, 0]]
    with pytest.raises(ValueError, match="2 captions do not fit into 1"):
        lay_out([[first, second]], 1, 4, TOKENIZER)
    with pytest.raises(ValueError, match="3 tokens does not fit into 2"):
        lay_out([[first]], 1, 2, TOKENIZER)


@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 4))
def test_evaluation_has_every_image_once(images, rows, hosts):
    parts = [
        eval_indices(images, batch_size=rows * hosts, process_index=h, process_count=hosts)
        for h in range(hosts)
    ]
    assert {part.shape for part in parts} == {(-(-images // (rows * hosts)), rows)}
    joined = np.concatenate(parts, axis=1).ravel()
    assert joined.dtype == np.int32
    assert joined[joined >= 0].tolist() == list(range(images))
    assert np.flatnonzero(joined < 0).tolist() == list(range(images, len(joined)))


def test_evaluation_text_has_all_captions_in_one_shape():
    encoded = encode([2, 0, 3])
    text = eval_text(encoded, np.array([0, 1, 2, -1]), TOKENIZER)
    assert text.keys() == {"tokens", "lengths"}
    tokens, lengths = text.values()
    assert tokens.shape == (4, 3, MAX_LENGTH + 1)
    assert (lengths > 0).sum(axis=1).tolist() == [2, 0, 3, 0]
    np.testing.assert_array_equal(tokens[2, 1, 1 : lengths[2, 1] + 1], encoded.tokens[2][1])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"bucket_window": 0}, "bucket_window"),
        ({"length_bucket": 0}, "length_bucket"),
        ({"seed": -1}, "seed"),
        ({"captions_per_image": 0}, "captions_per_image"),
        ({"process_count": 3}, "multiple of the 3"),
        ({"process_index": 1}, "process_index 1"),
    ],
)
def test_wrong_arguments_are_refused(wrong, match):
    options = {"batch_size": 4, "captions_per_image": 1, "seed": 0}
    with pytest.raises(ValueError, match=match):
        TrainBatches(encode([1, 1]), TOKENIZER, **(options | wrong))
