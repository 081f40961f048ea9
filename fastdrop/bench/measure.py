"""Timing: contenders take turns within a round, so that drift of the machine hits all alike."""

from __future__ import annotations

import math
import random
import statistics
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastdrop.bench.contenders import Case, Contender, check

SAMPLE_SECONDS = 300e-6  # the least that one sample lasts
COLD_SECONDS = 5e-3  # a call that takes longer finds nothing of its arrays in a cache anyway
NOISY = 0.10  # MAD over median from which a figure is not to be trusted


@dataclass(frozen=True)
class Effort:
    """How long to measure: at most `rounds` turns a contender, fewer for one that is slow."""

    rounds: int
    seconds: float  # a contender
    least: int  # turns that even the slowest gets


FULL = Effort(rounds=31, seconds=1.2, least=3)
QUICK = Effort(rounds=9, seconds=0.15, least=3)


@dataclass(frozen=True)
class Timing:
    """Seconds a call of one contender."""

    median: float
    mad: float
    minimum: float
    rounds: int
    repeats: int

    @property
    def noisy(self) -> bool:
        """Whether the samples differ too much for the median to be trusted."""
        return self.mad > NOISY * self.median


class Stopwatch:
    """One contender at one case, checked and ready to be timed."""

    def __init__(self, contender: Contender, case: Case) -> None:
        names = contender.names(case)
        exec(contender.setup, names)
        check(contender, eval(contender.expression, names), case)
        self._timer = timeit.Timer(contender.expression, contender.setup, globals=names)
        self.seconds = self._timer.timeit(1)
        self.repeats = self._fill_sample()
        if self.repeats > 1:  # the first guess was of a single call
            self.seconds = self._timer.timeit(self.repeats) / self.repeats
            self.repeats = self._fill_sample()

    def _fill_sample(self) -> int:
        return max(1, math.ceil(SAMPLE_SECONDS / max(self.seconds, 1e-9)))

    def sample(self) -> float:
        """Return the seconds a call of one sample, after a call that fills the caches."""
        if self.seconds < COLD_SECONDS:
            self._timer.timeit(1)
        return self._timer.timeit(self.repeats) / self.repeats


def repeated(timer: timeit.Timer, effort: Effort) -> list[float]:
    """Return the seconds a call of several samples, each a loop that keeps the caches warm."""
    number, taken = 1, timer.timeit(1)
    while taken < SAMPLE_SECONDS:
        number *= 4
        taken = timer.timeit(number)
    return [timer.timeit(number) / number for _ in range(effort.rounds)]


def measure(
    watches: Sequence[Stopwatch], effort: Effort, tick: Callable[[], object] = lambda: None
) -> list[Timing]:
    """Time contenders against each other.

    Parameters
    ----------
    watches : sequence of Stopwatch
        Who takes part.
    effort : Effort
        How long.
    tick : callable, optional
        Called after each round.

    Returns
    -------
    list of Timing
    """
    turns = [_turns(watch, effort) for watch in watches]
    rounds = max(turns)
    samples: list[list[float]] = [[] for _ in watches]
    order = list(range(len(watches)))
    shuffle = random.Random(0).shuffle
    for number in range(rounds):
        shuffle(order)  # so that nobody always follows the same neighbour
        for i in order:
            if (number + 1) * turns[i] // rounds > number * turns[i] // rounds:
                samples[i].append(watches[i].sample())
        tick()
    return [_timing(s, watch.repeats) for s, watch in zip(samples, watches, strict=True)]


def measure_case(who: dict[str, Contender], case: Case, effort: Effort) -> dict[str, Timing]:
    """Time contenders, by name, against each other at one case."""
    watches = [Stopwatch(contender, case) for contender in who.values()]
    return dict(zip(who, measure(watches, effort), strict=True))


def _turns(watch: Stopwatch, effort: Effort) -> int:
    affordable = int(effort.seconds / (watch.seconds * watch.repeats))
    return max(effort.least, min(effort.rounds, affordable))


def _timing(samples: list[float], repeats: int) -> Timing:
    median = statistics.median(samples)
    mad = statistics.median(abs(s - median) for s in samples)
    return Timing(median, mad, min(samples), len(samples), repeats)
