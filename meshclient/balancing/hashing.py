"""What the consistent-hash policies share: hash functions, keys of endpoints, shares.

Arithmetic only; tables and picks stand in :mod:`meshclient.balancing.ring_hash` and
:mod:`meshclient.balancing.maglev`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from zlib import adler32

from xxhash import xxh64_intdigest

from meshclient.balancing.state import EndpointState
from meshclient.model.endpoint import Endpoint

HashFunction = Callable[[bytes], int]

#: The label of an endpoint that is hashed in place of its address.
#: Source: Envoy, metadata ``envoy.lb`` ``hash_key``.
HASH_KEY_LABEL = "hash_key"

_MASK = 2**64 - 1
_MULTIPLIER = 0xC6A4A7935BD1E995
_STD_HASH_SEED = 0xC70F6907
# zlib computes a checksum of more than 5 KiB without the interpreter's lock.
# This many take ten microseconds: time enough for another thread to wake up.
_PAGE = bytes(32_768)


def xx_hash(data: bytes) -> int:
    """XXH64, seed 0."""
    return xxh64_intdigest(data)


def murmur_hash_2(data: bytes) -> int:
    """MurmurHash2, 64 bits, as libstdc++'s ``std::hash`` of a string.

    Source: Envoy ``source/common/common/hash.cc`` ``MurmurHash::murmurHash2``.
    """
    size = len(data)
    whole = size & ~7
    value = _STD_HASH_SEED ^ (size * _MULTIPLIER & _MASK)
    for at in range(0, whole, 8):
        chunk = int.from_bytes(data[at : at + 8], "little") * _MULTIPLIER & _MASK
        chunk = (chunk ^ chunk >> 47) * _MULTIPLIER & _MASK
        value = (value ^ chunk) * _MULTIPLIER & _MASK
    if whole < size:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK
    value = (value ^ value >> 47) * _MULTIPLIER & _MASK
    return value ^ value >> 47


HASH_FUNCTIONS: dict[str, HashFunction] = {"xx_hash": xx_hash, "murmur_hash_2": murmur_hash_2}


def hash_key(endpoint: Endpoint, use_hostname: bool = False) -> bytes:
    """What stands for the endpoint in ring or table: its label ``hash_key``, else its host
    name if that is wanted and known, else its address as Envoy prints it.

    Source: Envoy ``thread_aware_lb_impl.h`` ``hashKey``. There, an endpoint without a host
    name has an empty key; all of those would share one place.
    """
    for name, value in endpoint.labels:
        if name == HASH_KEY_LABEL and value:
            return value.encode()
    if use_hostname and endpoint.hostname:
        return _wire(endpoint.hostname)
    return _wire(_address(endpoint))


def _address(endpoint: Endpoint) -> str:
    """``ip:port``, ``[ip]:port`` in the canonical form of RFC 5952, or the path of a socket."""
    address = endpoint.address
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return path.removeprefix("//")
    if ":" not in address:
        return f"{address}:{endpoint.port}"
    try:
        return f"[{IPv6Address(address)}]:{endpoint.port}"
    except ValueError:
        return str(endpoint)


def _wire(text: str) -> bytes:
    """Text of the decision core is one character per byte of the wire."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def shares_by_weight(states: Sequence[EndpointState]) -> tuple[float, ...]:
    """Each endpoint's share of the whole by its weight.

    Source: Envoy ``thread_aware_lb_impl.cc`` ``normalizeHostWeights``.
    """
    total = sum(state.weight for state in states)
    return tuple(state.weight * 1.0 / total for state in states)


def give_way() -> None:
    """Let threads that wait for the interpreter run; about ten microseconds.

    A table of many thousand places takes tens of milliseconds to build. Left alone, the
    interpreter would hand over only every 5 ms, and every call in flight would feel that.
    """
    adler32(_PAGE)


__all__ = [
    "HASH_FUNCTIONS",
    "HASH_KEY_LABEL",
    "HashFunction",
    "give_way",
    "hash_key",
    "murmur_hash_2",
    "shares_by_weight",
    "xx_hash",
]
