from __future__ import annotations

import json
import logging
import time

import numpy as np
import pytest
import torch

from intermodal.core.errors import DataError
from intermodal.data.loader import EpochSampler, eval_batches, train_loader
from intermodal.data.source import Unreadable, UnreadableCounter
from intermodal.data.transforms import ImageAugment

AUGMENT = ImageAugment(flip=0.5, rotate=20, scale=(0.8, 1.2), translate=0.1, contrast=0.3, saturation=0.3, hue=0.1)


def read(source, processors, *, epochs=(0, 1), state=None, stop=None, **options):
    """Return the batches' tensors of some epochs, and the loader's state behind them."""
    loader, sampler = train_loader(source, processors, batch_size=6, seed=5, augment=AUGMENT, **options)
    if state is not None:
        loader.load_state_dict(json.loads(json.dumps(state)))
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        for batch in loader:
            batches.append(batch.tensors)
            if len(batches) == stop:
                return batches, loader.state_dict()
    return batches, loader.state_dict()


def equal(first, second) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(scope="module")
def whole(make_source, processors):
    return read(make_source(20), processors)[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(whole, make_source, processors, workers):
    batches, _ = read(make_source(20), processors, workers=workers)
    assert len(batches) == 6
    assert equal(batches, whole)


def test_threads_do_not_change_the_batches(whole, make_source, processors):
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            assert equal(read(make_source(20), processors)[0], whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [(0, 0), (2, 2), (0, 2), (2, 0)])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_in_the_middle_of_an_epoch(whole, make_source, processors, workers, stop):
    first, then = workers
    begun, state = read(make_source(20), processors, workers=first, stop=stop)
    rest, _ = read(make_source(20), processors, workers=then, state=state)
    assert equal(begun + rest, whole)


def test_a_sample_brings_its_own_seed_whoever_reads_it(make_source, processors):
    alone, _ = read(make_source(20), processors, seeds=True)
    assert all(b["seed"].dtype == torch.int64 and b["seed"].shape == (6,) for b in alone)
    seeds = torch.cat([b["seed"] for b in alone]).tolist()
    assert len(set(seeds)) == len(seeds)  # another one in each epoch, too
    assert equal(read(make_source(20), processors, seeds=True, workers=2)[0], alone)
    shares = [read(make_source(20), processors, seeds=True, rank=r, world=2)[0] for r in range(2)]
    for whole_batch, first, second in zip(alone, *shares, strict=True):
        assert torch.equal(whole_batch["seed"], torch.cat([first["seed"], second["seed"]]))


def test_resume_behind_a_finished_epoch(whole, make_source, processors):
    begun, state = read(make_source(20), processors, epochs=(0,))
    for epochs in ((1,), (0, 1)):  # the finished epoch, asked for again, is over
        assert equal(begun + read(make_source(20), processors, epochs=epochs, state=state)[0], whole)


def test_a_loader_can_be_left_and_begun_again(make_source, processors, whole):
    loader, sampler = train_loader(make_source(20), processors, batch_size=6, seed=5, augment=AUGMENT, workers=1)
    next(iter(loader))
    assert equal([b.tensors for b in loader], whole[:3])
    sampler.set_epoch(1)
    assert equal([b.tensors for b in loader], whole[3:])


def test_state_is_refused_for_other_data_or_another_epoch(make_source, processors):
    _, state = read(make_source(20), processors, stop=1)
    with pytest.raises(DataError, match="number of samples 20; now it is 21"):
        read(make_source(21), processors, state=state)
    with pytest.raises(DataError, match="is in epoch 0, but epoch 3 was asked for"):
        read(make_source(20), processors, state=state, epochs=(3,))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batch_of_one_process(whole, make_source, processors, world):
    shares = [read(make_source(20), processors, rank=r, world=world)[0] for r in range(world)]
    joined = [{k: torch.cat([part[k] for part in parts]) for k in parts[0]} for parts in zip(*shares, strict=True)]
    assert equal(joined, whole)


def test_every_sample_comes_once_in_an_epoch():
    sampler = EpochSampler(24, 6, seed=1)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append([t.index for batch in sampler for t in batch])
        assert sorted(orders[-1]) == list(range(24))
    assert orders[0] != orders[1]


def test_a_source_smaller_than_a_batch_is_one_batch(make_source, processors):
    batches, _ = read(make_source(4), processors, epochs=(0,))
    assert [len(b["text"]) for b in batches] == [4]
    shares = [read(make_source(5), processors, epochs=(0,), rank=r, world=2)[0] for r in (0, 1)]
    assert [len(b["text"]) for share in shares for b in share] == [2, 2]


def test_impossible_settings():
    for arguments, message in (
        ((10, 6, 0, 0, 4), "cannot share a batch of 6 evenly"),
        ((0, 6, 0), "empty"),
        ((1, 6, 0, 0, 2), "too few for 2 processes"),
        ((10, 0, 0), "at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            EpochSampler(*arguments)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_samples_are_replaced_and_reported(make_source, processors, workers):
    loader, _ = train_loader(make_source(12, frozenset({3, 4})), processors, batch_size=12, seed=0, workers=workers)
    (batch,) = loader
    assert len(batch.tensors["image"]) == 12
    assert {s.name for s in batch.skipped} == {"pictures, row 3", "pictures, row 4"}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_is_one_clear_sentence(make_source, processors, workers):
    loader, _ = train_loader(make_source(8, frozenset(range(8))), processors, batch_size=4, seed=0, workers=workers)
    began = time.perf_counter()
    with pytest.raises(DataError) as caught:
        list(loader)
    assert time.perf_counter() - began < 4  # workers end at once, not when torch loses patience
    assert str(caught.value).startswith("pictures: 8 samples in a row are unreadable; the first: pictures, row")
    assert "\n" not in str(caught.value)


def test_evaluation_is_in_order_and_canonical(make_source, processors):
    source = make_source(10)
    batches = list(eval_batches(source, processors, 4))
    assert [list(i) for i, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    expected = processors["text"].encode("picture 9 one")
    assert torch.equal(batches[2][1]["text"][1], expected)
    with pytest.raises(DataError, match="row 2 is broken"):
        list(eval_batches(make_source(4, frozenset({2})), processors, 4))


def test_training_draws_among_the_captions(make_source):
    source = make_source(3)
    drawn = {source.sample(1, np.random.default_rng(i))["text"] for i in range(30)}
    assert drawn == set(source.captions(1))


def test_unreadable_counter(caplog):
    counter = UnreadableCounter("mine", max_share=0.05)
    with caplog.at_level(logging.WARNING):
        counter.add([Unreadable("a.jpg", "a.jpg is cut.")], seen=64)
        counter.add([Unreadable("a.jpg", "a.jpg is cut.")], seen=64)
    assert [r.getMessage() for r in caplog.records] == ["Skipped a.jpg: a.jpg is cut."]
    again = UnreadableCounter("mine", max_share=0.05)
    again.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    assert (again.count, again.seen) == (2, 130)
    bad = [Unreadable(f"{i}.jpg", f"{i}.jpg is cut.") for i in range(40)]
    with pytest.raises(DataError, match=r"mine: 42 of 194 .* the allowed 5%.*a\.jpg is cut\.; 0\.jpg is cut\."):
        again.add(bad, seen=24)


def test_counter_lets_a_handful_pass():
    counter = UnreadableCounter("mine", max_share=0.0)
    counter.add([Unreadable(f"{i}.jpg", "cut.") for i in range(5)], seen=3)
    with pytest.raises(DataError, match="allowed 0%"):
        counter.add([Unreadable("x.jpg", "cut.")], seen=64)
