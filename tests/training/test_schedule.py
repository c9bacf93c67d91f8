"""Learning rates by step; what follows after which epoch; when the state is saved."""

import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.schedule import COSINE_FLOOR, PREVIEWED_EPOCHS, EpochPlan, SaveInterval, rate_factor


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 30))
def test_cosine_falls_to_its_floor(per_epoch, epochs, warmup):
    factor = partial(rate_factor, steps_per_epoch=per_epoch, epochs=epochs, schedule='cosine',
                     warmup_steps=warmup)
    total = per_epoch * epochs
    after = [factor(step) for step in range(warmup, total)]
    assert after == sorted(after, reverse=True)
    assert all(0 < factor(step) <= 1 for step in range(total))
    if warmup < total:
        assert factor(total) == pytest.approx(COSINE_FLOOR)


def test_published_steps():
    factor = partial(rate_factor, steps_per_epoch=10, epochs=100, decay_epochs=(-20, -10))
    at_the_start_of = [factor(10 * (epoch - 1)) for epoch in (1, 80, 81, 90, 91, 100)]
    assert at_the_start_of == [1, 1, .5, .5, .25, .25]
    assert rate_factor(999, 10, 100) == 1


def test_rates_of_a_run_that_counts_on():
    """Epoch 245 of 294 is its first: the decays keep their epochs, the cosine its ends."""
    first = partial(rate_factor, steps_per_epoch=10, epochs=294, first_epoch=245)
    at_the_start_of = [first(10 * (epoch - 245), decay_epochs=(-20,)) for epoch in (245, 274, 275)]
    assert at_the_start_of == [1, 1, .5]
    cosine = partial(first, schedule='cosine')
    assert cosine(0) == 1
    assert cosine(500) == pytest.approx(COSINE_FLOOR)


def test_rates_rise_over_the_warm_up():
    factors = [rate_factor(step, 10, 100, warmup_steps=3) for step in range(5)]
    assert factors == [.25, .5, .75, 1, 1]


def test_kept_epochs():
    published = EpochPlan(500, save_last=50, save_step=5)
    assert [e for e in range(1, 501) if published.is_checkpoint(e)] == list(range(450, 501, 5))
    assert published.num_checkpoints() == 11
    odd = EpochPlan(247, save_last=50, save_step=5)
    assert [e for e in range(1, 248) if odd.is_checkpoint(e)] == [*range(200, 246, 5), 247]
    short = EpochPlan(7, save_last=50, save_step=5)
    assert [e for e in range(1, 8) if short.is_checkpoint(e)] == [5, 7]


def test_a_run_that_counts_on_is_not_taken_for_a_longer_one():
    plan = EpochPlan(294, save_last=20, save_step=10, val_step=1, first_epoch=245)
    assert len(plan.trained) == plan.num_validations() == 50
    assert [e for e in plan.trained if plan.is_checkpoint(e)] == [280, 290, 294]
    assert plan.num_checkpoints() == 3


def test_validated_epochs():
    plan = EpochPlan(7, val_step=3)
    assert [e for e in range(1, 8) if plan.is_validation(e)] == [3, 6, 7]
    assert plan.num_validations() == 3
    assert EpochPlan(7, val_step=0).num_validations() == 0


def test_previewed_epochs():
    """With each validation; without any, at most so many, and after the last epoch."""
    plan = EpochPlan(7, val_step=3)
    assert [e for e in range(1, 8) if plan.is_preview(e)] == [3, 6, 7]
    plan = EpochPlan(500)
    previewed = [e for e in range(1, 501) if plan.is_preview(e)]
    assert len(previewed) <= PREVIEWED_EPOCHS
    assert previewed[-1] == 500


def test_saving_by_steps():
    steps = range(1, 9)
    assert [step for step in steps if SaveInterval('3').is_due_after(step)] == [3, 6]
    never = SaveInterval('0')
    assert not any(never.is_due_after(step) or never.has_passed() for step in steps)


def test_saving_by_the_clock(monkeypatch):
    def has_passed_at(minute: float) -> bool:
        monkeypatch.setattr(time, 'monotonic', lambda: 60 * minute)
        return interval.has_passed()

    monkeypatch.setattr(time, 'monotonic', lambda: 0.)
    interval = SaveInterval('10min')
    passed = [has_passed_at(minute) for minute in (5, 10, 11, 19, 20.5, 20.6)]
    assert passed == [False, True, False, False, True, False]
    assert not interval.is_due_after(10)
