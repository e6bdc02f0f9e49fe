"""A service's policy around any function: results, exceptions, limits, and nothing left behind."""

from __future__ import annotations

import asyncio
import inspect
import socket

import httpx
import pytest
import tenacity

import meshclient
from meshclient import errors
from meshclient.clients.decorator import CallPolicy, call_policy
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.testing import FakeClock

RETRIES = {"attempts": 2, "on": ["connect-failure", "reset", "503"], "back_off": {"base": "1s"}}
PAYMENTS = {
    "endpoints": ["10.0.0.1:80", "10.0.0.2:80"],
    "load_balancing": "round_robin",
    "retries": RETRIES,
}


class World:
    """A mesh over scripted time, whose decorators never really sleep."""

    def __init__(self, **service):
        self.clock = FakeClock()
        document = {"version": 1, "services": {"payments": {**PAYMENTS, **service}}}
        self.mesh = meshclient.Mesh.from_documents([document])
        self.mesh._runtime.clock = self.clock
        self.mesh._runtime.rand = lambda: 999
        self.slept = []

    def call(self, **options):
        policy = call_policy(self.mesh._runtime, "payments", options)
        return CallPolicy(
            self.mesh._runtime, "payments", policy._options, self._sleep, self._async_sleep
        )

    def _sleep(self, seconds):
        self.slept.append(seconds)
        self.clock.advance(seconds)

    async def _async_sleep(self, seconds):
        self._sleep(seconds)

    @property
    def in_flight(self):
        return sum(self.mesh.dump()["clusters"]["payments"].values())


@pytest.fixture
def world():
    return World()


class Service:
    """A function that fails as told and then works."""

    def __init__(self, *script):
        self.script = list(script)
        self.endpoints = []

    def take(self, endpoint):
        self.endpoints.append(str(endpoint))
        step = self.script.pop(0) if self.script else "ok"
        if isinstance(step, BaseException):
            raise step
        return step


def sync_and_async(policy, service):
    """The same calls through both loops."""

    @policy
    def blocking(endpoint=None):
        return service.take(endpoint)

    @policy
    async def waiting(endpoint=None):
        return service.take(endpoint)

    return {"sync": blocking, "async": lambda: asyncio.run(waiting())}


both = pytest.mark.parametrize("colour", ["sync", "async"])


@both
def test_a_result_is_returned_and_the_pick_is_handed_over(world, colour):
    service = Service("done")
    assert sync_and_async(world.call(), service)[colour]() == "done"
    assert service.endpoints[0] in ("10.0.0.1:80", "10.0.0.2:80")
    assert world.in_flight == 0


@both
def test_a_refused_connection_is_tried_again_elsewhere(world, colour):
    service = Service(ConnectionRefusedError("no"))
    assert sync_and_async(world.call(), service)[colour]() == "ok"
    assert len(set(service.endpoints)) == 2
    assert len(world.slept) == 1


@both
def test_the_last_exception_is_the_functions_own(world, colour):
    last = ConnectionRefusedError("third")
    service = Service(ConnectionRefusedError("first"), ConnectionRefusedError("second"), last)
    with pytest.raises(ConnectionRefusedError) as caught:
        sync_and_async(world.call(), service)[colour]()
    assert caught.value is last
    assert "3 tries" in caught.value.__notes__[0]
    assert world.in_flight == 0


@both
def test_a_broken_connection_is_repeated_only_where_that_is_harmless(world, colour):
    with pytest.raises(ConnectionResetError):
        sync_and_async(world.call(), Service(ConnectionResetError()))[colour]()
    idempotent = world.call(idempotent=True)
    assert sync_and_async(idempotent, Service(ConnectionResetError()))[colour]() == "ok"


@both
def test_a_mistake_in_the_function_is_nobodys_failure(world, colour):
    service = Service(ValueError("mine"), "never")
    with pytest.raises(ValueError, match="mine"):
        sync_and_async(world.call(), service)[colour]()
    assert service.script == ["never"]
    assert world.in_flight == 0


@both
def test_responses_are_judged_by_their_status(world, colour):
    service = Service(httpx.Response(503), httpx.Response(200))
    assert sync_and_async(world.call(idempotent=True), service)[colour]().status_code == 200
    exhausted = Service(*[httpx.Response(503)] * 3)
    assert sync_and_async(world.call(idempotent=True), exhausted)[colour]().status_code == 503


@both
def test_an_injected_abort_is_an_error_that_names_the_answer(colour):
    world = World(fault={"abort": {"status": 418}})
    with pytest.raises(errors.AnsweredLocally) as caught:
        sync_and_async(world.call(), Service())[colour]()
    assert (caught.value.status, caught.value.body) == (418, "fault filter abort")
    assert caught.value.report.flags == ("FI",)


@both
def test_an_injected_delay_is_waited_out(colour):
    world = World(fault={"delay": {"fixed_delay": "3s"}})
    assert sync_and_async(world.call(), Service())[colour]() == "ok"
    assert world.slept == [3.0]


@both
def test_the_callers_time_limit_ends_the_tries(world, colour):
    policy = world.call(timeout=0.5)
    service = Service(ConnectionRefusedError("a"), "never")
    with pytest.raises(ConnectionRefusedError):
        sync_and_async(policy, service)[colour]()
    assert service.script == ["never"]
    assert world.slept == []


@both
def test_no_endpoint_is_a_mesh_error(colour):
    world = World(endpoints=[])
    with pytest.raises(errors.NoHealthyEndpoint):
        sync_and_async(world.call(), Service())[colour]()


@both
def test_tenacity_strategies_are_accepted(world, colour):
    strategy = meshclient.RetryStrategy(
        wait=tenacity.wait_fixed(7), retry=tenacity.retry_if_exception_type(KeyError)
    )
    policy = world.call(strategy=strategy, failures=KeyError, idempotent=True)
    assert sync_and_async(policy, Service(KeyError("x")))[colour]() == "ok"
    assert world.slept == [7.0]


@both
def test_the_users_own_classification_comes_first(world, colour):
    policy = world.call(
        idempotent=True, classify=lambda result, error: False if result == "sold out" else None
    )
    assert sync_and_async(policy, Service("sold out", "bought"))[colour]() == "bought"


def test_a_per_try_timeout_cuts_an_async_function_short():
    retries = {**RETRIES, "attempts": 0, "per_try_timeout": "10ms"}
    document = {"version": 1, "services": {"payments": {**PAYMENTS, "retries": retries}}}
    with meshclient.Mesh.from_documents([document]) as mesh:
        ended = []

        @mesh.call("payments")
        async def slow():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        with pytest.raises(errors.CallTimeout):
            asyncio.run(slow())
        assert ended == [True]
        assert sum(mesh.dump()["clusters"]["payments"].values()) == 0


def test_cancelling_an_async_call_leaves_nothing_in_flight(world):
    async def run():
        reached = asyncio.Event()

        @world.call()
        async def stuck():
            reached.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(stuck())
        await reached.wait()
        assert world.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert world.in_flight == 0


def test_leaving_by_keyboard_interrupt_leaves_nothing_in_flight(world):
    with pytest.raises(KeyboardInterrupt):
        sync_and_async(world.call(), Service(KeyboardInterrupt()))["sync"]()
    assert world.in_flight == 0


def test_name_signature_docstring_and_binding_stay():
    class Shop:
        prefix = "order "

        @World().call()
        def buy(self, what: str, *, count: int = 1) -> str:
            """Buys."""
            return f"{self.prefix}{count} {what}"

    assert Shop().buy("tea", count=2) == "order 2 tea"
    assert (Shop.buy.__name__, Shop.buy.__doc__) == ("buy", "Buys.")
    assert list(inspect.signature(Shop.buy).parameters) == ["self", "what", "count"]


def test_an_endpoint_of_the_callers_own_is_left_alone(world):
    @world.call()
    def ask(endpoint=None):
        return endpoint

    assert ask(endpoint="mine") == "mine"


def test_one_call_may_have_other_options(world):
    service = Service(ConnectionRefusedError("a"))

    @world.call()
    def ask(endpoint=None):
        return service.take(endpoint)

    with pytest.raises(ConnectionRefusedError):
        world.call().override(timeout=0.5).run(ask)
    assert len(service.endpoints) == 1


def test_bare_functions_run_under_the_policy(world):
    async def work(x):
        return x + 1

    assert world.call().run(lambda x: x * 2, 21) == 42
    assert asyncio.run(world.call().arun(work, 1)) == 2


def test_a_class_is_refused_for_its_methods_are_what_calls(world):
    with pytest.raises(TypeError, match="decorate its methods"):

        @world.mesh.call("svc")
        class Client:
            pass


def test_generators_are_refused(world):
    with pytest.raises(TypeError, match="generator"):

        @world.call()
        def numbers():
            yield 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"timeouts": 1}, "unknown option timeouts"),
        ({"strategy": tenacity.stop_after_attempt(1)}, "RetryStrategy"),
    ],
)
def test_options_that_mean_nothing_are_refused(world, options, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        world.mesh.call("payments", **options)


def test_a_target_that_names_no_host_is_refused(world):
    with pytest.raises(ValueError, match="scheme and host"):
        world.mesh.call("http://")


CASES = [
    (ConnectionRefusedError(), ResetReason.CONNECTION_FAILURE, False),
    (socket.gaierror(), ResetReason.CONNECTION_FAILURE, False),
    (OSError(113, "no route"), ResetReason.CONNECTION_FAILURE, False),
    (httpx.ConnectError("x"), ResetReason.CONNECTION_FAILURE, False),
    (httpx.ConnectTimeout("x"), ResetReason.CONNECTION_TIMEOUT, False),
    (httpx.ReadTimeout("x"), ResetReason.PER_TRY_TIMEOUT, True),
    (TimeoutError(), ResetReason.PER_TRY_TIMEOUT, True),
    (ConnectionResetError(), ResetReason.CONNECTION_TERMINATION, True),
    (httpx.RemoteProtocolError("x"), ResetReason.CONNECTION_TERMINATION, True),
    (EOFError(), ResetReason.CONNECTION_TERMINATION, True),
]


@pytest.mark.parametrize(("error", "reason", "sent"), CASES, ids=lambda c: type(c).__name__)
def test_exceptions_are_recognised(error, reason, sent):
    from meshclient.clients.function_outcome import Classifier

    outcome = Classifier().of_error(error)
    assert (outcome.reset, outcome.sent, outcome.error) == (reason, sent, error)


@pytest.mark.parametrize("error", [ValueError(), KeyError(), OSError(2, "no file"), RuntimeError()])
def test_other_exceptions_say_nothing_about_the_service(error):
    from meshclient.clients.function_outcome import Classifier

    assert Classifier().of_error(error) is None


def test_a_status_error_carries_the_status_and_the_headers():
    from meshclient.clients.function_outcome import Classifier

    response = httpx.Response(503, headers={"retry-after": "1"})
    error = httpx.HTTPStatusError("x", request=httpx.Request("GET", "http://a"), response=response)
    outcome = Classifier().of_error(error)
    assert (outcome.status, outcome.headers.get("retry-after")) == (503, "1")


def test_what_the_users_own_classification_may_say():
    from meshclient.clients.function_outcome import Classifier

    def judge(verdict):
        return Classifier(classify=lambda result, error: verdict).of_result(None)

    assert judge(True).status == 200
    assert judge(False).reset is ResetReason.REMOTE_RESET
    assert judge(429).status == 429
    assert judge(None).status == 200
    own = Outcome(502)
    assert judge(own) is own


@both
def test_a_mesh_that_closes_while_the_call_is_held_ends_it(colour):
    world = World(fault={"delay": {"fixed_delay": "3s"}})
    policy, service = world.call(), Service("never")
    sleep = world._sleep

    def close_meanwhile(seconds):
        sleep(seconds)
        world.mesh.close()

    async def close_meanwhile_async(seconds):
        close_meanwhile(seconds)

    policy._sleep, policy._async_sleep = close_meanwhile, close_meanwhile_async
    with pytest.raises(errors.ClosedError):
        sync_and_async(policy, service)[colour]()
    assert service.script == ["never"]
    assert world.in_flight == 0
