"""Any order of calls, late outcomes, waits and hands, against a naive model of a breaker."""

from __future__ import annotations

from breaker_support import BAD, CANCELLED, OK, Bench
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

OUTCOMES = st.sampled_from([OK, BAD, BAD, CANCELLED])


class Model:
    """Keeps every call of the present state in a list, and looks at all of them each time."""

    def __init__(self, options):
        self.options = options
        self.reopened = 0
        self.enter("closed")

    def enter(self, state, until=0.0):
        self.state, self.until = state, until
        self.epoch = object()
        self.calls, self.passed, self.out = [], 0, 0

    @property
    def open_for(self):
        grown = self.options["open_for_s"] * self.options["multiplier"] ** self.reopened
        return min(grown, self.options["max_open_for_s"])

    def admit(self, now):
        if self.state == "closed":
            return self.epoch
        if now < self.until and (
            self.state == "open" or self.out >= self.options["half_open_requests"]
        ):
            return None
        if self.state == "open" or self.out >= self.options["half_open_requests"]:
            self.enter("half_open", now + self.open_for)
        self.out += 1
        return self.epoch

    def end(self, epoch, outcome, slow, now):
        if epoch is not self.epoch:
            return
        if outcome is CANCELLED:
            self.out -= 1
            return
        failed = outcome is BAD
        if self.state == "half_open":
            self.out -= 1
            if failed or slow:
                self.reopened += 1
                self.enter("open", now + self.open_for)
            else:
                self.passed += 1
                if self.passed >= self.options["half_open_successes"]:
                    self.close()
            return
        self.calls.append((now, failed, slow))
        if (failed or slow) and self.trips(failed, slow):
            self.enter("open", now + self.open_for)

    def trips(self, failed, slow):
        options = self.options
        row = 0
        for _, one, _ in reversed(self.calls):
            if not one:
                break
            row += 1
        if failed and options["consecutive_failures"] and row >= options["consecutive_failures"]:
            return True
        window = self.calls[-options["window_calls"] :]
        if len(window) < options["minimum_calls"]:
            return False
        rate = options["failure_rate_percent"]
        share = 100.0 * sum(one for _, one, _ in window) / len(window)
        if failed and rate and share >= rate:
            return True
        rate = options["slow_rate_percent"]
        share = 100.0 * sum(one for _, _, one in window) / len(window)
        return bool(slow and rate and share >= rate)

    def close(self):
        self.reopened = 0
        self.enter("closed")


class BreakerMachine(RuleBasedStateMachine):
    """The same steps for both; they must agree on every admission and state."""

    @initialize(
        consecutive=st.sampled_from([None, 1, 2, 4]),
        failure=st.sampled_from([None, 30.0, 100.0]),
        slow=st.sampled_from([None, 50.0]),
        window=st.integers(2, 6),
        minimum=st.integers(1, 4),
        multiplier=st.sampled_from([1.0, 2.0]),
        probes=st.integers(1, 3),
        successes=st.integers(1, 3),
    )
    def begin(self, consecutive, failure, slow, window, minimum, multiplier, probes, successes):
        options = {
            "consecutive_failures": consecutive,
            "failure_rate_percent": failure,
            "slow_rate_percent": slow,
            "slow_s": None if slow is None else 1.0,
            "window_calls": window,
            "minimum_calls": min(minimum, window),
            "open_for_s": 4.0,
            "multiplier": multiplier,
            "max_open_for_s": 10.0,
            "half_open_requests": probes,
            "half_open_successes": successes,
        }
        self.bench, self.model = Bench(**options), Model(options)
        self.open = []

    @rule()
    def admit(self):
        epoch, generation = self.model.admit(self.bench.now), self.bench.admit()
        assert (epoch is None) == (generation < 0)
        if epoch is not None:
            self.open.append((epoch, generation))

    @rule(outcome=OUTCOMES, slow=st.booleans(), which=st.integers(0, 99))
    def end(self, outcome, slow, which):
        if self.open:
            epoch, generation = self.open.pop(which % len(self.open))
            limit = self.model.options["slow_s"]
            took_s = 2.0 if slow else 0.1
            self.bench.end(generation, outcome, took_s)
            self.model.end(epoch, outcome, limit is not None and took_s >= limit, self.bench.now)

    @rule(which=st.integers(0, 99))
    def abandon(self, which):
        if self.open:
            epoch, generation = self.open.pop(which % len(self.open))
            self.bench.breaker.abandon(generation, self.bench.now)
            self.model.end(epoch, CANCELLED, False, self.bench.now)

    @rule(outcome=OUTCOMES)
    def whole_call(self, outcome):
        self.admit()
        if self.open:
            self.end(outcome, False, len(self.open) - 1)

    @rule(length=st.sampled_from([0.5, 2.0, 4.0, 9.0]))
    def wait(self, length):
        self.bench.now += length

    @rule()
    def open_by_hand(self):
        self.bench.breaker.open(self.bench.now)
        self.model.enter("open", self.bench.now + self.model.open_for)

    @rule()
    def close_by_hand(self):
        self.bench.breaker.close(self.bench.now)
        self.model.close()

    @invariant()
    def they_agree(self):
        if hasattr(self, "model"):
            assert self.bench.state == self.model.state
            refused = self.bench.breaker.refuses(self.bench.now)
            busy = self.model.out >= self.model.options["half_open_requests"]
            expected = self.model.state != "closed" and self.bench.now < self.model.until
            assert refused == (expected and (self.model.state == "open" or busy))


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
