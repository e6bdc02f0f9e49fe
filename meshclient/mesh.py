"""``Mesh``: the one object a user holds.

Ties the control side (files, discovery, snapshots) to the drivers. Nothing is
decided here, and nothing heavy is imported before it is used.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from meshclient import errors
from meshclient.clients.factory import EngineName, Engines, make_client, make_transport
from meshclient.clients.runtime import Runtime
from meshclient.cluster_state import Building, ClusterState
from meshclient.control import Controller, after_fork
from meshclient.health_checks import HealthChecks
from meshclient.model.request import head_of
from meshclient.model.snapshot import MeshConfig, Node, OutboundMode, Snapshot
from meshclient.model.source import Diagnostic
from meshclient.plane import PASSTHROUGH, Plane, build_plane, forked_plane
from meshclient.shared_breakers import SharedBreakers
from meshclient.upkeep import Upkeep

if TYPE_CHECKING:
    import grpc
    import grpc.aio
    import httpx
    import pybreaker

    from meshclient.balancing import EndpointState
    from meshclient.breaker_handle import BreakerHandle
    from meshclient.clients.decorator import CallPolicy
    from meshclient.clients.fallbacks import FallbackFunction
    from meshclient.explain import Explanation
    from meshclient.model.events import Event
    from meshclient.resilience import RetryStrategy

LocalReplies = Literal["raise", "respond"]

#: Where ``from_env`` looks for policy files (separated as in ``PATH``).
CONFIG_VARIABLE = "MESHCLIENT_CONFIG"
_XDS_VARIABLES = ("GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG")


def _random64() -> int:
    return _draw(64)


# Not a secret: load balancing and jitter.
_generator = random.Random()  # noqa: S311
_draw = _generator.getrandbits
# A child must not repeat its parent's choices.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_generator.seed)


class Mesh:
    """Discovery, load balancing, retries and routing for the clients of one process.

    Make one per process with :meth:`from_file`, :meth:`from_documents` or
    :meth:`from_env`; it is safe to share between threads and event loops, and
    it survives a fork. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        load: Callable[[], MeshConfig],
        *,
        watch: Iterable[str | os.PathLike[str]] = (),
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
        fallbacks: Mapping[str, FallbackFunction] | None = None,
        breakers: Mapping[str, pybreaker.CircuitBreaker] | None = None,
        engine: EngineName = "meshclient",
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], int] = _random64,
    ) -> None:
        """Prefer the class methods. ``load`` is called now, and again when a
        path of ``watch`` changes; it raises :class:`~meshclient.errors.ConfigError`.

        ``engine`` is what carries the calls: ``"meshclient"`` (default), or, for
        comparison, ``"httpcore"`` or ``"httpx"``. ``clock`` (monotonic seconds) and
        ``rand`` (unsigned 64-bit numbers) are for tests.
        """
        if local_replies not in ("raise", "respond"):
            raise ValueError(f'local_replies is "raise" or "respond", not {local_replies!r}')
        strategies = _checked(retry_strategies)
        self._circuits = _checked_circuits(breakers)
        self._engines = Engines(engine)
        self._plane: Plane  # the last one built; set by the controller through _build
        self._clock = clock
        self._upkeep = Upkeep(lambda: self._plane, clock, self._emit)
        self._checks = HealthChecks(
            lambda: self._plane,
            clock,
            _random64,
            self._emit,
            on_failed=self._let_go,
            on_warm=lambda: self._controller.check_ready(),
        )
        self._shared_breakers = SharedBreakers(lambda: self._plane, clock, time.time, self._emit)
        self._controller: Controller[Plane] = Controller(
            load,
            self._build,
            watch=tuple(os.fspath(path) for path in watch) or None,
            background=(self._upkeep, self._checks, self._shared_breakers),
            begin=False,
        )
        self._publisher = self._controller.publisher
        self._runtime = Runtime(
            self._publisher,
            clock,
            rand,
            respond=local_replies == "respond",
            strategies=strategies,
        )
        self._runtime.functions = _functions(fallbacks)
        self._runtime.emit = self._emit
        self._runtime.engines = self._engines
        after_fork.register(self)
        self._controller.begin()

    # -- construction --------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        *paths: str | os.PathLike[str],
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        locality: str | None = None,
        workload_certificates: str | os.PathLike[str] | None = None,
        outbound: OutboundMode | None = None,
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
        fallbacks: Mapping[str, FallbackFunction] | None = None,
        breakers: Mapping[str, pybreaker.CircuitBreaker] | None = None,
        engine: EngineName = "meshclient",
        watch: bool = True,
    ) -> Self:
        """A mesh from policy files and directories, reloaded when they change.

        ``namespace``, ``labels`` and ``locality`` (``region/zone/sub_zone``) say
        who is calling; each that is given takes the place of what the files' own
        ``node`` says of it; so does ``workload_certificates``, the folder with the
        certificates for ISTIO_MUTUAL. ``outbound`` overrides what the files say.
        ``local_replies``: ``"raise"`` (default) or ``"respond"``.
        ``retry_strategies``: by the name of the virtual host. ``breakers``: pybreaker
        objects of your own, by the name of the service (or cluster). ``engine``:
        ``"meshclient"`` (default), ``"httpcore"`` or ``"httpx"``. ``watch=False``
        reads once. ``fallbacks``, by the name of the virtual host: functions of a request and
        its failure (an exception or a response) that give a response in its place, or None.

        Raises :class:`~meshclient.errors.ConfigError` with every error of every
        file, ValueError for arguments that mean nothing.
        """
        from meshclient.config import load_paths
        from meshclient.config.caller import as_caller

        if not paths:
            raise ValueError("from_file needs at least one file or directory")
        texts = [os.fspath(path) for path in paths]

        def load(node: Node | None = None) -> MeshConfig:
            return load_paths(texts, namespace=namespace, node=node, outbound=outbound)

        return cls(
            as_caller(load, labels, locality, workload_certificates),
            watch=texts if watch else (),
            local_replies=local_replies,
            retry_strategies=retry_strategies,
            fallbacks=fallbacks,
            breakers=breakers,
            engine=engine,
        )

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Mapping[str, Any]],
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        locality: str | None = None,
        workload_certificates: str | os.PathLike[str] | None = None,
        outbound: OutboundMode | None = None,
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
        fallbacks: Mapping[str, FallbackFunction] | None = None,
        breakers: Mapping[str, pybreaker.CircuitBreaker] | None = None,
        engine: EngineName = "meshclient",
    ) -> Self:
        """A mesh from parsed documents, for tests and notebooks. See :meth:`from_file`."""
        from meshclient.config import load_documents
        from meshclient.config.caller import as_caller

        given = documents if isinstance(documents, Mapping) else list(documents)

        def load(node: Node | None = None) -> MeshConfig:
            return load_documents(given, namespace=namespace, node=node, outbound=outbound)

        config = as_caller(load, labels, locality, workload_certificates)()
        return cls.from_config(
            config,
            local_replies=local_replies,
            retry_strategies=retry_strategies,
            fallbacks=fallbacks,
            breakers=breakers,
            engine=engine,
        )

    @classmethod
    def from_config(
        cls,
        config: MeshConfig,
        *,
        local_replies: LocalReplies = "raise",
        retry_strategies: Mapping[str, RetryStrategy] | None = None,
        fallbacks: Mapping[str, FallbackFunction] | None = None,
        breakers: Mapping[str, pybreaker.CircuitBreaker] | None = None,
        engine: EngineName = "meshclient",
    ) -> Self:
        """A mesh from model values; for programs that make their own policy."""
        return cls(
            lambda: config,
            local_replies=local_replies,
            retry_strategies=retry_strategies,
            fallbacks=fallbacks,
            breakers=breakers,
            engine=engine,
        )

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A mesh from the paths in ``MESHCLIENT_CONFIG`` (separated like ``PATH``).

        ``options`` are those of :meth:`from_file`. Raises
        :class:`~meshclient.errors.ConfigError` where the variable is not set.
        """
        value = os.environ.get(CONFIG_VARIABLE, "")
        paths = [path for path in value.split(os.pathsep) if path]
        if paths:
            return cls.from_file(*paths, **options)
        raise errors.ConfigError([_no_environment()])

    # -- life ----------------------------------------------------------------

    def wait_ready(self, timeout: float = 5.0) -> None:
        """Block until every source of endpoints has answered once.

        Calls need not wait for it. Raises :class:`~meshclient.errors.NotReadyError`
        after ``timeout`` seconds.
        """
        if not self._publisher.wait(timeout):
            raise errors.NotReadyError(self._pending(timeout))

    async def async_wait_ready(self, timeout: float = 5.0) -> None:
        """:meth:`wait_ready` for asyncio."""
        if not await self._publisher.async_wait(timeout):
            raise errors.NotReadyError(self._pending(timeout))

    def _pending(self, timeout: float) -> str:
        waiting = sorted(
            f"{cluster.name} ({cluster.discovery_error})"
            for cluster in self.snapshot.clusters.values()
            if cluster.discovery_error
        )
        return f"no first answer within {timeout:g} s: {', '.join(waiting) or 'the control thread'}"

    def close(self) -> None:
        """Stop the control thread and close every connection. Idempotent.

        Calls in flight on other threads end with an error; new ones raise
        :class:`~meshclient.errors.ClosedError`.
        """
        self._runtime.stop()
        self._controller.close()
        self._engines.close()
        self._plane.breakers.leave()

    async def aclose(self) -> None:
        """:meth:`close` for asyncio; the event loop is not blocked by the joining."""
        self._runtime.stop()
        await self._engines.aclose()
        await self._controller.aclose()
        self._plane.breakers.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # -- clients -------------------------------------------------------------

    def client(self, *, family: str = "httpx", **options: Any) -> httpx.Client:
        """An ``httpx.Client`` whose calls follow the policy.

        ``options`` are httpx's own. ``verify``, ``cert`` and ``trust_env`` hold for the
        ``https`` connections that are made, ``http2=True`` offers HTTP/2 on them.
        ``proxy`` takes every call of the client through a proxy; with ``trust_env``,
        the environment's proxies serve hosts that no policy knows.
        ``family="httpx2"`` makes a client of that library.

        Raises TypeError for a ``transport``, ValueError for ``limits``, a ``proxy``
        that is none and an unknown ``family``,
        :class:`~meshclient.errors.ClosedError` once the mesh is closed.
        """
        return make_client(self._runtime, self._engines, "sync", family, options)  # type: ignore[no-any-return]

    def async_client(self, *, family: str = "httpx", **options: Any) -> httpx.AsyncClient:
        """:meth:`client` for asyncio."""
        return make_client(self._runtime, self._engines, "async", family, options)  # type: ignore[no-any-return]

    def transport(
        self,
        *,
        verify: Any = True,
        cert: Any = None,
        trust_env: bool = True,
        http2: bool = False,
        proxy: Any = None,
    ) -> httpx.BaseTransport:
        """A transport for an ``httpx.Client`` (or ``httpx2.Client``) of your own."""
        return self._transport("sync", verify, cert, trust_env, http2, proxy)  # type: ignore[no-any-return]

    def async_transport(
        self,
        *,
        verify: Any = True,
        cert: Any = None,
        trust_env: bool = True,
        http2: bool = False,
        proxy: Any = None,
    ) -> httpx.AsyncBaseTransport:
        """A transport for an ``httpx.AsyncClient`` (or ``httpx2.AsyncClient``) of your own."""
        return self._transport("async", verify, cert, trust_env, http2, proxy)  # type: ignore[no-any-return]

    def _transport(
        self, colour: str, verify: Any, cert: Any, trust_env: bool, http2: bool, proxy: Any
    ) -> Any:
        return make_transport(
            self._runtime,
            self._engines,
            colour,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http2=http2,
            proxy=proxy,
        )

    def grpc_channel(
        self, target: str, options: Any = None, credentials: Any = None, compression: Any = None
    ) -> grpc.Channel:
        """A ``grpc.Channel`` whose every call follows the policy of ``target``.

        ``target`` is the service as for :meth:`client`: ``"orders:50051"`` (without a port:
        80); which endpoint a call goes to is decided call by call. ``options`` are gRPC's channel
        arguments; retries, load balancing and name resolution are the mesh's. ``credentials``
        (``grpc.ChannelCredentials``) are for hosts whose policy has no ``tls:``; ``compression`` as
        in gRPC. Failures without a server's status are ``grpc.RpcError`` and
        :class:`~meshclient.errors.MeshError` at once. Thread-safe.

        Raises ValueError for a target that names no single host,
        :class:`~meshclient.errors.ClosedError` once the mesh is closed.
        """
        from meshclient.clients.grpc_factory import grpc_channel

        return grpc_channel(  # type: ignore[no-any-return]
            self._runtime, self._engines, target, options, credentials, compression
        )

    def grpc_aio_channel(
        self,
        target: str,
        options: Any = None,
        credentials: Any = None,
        compression: Any = None,
        interceptors: Any = None,
    ) -> grpc.aio.Channel:
        """:meth:`grpc_channel` for asyncio. ``interceptors`` are those of ``grpc.aio``."""
        from meshclient.clients.grpc_factory import grpc_aio_channel

        return grpc_aio_channel(  # type: ignore[no-any-return]
            self._runtime, self._engines, target, options, credentials, compression, interceptors
        )

    def warm_up(self, host: str, *, connections: int | None = None, timeout: float = 5.0) -> bool:
        """Open connections to the endpoints of ``host`` now, for the blocking clients.

        ``host`` is ``name`` or ``name:port``, as in ``http://name:port/``. Every endpoint
        that may get traffic is to have ``connections`` of them, TLS handshake included
        (default: ``connection: {warm_up: ...}`` of the policy, at least 1; 1 to 64). Blocks
        for ``timeout`` seconds at most. True when all have as many; failures raise
        nothing. Endpoints are those known now: call :meth:`wait_ready` first.

        Raises ValueError for a host that no policy knows and for bad numbers, RuntimeError
        under another ``engine``, :class:`~meshclient.errors.ClosedError` once the mesh is closed.
        """
        from meshclient.clients.warming import warm_up

        return warm_up(self._runtime, self._engines, host, connections, timeout)

    async def async_warm_up(
        self, host: str, *, connections: int | None = None, timeout: float = 5.0
    ) -> bool:
        """:meth:`warm_up` for the running asyncio loop, whose connections are its own."""
        from meshclient.clients.warming import async_warm_up

        return await async_warm_up(self._runtime, self._engines, host, connections, timeout)

    def call(self, target: str, **options: Any) -> CallPolicy:
        """The policy of a service for functions that call it by any means: a decorator.

        ``target`` is what a client would dial: ``payments``, ``payments:8080``,
        ``http://payments/charge``. ``options`` are those of
        :class:`~meshclient.clients.decorator.CallOptions`. A parameter named ``endpoint``
        of the decorated function receives the pick of each try.

        Raises TypeError or ValueError for options that mean nothing.
        """
        from meshclient.clients.decorator import call_policy

        return call_policy(self._runtime, target, options)

    # -- look inside ---------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """What new calls decide on. Immutable; keep it as long as you like."""
        return self._publisher.current()

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Have ``callback`` told of reloads, rejections and endpoint changes.

        Events come in order, on a thread of the mesh. Returns a function that
        ends the subscription.
        """
        return self._controller.subscribe(callback)

    def breaker(self, name: str) -> BreakerHandle:
        """The circuit breakers of a service (or cluster), to look at and to work by hand.

        Raises ValueError for a name that has none.
        """
        from meshclient.breaker_handle import BreakerHandle

        handle = BreakerHandle(
            name, lambda: self._publisher.plane.breakers, self._runtime.clock, self.subscribe
        )
        if not self._publisher.plane.breakers.of(name):
            known = sorted({one.scope.service for one in self._publisher.plane.breakers.all()})
            raise ValueError(
                f"{name!r} has no circuit breaker; there are those of: {', '.join(known) or 'none'}"
            )
        return handle

    def explain(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> Explanation:
        """What the policy would make of a request. Sends nothing.

        Raises ValueError for a URL without scheme or host.
        """
        from meshclient.explain import explain

        return explain(
            self._publisher.plane, head_of(method, url, headers), now=self._runtime.clock()
        )

    def dump(self) -> dict[str, Any]:
        """What goes on at this moment, as plain values.

        ``version`` of the snapshot; ``clusters`` with the requests in flight per endpoint;
        ``endpoints`` with health, weights, loads, latency and ejections of each;
        ``load_balancing`` with Envoy's counters, such as ``lb_healthy_panic``, per cluster that
        has any; ``health``
        with Envoy's counters of outlier detection and active checks per cluster;
        ``mirrors`` with the copies under way and counted, per mirror's cluster;
        ``circuit_breakers`` with what the limits of each cluster and priority have in use, and
        Envoy's gauges; ``breakers`` with state and counts of each; ``filters`` (faults, rate
        limits, ...) with their statistics; ``pools`` of the engines.
        The hosts that no policy knows are under ``PassthroughCluster``.
        """
        from meshclient.endpoint_view import endpoint_rows
        from meshclient.limits_view import limit_rows

        plane, now = self._publisher.plane, self._runtime.clock()
        states = {**plane.clusters, PASSTHROUGH: plane.passthrough}
        clusters = {
            name: {str(s.endpoint): s.active for s in state.live_states()}
            for name, state in states.items()
        }
        detectors = {name: s.detector for name, s in states.items() if s.detector is not None}
        return {
            "version": plane.snapshot.version,
            "clusters": clusters,
            "endpoints": {name: endpoint_rows(s, now) for name, s in plane.clusters.items()},
            "load_balancing": {
                name: stats for name, s in plane.clusters.items() if (stats := s.balancer.stats)
            },
            "health": {
                "outlier_detection": {name: d.stats for name, d in detectors.items()},
                "health_check": self._checks.stats(),
            },
            "mirrors": self._runtime.describe(),
            "circuit_breakers": limit_rows(plane.clusters),
            "breakers": [one.describe(now) for one in plane.breakers.all()],
            "filters": plane.filters.describe(),
            "pools": self._engines.stats(),
        }

    def __repr__(self) -> str:
        state = "closed" if self._runtime.closed else "open"
        return f"<Mesh {state} {self.snapshot!r}>"

    # -- plumbing ------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        self._controller.emit(event)

    def _build(self, snapshot: Snapshot, previous: Plane | None) -> Plane:
        secured = [c for c in snapshot.clusters.values() if c.policy.tls is not None]
        if secured:
            from meshclient.transport.tls_policy import prepare

            prepare(secured)
        plane = self._plane = build_plane(
            snapshot, previous, _random64, time.time, building=self._building(snapshot)
        )
        if plane.hashes_source:
            from meshclient.transport.own_address import own_address

            plane.source_ip = own_address()
        if previous is not None:
            # Endpoints that left are drained, and those whose connections are now made
            # otherwise; everything else, the hosts without policy included, stays.
            self._follow(previous, plane)
        return plane

    def _building(self, snapshot: Snapshot) -> Building:
        locality = snapshot.node.locality
        fail = self._checks.on_passive_failure
        return Building(
            _random64,
            self._clock(),
            locality,
            self._upkeep.urge,
            fail,
            self._emit,
            self._circuits,
        )

    def _let_go(self, cluster: ClusterState, state: EndpointState) -> None:
        """An endpoint failed its checks: its idle connections are not worth keeping."""
        if self._engines.values():
            from meshclient.clients.places import places_of_endpoints

            self._engines.drain(places_of_endpoints(cluster, [state]), ())

    def _follow(self, previous: Plane, plane: Plane) -> None:
        from meshclient.clients.warming import tell_of_newcomers

        engines = self._engines.values()
        if engines:
            from meshclient.clients.places import places_of

            self._engines.drain(places_of(previous), places_of(plane))
        tell_of_newcomers(engines, previous, plane)

    def after_fork_in_child(self) -> None:
        """The parent's locks, connections and in-flight counts are not ours."""
        self._engines.after_fork_in_child()
        self._runtime.forget()
        self._upkeep.after_fork_in_child()
        self._checks.after_fork_in_child()
        self._shared_breakers.after_fork_in_child()
        self._plane.breakers.leave()
        building = self._building(self._plane.snapshot)
        self._plane = forked_plane(self._plane, _random64, building=building)
        self._publisher.replace_in_child(self._plane)


def _checked(strategies: Mapping[str, RetryStrategy] | None) -> dict[str, RetryStrategy]:
    """A typing error here would show at the first failure of a call only."""
    from meshclient.resilience import RetryStrategy

    for name, strategy in (strategies or {}).items():
        if not isinstance(name, str) or not isinstance(strategy, RetryStrategy):
            raise TypeError(
                "retry_strategies maps names of virtual hosts to RetryStrategy objects, "
                f"not {name!r} to {strategy!r}"
            )
    return dict(strategies or {})


def _functions(
    fallbacks: Mapping[str, FallbackFunction] | None,
) -> dict[str, FallbackFunction] | None:
    """None where there are none: a call then pays for nothing."""
    for name, function in (fallbacks or {}).items():
        if not isinstance(name, str) or not callable(function):
            raise TypeError(
                f"fallbacks maps names of virtual hosts to functions, not {name!r} to {function!r}"
            )
    return dict(fallbacks) if fallbacks else None


def _checked_circuits(
    breakers: Mapping[str, pybreaker.CircuitBreaker] | None,
) -> dict[str, pybreaker.CircuitBreaker]:
    """One object for one name: two services must not count each other's failures."""
    if not breakers:
        return {}
    import pybreaker

    for name, circuit in breakers.items():
        if not isinstance(name, str) or not isinstance(circuit, pybreaker.CircuitBreaker):
            raise TypeError(
                "breakers maps names of services or clusters to pybreaker.CircuitBreaker "
                f"objects, not {name!r} to {circuit!r}"
            )
    if len({id(circuit) for circuit in breakers.values()}) < len(breakers):
        raise ValueError("breakers: one object stands for two names; give each its own")
    return dict(breakers)


def _no_environment() -> Diagnostic:
    if any(os.environ.get(name) for name in _XDS_VARIABLES):
        message = "an xDS bootstrap is set, but this version reads policy files only"
    else:
        message = f"{CONFIG_VARIABLE} is not set"
    return Diagnostic(
        "error",
        "no-configuration",
        message,
        suggestion=f"set {CONFIG_VARIABLE} to the policy files or directories",
    )


__all__ = ["CONFIG_VARIABLE", "Mesh"]
