"""One slow endpoint of ten, a cold start, a failing zone: what round robin pays for them,
and the margin by which policies that look at the load must beat it.

The margin follows from a bound on what slow endpoints can get. Where a fast endpoint
never has more than m requests in flight, a policy that prefers fewer requests gives a
slow one no further request while it has more than m. With latency S there, that is at
most (m + 1) / S requests per second, a share of (m + 1) / (rate x S) of all calls. To
this comes the share of the draws that leave no choice: both of the two are slow. With
s slow ones of n that is (s / n)^2 for least_request, which draws with replacement, and
s (s - 1) / (n (n - 1)) for peak_ewma, which does not: 1 % and nothing for one of ten.
"""

from __future__ import annotations

import pytest
from simulator import Run, simulate

from meshclient.model.cluster import LbPolicy

FAST_S, SLOW_S, RATE = 0.010, 1.0, 2000.0
SEEDS = (20_240_917, 7, 1_000_003)
AWARE: tuple[LbPolicy, ...] = ("least_request", "peak_ewma")


def no_choice(policy: LbPolicy, slow: int, endpoints: int) -> float:
    """The share of draws whose both endpoints are slow."""
    if policy == "least_request":
        return (slow / endpoints) ** 2
    return slow * (slow - 1) / (endpoints * (endpoints - 1))


def most_in_flight(run: Run, slow: tuple[int, ...]) -> int:
    return max(n for number, n in run.most_in_flight.items() if number not in slow)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", AWARE)
def test_one_slow_endpoint_of_ten(policy: LbPolicy, seed: int) -> None:
    """Round robin: mean 0.9 x 10 ms + 0.1 x 1 s = 109 ms, p98 and p99 = 1 s. With m + 1 <= 16 the
    bound is 0.8 % (plus 1 % for least_request) of the calls: p98 stays at 10 ms (for
    peak_ewma p99 as well), the mean below 10 + 0.018 x 1000 = 28 ms: a quarter, (for peak_ewma
    18 ms: a sixth)."""
    print(f"seed {seed}")

    def latency(number: int, now: float) -> float:
        return SLOW_S if number == 3 else FAST_S

    plain = simulate("round_robin", latency, seed, rate=RATE)
    aware = simulate(policy, latency, seed, rate=RATE)
    assert plain.mean_s() == pytest.approx(0.109, rel=0.01)
    assert plain.percentile_s(98) == plain.percentile_s(99) == SLOW_S
    most = most_in_flight(aware, (3,))
    assert most <= 15
    # In the first second the slow one fills up: m + 1 calls more in ten seconds. Chance
    # adds 5 standard deviations of 20,000 draws at 1 %.
    bound = 1.1 * (most + 1) / (RATE * SLOW_S) + no_choice(policy, 1, 10) + 0.0035
    assert aware.calls[3] / len(aware.latencies) <= bound
    assert aware.percentile_s(98 if policy == "least_request" else 99) == FAST_S
    assert aware.mean_s() <= plain.mean_s() / (3.5 if policy == "least_request" else 6)


@pytest.mark.parametrize("seed", SEEDS)
def test_latency_beats_counting_where_calls_are_few(seed: int) -> None:
    """20 calls a second: nearly nothing is in flight, so counting cannot tell fast from
    slow and gives the slow one close to its tenth; its latency can. The slow one (1 s, default
    30 ms, decay 10 s) is asked again when its estimate has fallen to 10 ms: after
    10 s x ln(100) = 46 s. In 40 s it gets the few calls that came before its first answer."""
    print(f"seed {seed}")

    def latency(number: int, now: float) -> float:
        return SLOW_S if number == 3 else FAST_S

    counting = simulate("least_request", latency, seed, rate=20.0, duration_s=40.0)
    measuring = simulate("peak_ewma", latency, seed, rate=20.0, duration_s=40.0)
    # One call in its first second at the most (its cost doubles), and chance.
    assert measuring.calls[3] <= 3
    assert counting.calls[3] >= 5 * measuring.calls[3]
    assert measuring.mean_s() < counting.mean_s() / 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", AWARE)
def test_a_cold_endpoint_warms_up(policy: LbPolicy, seed: int) -> None:
    """One endpoint starts at 500 ms and falls to 10 ms within 5 s. Round robin sends it a
    tenth of the calls; the others at most (m + 1) / (2000 x latency), on average over the
    ramp (m + 1) x ln(50) / (2000 x 0.49 s) < 6.4 %; by latency, the sum of what those
    calls wait is below (m + 1) / 2000 s per call: 8 ms of 10 + 8, against 10 + 24.5."""
    print(f"seed {seed}")

    def latency(number: int, now: float) -> float:
        return FAST_S + 0.49 * max(0.0, 1 - now / 5) if number == 0 else FAST_S

    plain = simulate("round_robin", latency, seed, rate=RATE, duration_s=5.0)
    aware = simulate(policy, latency, seed, rate=RATE, duration_s=5.0)
    assert plain.mean_s() == pytest.approx(0.0345, rel=0.02)
    assert aware.mean_s() <= 0.018
    assert aware.percentile_s(99) < plain.percentile_s(99)
    later = aware.percentile_s(50, since=4.5)
    assert later == FAST_S


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", AWARE)
def test_a_failing_zone(policy: LbPolicy, seed: int) -> None:
    """One zone of three (4 of 12 endpoints) stalls for good at 3 s: 1 s instead of 10 ms.

    Round robin then waits (8 x 10 ms + 4 x 1 s) / 12 = 340 ms on average. Of the draws,
    1/9 (peak_ewma: 1/11) leave no choice; the rest gives the zone at most
    4 x (m + 1) / 2000 s: 10 + 110 + 32 = 152 ms with m + 1 <= 16, less than a half."""
    print(f"seed {seed}")

    def latency(number: int, now: float) -> float:
        return SLOW_S if number % 3 == 1 and now >= 3.0 else FAST_S

    runs = [
        simulate(name, latency, seed, endpoints=12, rate=RATE, zones=3)
        for name in ("round_robin", policy)
    ]
    plain, aware = runs
    assert plain.mean_s(since=3.0) == pytest.approx(0.34, rel=0.02)
    assert most_in_flight(aware, (1, 4, 7, 10)) <= 15
    bound_s = FAST_S + no_choice(policy, 4, 12) * 0.99 + 4 * 16 / RATE
    assert aware.mean_s(since=3.0) <= bound_s < plain.mean_s(since=3.0) / 2.2
    assert aware.percentile_s(50, since=3.0) == FAST_S
