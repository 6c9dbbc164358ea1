"""What an optimizer step sees depends on its number alone: not on processes, accumulation, workers or interruptions."""

from collections import Counter

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from loopway.data import Source, TokenSamples

SAMPLES_PER_STEP = 8
STEPS = 12
SPLITS = [  # processes, samples of each in a micro-batch, micro-batches in a step
    (1, 8, 1),
    (1, 2, 4),
    (2, 4, 1),
    (2, 1, 4),
    (4, 2, 1),
    (4, 1, 2),
]
KINDS = {
    "packed": {"seed": 3},
    "in order": {},
    "masked": {"seed": 3, "mask_documents": True},
    "mixture": {"seed": 3, "weights": (2, 1)},
    "preshuffled": {"seed": 3, "sampling": "preshuffled"},
}


@pytest.fixture(params=KINDS)
def samples(request, counting_file):
    """Of two files, over more than two epochs; every row begins with another id."""
    options = dict(KINDS[request.param])
    weights = options.pop("weights", (None, None))
    files = [counting_file([5] * 20), counting_file([5] * 11, 1000)]
    sources = [Source([file], weight) for file, weight in zip(files, weights, strict=True)]
    made = TokenSamples(sources, 4, num_samples=STEPS * SAMPLES_PER_STEP, **options)
    assert len(made) > 2 * made.samples_per_epoch
    return made


def prepared(samples, split, process, workers=0):
    """The batches of one process, as the Trainer's accelerator deals them out."""
    processes, batch_size, _ = split
    loader = DataLoader(samples, batch_size=batch_size, num_workers=workers)
    return prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False)


def steps_seen(samples, split, *, workers=0, done=0):
    """The samples of each optimizer step after step `done`, by their first ids, all processes together; unordered."""
    processes, _, accumulated = split
    seen = [Counter() for _ in range(STEPS - done)]
    for process in range(processes):
        loader = prepared(samples, split, process, workers)
        if done:
            loader = skip_first_batches(loader, done * accumulated)
        batches = [batch["input_ids"][:, 0].tolist() for batch in loader]
        assert len(batches) == (STEPS - done) * accumulated
        for number, batch in enumerate(batches):
            seen[number // accumulated].update(batch)
    return seen


def expected(samples):
    firsts = [int(samples[index]["input_ids"][0]) for index in range(len(samples))]
    return [
        Counter(firsts[start : start + SAMPLES_PER_STEP]) for start in range(0, len(firsts), SAMPLES_PER_STEP)
    ]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_a_step_sees_the_same_samples_however_it_is_split(samples, split):
    assert steps_seen(samples, split) == expected(samples)


@pytest.mark.parametrize("split", [(1, 2, 4), (2, 4, 1)], ids=str)
def test_loader_workers_change_nothing(samples, split):
    assert steps_seen(samples, split, workers=2) == expected(samples)


@pytest.mark.parametrize("split", [(1, 2, 4), (2, 1, 4), (4, 2, 1)], ids=str)
def test_resumed_after_any_step_nothing_is_repeated_or_left_out(samples, split):
    for done in range(STEPS):
        assert steps_seen(samples, split, done=done) == expected(samples)[done:]


def test_resumed_with_workers_and_another_split_nothing_is_repeated_or_left_out(samples):
    for done in (1, 7):
        assert steps_seen(samples, (2, 2, 2), workers=1, done=done) == expected(samples)[done:]
