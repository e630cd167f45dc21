"""The proof of the intervals that Assay prints: how often they hold where the truth is known.

    python -m scripts.coverage                       # all tables, about three minutes on one core
    python -m scripts.coverage --replications 200    # a look

Run it from the repository's root. Everything is seeded: the same numbers come out again.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats
from scipy import optimize, stats

from suites.measure.measurement import Measurement, Samples
from suites.measure.paired import paired_interval
from suites.measure.plan import MeasurePlan
from suites.measure.processes import between
from suites.measure.quantiles import QuantileEstimate, quantile_interval
from suites.measure.ratio import ratio_interval
from suites.measure.steady import drift_of
from suites.measure.stopping import Stopping

SERIES = ("independent", "AR(0.5)", "AR(0.9)", "spikes")
SPIKE_SHARE, SPIKE_FACTOR = 0.05, 1.5


@dataclass(frozen=True)
class Outcome:
    """Of all replications: how many gave an interval, and how many of those held."""

    replications: int
    given: int
    held: int

    @property
    def coverage(self) -> float:
        return self.held / self.given if self.given else math.nan

    @property
    def share_given(self) -> float:
        return self.given / self.replications

    @property
    def misses(self) -> float:
        """Share of all replications in which an interval was given and did not hold."""
        return (self.given - self.held) / self.replications


def simulate(name: str, noise: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    """``shape = (replications, n)`` call times around 1: lognormal with that standard deviation of
    the logarithm, independent, autoregressive, or with 5 % of the calls half as slow again."""
    random = np.random.default_rng([seed, SERIES.index(name)])
    normal = random.standard_normal(shape)
    if name.startswith("AR"):
        phi = float(name[3:-1])
        normal[:, 1:] *= math.sqrt(1 - phi * phi)
        for step in range(1, shape[1]):
            normal[:, step] += phi * normal[:, step - 1]
    times = np.exp(noise * normal)
    if name == "spikes":
        times *= np.where(random.random(shape) < SPIKE_SHARE, SPIKE_FACTOR, 1.0)
    return times


def true_quantile(name: str, noise: float, p: float) -> float:
    if name != "spikes":
        return math.exp(noise * float(stats.norm.ppf(p)))

    def excess(log_time: float) -> float:
        usual = stats.norm.cdf(log_time / noise)
        spiked = stats.norm.cdf((log_time - math.log(SPIKE_FACTOR)) / noise)
        return float((1 - SPIKE_SHARE) * usual + SPIKE_SHARE * spiked - p)

    return math.exp(optimize.brentq(excess, -8 * noise, math.log(SPIKE_FACTOR) + 8 * noise))


def quantile_coverage(
    name: str,
    n: int,
    p: float,
    replications: int,
    seed: int = 1,
    noise: float = 0.1,
    indicator_only: bool = False,
) -> Outcome:
    """95 % intervals of one quantile from ``n`` samples; with ``indicator_only`` those that the
    first of the two estimates of the effective samples would give alone."""
    truth = true_quantile(name, noise, p)
    estimates = [
        quantile_interval(series, p, effective=_by_indicator(series, p) if indicator_only else None)
        for series in simulate(name, noise, (replications, n), seed)
    ]
    given = [e for e in estimates if isinstance(e, QuantileEstimate)]
    return Outcome(replications, len(given), sum(e.low <= truth <= e.high for e in given))


def _by_indicator(series: np.ndarray, p: float) -> float:
    ess = array_stats.ess(series[None, :], chain_axis=0, draw_axis=1, method="quantile", prob=p)
    return min(float(ess), float(len(series))) if math.isfinite(ess) else 1.0


def stopping_coverage(
    name: str, noise: float, replications: int, seed: int = 2, longest: int = 1231
) -> tuple[Outcome, float]:
    """The p50's interval at the look that ended a measurement of default precision, at most
    ``longest`` samples; and the median number of samples that it took."""
    plan, truth = MeasurePlan(), true_quantile(name, noise, 0.5)
    given = held = 0
    sizes = []
    for series in simulate(name, noise, (replications, longest), seed):
        stopping = Stopping(plan, plan.first_look)
        while True:
            size = min(stopping.next_size, longest)
            if stopping.look(series[:size]):
                p50 = stopping.looks[-1].p50
                assert isinstance(p50, QuantileEstimate), "stopped without an interval"
                given += 1
                held += p50.low <= truth <= p50.high
                break
            if size == longest:
                break
        sizes.append(size)
    return Outcome(replications, given, held), float(np.median(sizes))


def drift_rate(name: str, n: int, trend: str, size: float, replications: int) -> float:
    """How often ``n`` samples with 3 % noise are called drifting, with the given trend on top."""
    place = np.linspace(0, 1, n)
    shape = {
        "none": np.zeros(n),
        "linear": place,
        "step": (place > 0.5).astype(float),
        "slow warm-up": np.exp(-4 * place),
    }[trend]
    series = simulate(name, 0.03, (replications, n), seed=3) * (1 + size * shape)
    tolerance = MeasurePlan().drift_tolerance
    return float(np.mean([drift_of(each, tolerance).significant for each in series]))


def ratio_coverage(name: str, rounds: int, replications: int, calls: int = 6) -> Outcome:
    """Two cells, one 1.3 times slower, on a machine that gets 30 % slower and wobbles by 10 %."""
    noise, truth = 0.05, 1.3
    own = [simulate(name, noise, (replications, rounds * calls), seed) for seed in (4, 5)]
    wobble = 0.1 * np.random.default_rng(6).standard_normal((replications, rounds))
    machine = np.repeat(np.exp(wobble) * np.linspace(1, 1.3, rounds), calls, axis=1)
    held = 0
    for slow, fast, common in zip(own[0], own[1], machine, strict=True):
        ratio = ratio_interval(
            measured(truth * slow * common, calls), measured(fast * common, calls)
        )
        assert ratio is not None, "there are enough rounds"
        held += ratio.low <= truth <= ratio.high
    return Outcome(replications, replications, held)


def measured(times: np.ndarray, calls: int) -> Measurement:
    """A cell whose calls took these times, in units of 10 ms, with so many of them a round."""
    blocks = np.arange(len(times), dtype=np.int32) // calls
    none = np.zeros(len(times), bool)
    return Measurement(
        status="ok",
        reason="",
        stopped_by="time",
        samples=Samples((times * 1e7).astype(np.int64), none, blocks, blocks, none),
        looks=(),
        quantiles={},
        minimum_ns=None,
        mad_ns=None,
        warmup_calls=0,
        warmup_seconds=0.0,
    )


def paired_coverage(n: int, lost: float, gained: float, replications: int) -> tuple[float, float]:
    """How often Tango's interval, and the one-sided bound, hold for these true shares."""
    random = np.random.default_rng([7, n])
    tables = random.multinomial(n, [lost, gained, 1 - lost - gained], replications)
    interval = bound = 0
    for n_lost, n_gained, _ in tables:
        reference, candidate = np.ones(n), np.ones(n)
        candidate[:n_lost] = 0
        reference[n_lost : n_lost + n_gained] = 0
        found = paired_interval(reference, candidate)
        interval += found.low <= lost - gained <= found.high
        bound += lost - gained <= found.upper
    return interval / replications, bound / replications


PROCESSES = ("normal", "correlated", "heavy tails", "two states")
"""How the logarithms of processes' levels differ: a standard deviation of 3 %; the same, with a
correlation of 1/2 from one to the next; Student's with three degrees of freedom, scaled by 2 %; one
in five half as slow again."""


def process_coverage(name: str, k: int, replications: int) -> tuple[float, float]:
    """How often the interval from ``k`` processes, the median of each known to 1 %, holds the
    median over all processes; and its half width in the middle of all cases."""
    random = np.random.default_rng([8, PROCESSES.index(name), k])
    levels = {
        "normal": lambda: 0.03 * random.standard_normal(k),
        "correlated": lambda: simulated_autoregression(random, 0.03, 0.5, k),
        "heavy tails": lambda: 0.02 * random.standard_t(3, k),
        "two states": lambda: math.log(1.5) * (random.random(k) < 0.2),
    }[name]
    found = [between(levels() + 0.01 * random.standard_normal(k)) for _ in range(replications)]
    # Every one of these has its median at 0, but for the quarter of a standard deviation that
    # the slow ones move that of the fast.
    truth = 0.01 * float(stats.norm.ppf(0.5 / 0.8)) if name == "two states" else 0.0
    held = np.mean([low <= truth <= high for low, _, high in found])
    return float(held), float(np.median([(high - low) / 2 for low, _, high in found]))


def simulated_autoregression(
    random: np.random.Generator, deviation: float, phi: float, n: int
) -> np.ndarray:
    """``(n,)`` of a stationary first-order autoregression."""
    covariance = deviation**2 * phi ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return random.multivariate_normal(np.zeros(n), covariance)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--replications", type=int, default=2000)
    count = parser.parse_args().replications

    print(f"{count} replications each; standard error at 95 %: {math.sqrt(0.0475 / count):.2%}")
    print("\n95 % intervals of a quantile: share given, coverage of those, wrong ones among all")
    head = f"{'given':>7} {'holds':>7} {'wrong':>6}"
    print(f"{'series':12} {'n':>6}   p50 {head}   p99 {head}")
    for name in SERIES:
        for n in (12, 32, 72, 162, 400, 1500):
            cells = (
                f"{o.share_given:7.1%} {o.coverage:7.1%} {o.misses:6.1%}"
                if o.given
                else f"{'-':>7}"
                for o in (quantile_coverage(name, n, p, count) for p in (0.5, 0.99))
            )
            print(f"{name:12} {n:6}       " + "         ".join(cells))

    print("\nFor comparison, AR(0.9) with the indicator's effective samples alone")
    for p, n in ((0.5, 32), (0.5, 162), (0.5, 400), (0.99, 1500)):
        plain = quantile_coverage("AR(0.9)", n, p, count, indicator_only=True)
        print(f"p{100 * p:.0f} {n:6} given {plain.share_given:6.1%} holds {plain.coverage:6.1%}")

    print("\nThe p50's interval when a measurement stopped at 2 % (at most 1231 samples)")
    print(f"{'series':12} {'noise':>6} {'stopped':>8} {'holds':>7} {'wrong':>6} {'samples':>8}")
    for name in SERIES:
        for noise in (0.01, 0.02, 0.05):
            outcome, samples = stopping_coverage(name, noise, count)
            print(
                f"{name:12} {noise:6.0%} {outcome.share_given:8.1%} {outcome.coverage:7.1%} "
                f"{outcome.misses:6.1%} {samples:8.0f}"
            )

    print("\nCalled drifting (3 % noise, tolerance 5 %)")
    print(f"{'series':12} {'trend':18} {'n=32':>7} {'n=72':>7} {'n=162':>7} {'n=400':>7}")
    for name in SERIES:
        for trend, size in (("none", 0.0), ("linear", 0.2), ("step", 0.2), ("slow warm-up", 0.5)):
            rates = [drift_rate(name, n, trend, size, count) for n in (32, 72, 162, 400)]
            label = f"{trend} {size:.0%}" if size else trend
            print(f"{name:12} {label:18} " + " ".join(f"{rate:7.1%}" for rate in rates))

    print("\n95 % intervals of the ratio of two cells on a machine that drifts by 30 %")
    print(f"{'series':12} {'6 rounds':>9} {'12 rounds':>10}")
    for name in SERIES:
        held = [ratio_coverage(name, rounds, count).coverage for rounds in (6, 12)]
        print(f"{name:12} {held[0]:9.1%} {held[1]:10.1%}")

    print("\n95 % intervals of the p50 from several processes (each known to 1 %)")
    print(f"{'processes differ':18}" + "".join(f"{f'{k} processes':>22}" for k in (3, 5, 10)))
    for name in PROCESSES:
        cells = (process_coverage(name, k, count) for k in (3, 5, 10))
        print(f"{name:18}" + "".join(f"{held:10.1%} +-{width:9.1%}" for held, width in cells))

    print("\nPaired drop of accuracy (Tango): true shares lost and gained")
    print(f"{'n':>6} {'lost':>6} {'gained':>7} {'interval':>9} {'bound':>7}")
    for n in (50, 200, 3200):
        for lost, gained in ((0.01, 0.01), (0.05, 0.02), (0.15, 0.10)):
            interval, bound = paired_coverage(n, lost, gained, count)
            print(f"{n:6} {lost:6.0%} {gained:7.0%} {interval:9.1%} {bound:7.1%}")


if __name__ == "__main__":
    main()
