"""The grpcio channels beneath a mesh channel: one per endpoint, authority and profile.

Made when the first call needs them (so after a fork), bounded, closed when idle for too
long or when the endpoint has left and its last call has ended. Which endpoint a call
goes to is not decided here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING, Any

from meshclient.clients.grpc_tls import PlainTls, is_plain
from meshclient.clients.http_common import _wire_target
from meshclient.transport.interface import Target
from meshclient.transport.tls import TlsIdentity
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_policy import TWICE, context_for, server_name
from meshclient.transport.tls_source import IdentityError

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.balancing import EndpointState
    from meshclient.call import Call
    from meshclient.clients.grpc_relay import Relay
    from meshclient.cluster_state import ClusterState
    from meshclient.model.cluster import TlsSettings

#: Sub-channels of one colour; beyond that, those longest idle are closed.
MAX_SUBCHANNELS = 2048
_MAX_TARGETS = 4096
#: A first pause after a failed connect, and the longest: other endpoints take the calls.
_FIRST_BACK_OFF_MS, _LONGEST_BACK_OFF_MS = 100, 1000
#: Forced: one owner of retries, of names and of connections.
_FORCED = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
)


class Refused(Exception):
    """No connection can be made as the policy says; the text says why."""


class Profile:
    """What a mesh channel gives to each of its sub-channels. Compared by identity of the
    credentials and by value of the rest."""

    __slots__ = ("_key", "compression", "credentials", "options")

    def __init__(self, options: Any, credentials: Any, compression: Any) -> None:
        self.options: tuple[tuple[str, Any], ...] = tuple(tuple(pair) for pair in options or ())
        self.credentials = credentials
        self.compression = compression
        forced = {name for name, _ in _FORCED}
        self.options = tuple(pair for pair in self.options if pair[0] not in forced)
        self._key: Hashable = (repr(self.options), id(credentials), compression)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self._key == other._key


class Sub:
    """One grpcio channel and the calls on it. ``active`` belongs to the pool's lock."""

    __slots__ = ("active", "channel", "created", "credentials", "retired", "target", "used_at")

    def __init__(self, channel: Any, target: Target, now: float, credentials: Any = None) -> None:
        self.channel = channel
        #: Of the policy's TLS settings, where grpcio itself speaks TLS.
        self.credentials = credentials
        self.target = target
        self.active = 0
        self.created = now
        self.used_at = now
        self.retired = False

    def __repr__(self) -> str:
        return f"<Sub active={self.active}{' retired' if self.retired else ''}>"


class SubPool:
    """The sub-channels of one colour (and, for asyncio, one loop). Thread-safe.

    ``make(address, options, credentials, compression)`` gives a new grpcio channel, ``end``
    closes one.
    """

    def __init__(
        self, make: Callable[..., Any], end: Callable[[Any], object], relay: Callable[[], Relay]
    ) -> None:
        self._make = make
        self._end = end
        self._relay = relay
        self._tls = PlainTls()
        self._lock = threading.Lock()
        self._subs: dict[Hashable, Sub] = {}
        self._retired: set[Sub] = set()
        self._targets: dict[tuple[EndpointState, str], Target] = {}
        self.closed = False

    def take(self, call: Call, attempt: Attempt, profile: Profile) -> Sub:
        """The sub-channel for a try, counted in. Raises what ``call.refuse`` gives."""
        try:
            return self.open(attempt.cluster_state, attempt.state, call.head.authority, profile)
        except Refused as refused:
            raise call.refuse(attempt, str(refused)) from refused

    def open(
        self, cluster: ClusterState, state: EndpointState, authority: str, profile: Profile
    ) -> Sub:
        """The sub-channel to an endpoint, counted in. Raises :class:`Refused`."""
        target = self._target_of(cluster, state, authority, profile)
        own = None if target.tls is None else self._credentials(cluster, target.tls)
        key = (target, authority, profile)
        now = time.monotonic()
        with self._lock:
            sub = self._subs.get(key)
            if sub is None or self._is_old(sub, now) or sub.credentials is not own:
                sub = self._replace_locked(key, now, own)
            sub.active += 1
            sub.used_at = now
        return sub

    def give_back(self, sub: Sub) -> None:
        """A try on it has ended."""
        with self._lock:
            sub.active -= 1
            over = sub.retired and sub.active == 0
            if over:
                self._retired.discard(sub)
        if over:
            self._end(sub.channel)

    # -- which, and how --------------------------------------------------------------

    def _target_of(
        self, cluster: ClusterState, state: EndpointState, authority: str, profile: Profile
    ) -> Target:
        tls = cluster.cluster.policy.tls
        if tls is not None and tls.mode == "disable":
            tls = None
        if tls is None:
            name = ""
        elif profile.credentials is not None:
            raise Refused(TWICE)
        else:
            name = server_name(cluster.cluster, tls, authority)
        known = self._targets.get((state, name))
        # Another object means another answer of the name's DNS.
        if known is not None and known.more_addresses is state.endpoint.more_addresses:
            return known
        target = _wire_target(cluster, state, _identity(tls, name), "h2")
        why = _unsupported(target)
        if why:
            raise Refused(why)
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        self._targets[state, name] = target
        cluster.shared["grpc"] = True  # there is traffic: health checks look more often
        return target

    @staticmethod
    def _is_old(sub: Sub, now: float) -> bool:
        longest_s = sub.target.options.max_duration_s
        return longest_s is not None and now - sub.created > longest_s

    def _credentials(self, cluster: ClusterState, identity: TlsIdentity) -> Any:
        """grpcio's own, where they honour the policy; None: the relay's business."""
        tls = cluster.cluster.policy.tls
        if tls is None or not is_plain(tls):
            return None
        assert isinstance(identity.context, RotatingContext)
        try:
            return self._tls.credentials(identity.context)
        except IdentityError as error:
            raise Refused(str(error)) from error

    def _replace_locked(self, key: Any, now: float, own: Any) -> Sub:
        if self.closed:
            raise Refused("the mesh is closed")
        target, authority, profile = key
        old = self._subs.pop(key, None)
        if old is not None:
            self._retire_locked(old)
        self._make_room_locked(now)
        relayed = target.tls is not None and own is None
        address = self._relay().address_of(target) if relayed else _address(target)
        options = _options(target, authority, profile)
        if own is not None and target.tls is not None:
            options.append(("grpc.ssl_target_name_override", target.tls.server_hostname))
        credentials = profile.credentials if own is None else own
        channel = self._make(address, options, credentials, profile.compression)
        sub = self._subs[key] = Sub(channel, target, now, own)
        return sub

    def _make_room_locked(self, now: float) -> None:
        """Close what has been idle for its time; where it is still too full, some more."""
        idle = [(sub.used_at, key) for key, sub in self._subs.items() if sub.active == 0]
        idle.sort(key=lambda entry: entry[0])
        excess = len(self._subs) - MAX_SUBCHANNELS + 1
        for used_at, key in idle:
            longest_s = self._subs[key].target.options.idle_timeout_s
            expired = longest_s is not None and now - used_at > longest_s
            if excess > 0 or expired:
                excess -= 1
                self._retire_locked(self._subs.pop(key))

    def _retire_locked(self, sub: Sub) -> None:
        sub.retired = True
        if sub.active == 0:
            self._end(sub.channel)
        else:
            self._retired.add(sub)

    # -- life --------------------------------------------------------------------------

    def targets(self) -> list[Target]:
        """Where the sub-channels in use lead."""
        with self._lock:
            return [sub.target for sub in self._subs.values()]

    def counts(self) -> dict[Target, tuple[int, int]]:
        """Sub-channels and calls in flight per target."""
        counts: dict[Target, tuple[int, int]] = {}
        with self._lock:
            for sub in [*self._subs.values(), *self._retired]:
                channels, calls = counts.get(sub.target, (0, 0))
                counts[sub.target] = (channels + 1, calls + sub.active)
        return counts

    def retain(self, targets: Collection[Target]) -> None:
        """Let go of the others; calls in flight on them finish."""
        kept = set(targets)
        with self._lock:
            for key, sub in list(self._subs.items()):
                if sub.target not in kept:
                    del self._subs[key]
                    self._retire_locked(sub)
            for known, target in list(self._targets.items()):
                if target not in kept:
                    del self._targets[known]

    def close(self) -> list[Any]:
        """No more sub-channels; those that there were, for the caller to close."""
        with self._lock:
            self.closed = True
            subs = [*self._subs.values(), *self._retired]
            self._subs.clear()
            self._retired.clear()
            for sub in subs:
                sub.retired = False  # closed by the caller, not once more by its last call
        return [sub.channel for sub in subs]


def _identity(tls: TlsSettings | None, name: str) -> TlsIdentity | None:
    if tls is None:
        return None
    context = context_for(tls, http2=True)
    problem = context.problem()
    if problem:
        raise Refused(problem)
    return TlsIdentity(name, context)


def _unsupported(target: Target) -> str:
    if target.proxy is not None:
        return "gRPC calls cannot go through the proxy that the policy names"
    if target.options.proxy_protocol:
        return "gRPC connections cannot begin with a PROXY protocol header"
    return ""


def _address(target: Target) -> str:
    """gRPC's own form of an address; nothing is resolved that has been already."""
    host = target.address
    if host.startswith("unix:"):
        return "unix:" + host.removeprefix("unix:").removeprefix("//")
    hosts = (host, *(more for more in target.more_addresses if (":" in more) == (":" in host)))
    if ":" in host:
        return "ipv6:" + ",".join(f"[{one}]:{target.port}" for one in dict.fromkeys(hosts))
    if host.replace(".", "").isdigit():
        return "ipv4:" + ",".join(f"{one}:{target.port}" for one in dict.fromkeys(hosts))
    return f"dns:///{host}:{target.port}"


def _options(target: Target, authority: str, profile: Profile) -> list[tuple[str, Any]]:
    """Channel arguments: the policy's, then the caller's own, then those that must be."""
    life = target.options
    options: list[tuple[str, Any]] = [
        ("grpc.default_authority", authority),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_BACK_OFF_MS),
        ("grpc.min_reconnect_backoff_ms", max(1, round(life.connect_timeout_s * 1000))),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_BACK_OFF_MS),
    ]
    if life.idle_timeout_s is not None:
        options.append(("grpc.client_idle_timeout_ms", max(1000, round(life.idle_timeout_s * 1e3))))
    if life.ping_interval_s is not None:
        options += [
            ("grpc.keepalive_time_ms", max(1, round(life.ping_interval_s * 1000))),
            ("grpc.keepalive_timeout_ms", max(1, round(life.ping_timeout_s * 1000))),
        ]
    own = {name for name, _ in profile.options}
    return [
        *(pair for pair in options if pair[0] not in own),
        *profile.options,
        *_FORCED,
    ]


__all__ = ["MAX_SUBCHANNELS", "Profile", "Refused", "Sub", "SubPool"]
