"""The time of a fit."""

import math
from types import SimpleNamespace

import pytest

import models.clock
from models.clock import Clock


@pytest.fixture
def at(monkeypatch):
    """The seconds that the clock is told it is."""
    at = [100.0]
    monkeypatch.setattr(models.clock, "time", SimpleNamespace(perf_counter=lambda: at[0]))
    return at


class Forecast:
    """Keeps what it hears, and foretells what it is set to."""

    def __init__(self, left=math.inf):
        self.heard, self.soon = [], left

    def trained(self, *round_):
        self.heard.append(round_)

    def left(self, *asked):
        self.asked = asked
        return self.soon


def test_a_resumed_fit_has_the_seconds_of_its_sessions_and_each_its_own_end(at):
    clock = Clock(Forecast(), max_time=5)
    clock.earlier = 1000.0
    at[0] += 4
    assert clock.seconds == 1004 and not clock.over
    at[0] += 1
    assert clock.over
    assert not Clock(Forecast()).over


def test_of_two_rounds_that_overlap_each_has_the_time_that_is_its_own_without_what_hears_of_them(at):
    clock = Clock(forecast := Forecast())
    first = clock.now
    at[0] += 1
    second = clock.now
    at[0] += 2
    assert clock.trained(1, range(0, 50), 8, 4, first) == 3
    for _ in clock.told("a wave"):
        at[0] += 1000
    at[0] += 1
    assert clock.trained(1, range(0, 50), 8, 6, second) == 1
    assert forecast.heard == [(1, 50, 50, 8, 4, 3.0), (1, 50, 50, 8, 6, 1.0)]


def test_epochs_are_affordable_at_the_pace_so_far(at):
    clock = Clock(Forecast(), max_time=10)
    assert clock.affordable(8) == math.inf
    at[0] += 4
    clock.trained(0, range(0, 20), 8, 8, 100.0)
    # 40 epochs of a block a second, for six seconds.
    assert clock.affordable(8) == pytest.approx(30) and clock.affordable(80) == pytest.approx(3)
    at[0] += 8
    assert clock.affordable(8) < 0
    assert Clock(Forecast()).affordable(8) == math.inf


def test_no_more_is_left_than_a_run_may_take(at):
    fit = SimpleNamespace(level=2, target=range(30))
    points = {3: SimpleNamespace(fit=fit, epoch=10, copy=range(7)), 4: SimpleNamespace(fit=fit, epoch=0, copy=range(9))}
    forecast = Forecast(left=60.0)
    endless, short = Clock(forecast), Clock(forecast, max_time=15)
    at[0] += 5
    for clock in (endless, short):
        clock.trained(2, range(0, 10), 9, 7, 102.0)
    assert endless.left(points, later=11) == 60 and short.left(points, later=11) == 10
    # What was not training: the two seconds before the round.
    assert forecast.asked == (2, [(10, 7), (0, 9)], 11, 30, pytest.approx(2))
    at[0] += 50
    assert short.left(points, later=11) == 0
