"""What a caller dials for gRPC: ``orders:50051``, in the forms gRPC's own targets have.

Text only; nothing is resolved here.
"""

from __future__ import annotations

from meshclient.model.request import host_of

_SCHEMES = ("dns", "ipv4", "ipv6", "passthrough", "xds")
_DEFAULT_PORT = {"http": 80, "https": 443}


class Dialled:
    """A target, read. ``host`` without port, ``authority`` as the wire has it."""

    __slots__ = ("authority", "host", "port", "scheme", "target")

    def __init__(self, target: str, secure: bool = False) -> None:
        """``secure``: the caller brought channel credentials of its own.

        Raises ValueError for a target that names no host.
        """
        if not isinstance(target, str) or not target:
            raise ValueError(f'a target such as "orders:50051" is needed, not {target!r}')
        self.target = target
        self.scheme = "https" if secure else "http"
        authority = _without_scheme(target)
        if not authority or "/" in authority or "," in authority:
            raise ValueError(
                f'{target!r}: a target names one host, such as "orders:50051" or '
                '"dns:///orders:50051"; its endpoints are the policy\'s business'
            )
        self.authority = authority
        self.host = host_of(authority)
        port = authority[len(self.host) :].rpartition(":")[2].strip("]")
        if port and not (port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{target!r}: {port!r} is no port")
        self.port = int(port) if port else _DEFAULT_PORT[self.scheme]

    def __repr__(self) -> str:
        return f"<Dialled {self.authority}>"


def _without_scheme(target: str) -> str:
    scheme, colon, rest = target.partition(":")
    if not colon or scheme not in _SCHEMES:
        return target
    if rest.startswith("//"):
        return rest[2:].partition("/")[2]
    if scheme in ("dns", "xds") and rest.isdigit():
        return target  # a host that is called like a scheme
    return rest.lstrip("/")


__all__ = ["Dialled"]
