"""Where the keys and certificates of a client come from: the seam, and files.

A source says cheaply whether anything changed, and loads on demand. No
handshake, no cache, no decision which connection gets what.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Hashable
from typing import Protocol

#: More than this is no certificate file; reading is bounded by it.
MAX_FILE_BYTES = 8 << 20
#: A file written this recently may still change without its time stamp showing it.
_RACY_NS = 100_000_000
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)

#: Environment variable with the folder of the workload's own certificates.
ISTIO_CERTS_VARIABLE = "MESHCLIENT_ISTIO_CERTS"
_PLAIN_NAMES = ("cert-chain.pem", "key.pem", "root-cert.pem")
#: Folders in which Istio and its integrations mount workload certificates, with
#: their names for chain, key and roots.
_ISTIO_FOLDERS = (
    ("/etc/certs", _PLAIN_NAMES),
    ("/etc/istio-output-certs", _PLAIN_NAMES),
    (
        "/var/run/secrets/workload-spiffe-credentials",
        ("certificates.pem", "private_key.pem", "ca_certificates.pem"),
    ),
)


class IdentityError(Exception):
    """Keys or certificates that cannot be used; the text names file and reason."""


class Material:
    """What a context is built of. Empty ``roots`` stands for the system's;
    ``certificate``, ``key`` and ``crl`` are files, and empty where there is none."""

    __slots__ = ("certificate", "crl", "key", "leaf", "roots")

    def __init__(
        self, roots: str = "", certificate: str = "", key: str = "", crl: str = "", leaf: str = ""
    ) -> None:
        self.roots = roots
        self.certificate = certificate
        self.key = key
        self.crl = crl
        #: PEM of the client certificate, for its validity.
        self.leaf = leaf

    def __repr__(self) -> str:
        return f"<Material certificate={self.certificate!r} roots={bool(self.roots)}>"


class IdentitySource(Protocol):
    """Supplier of material that may change at any time. Thread-safe."""

    def signature(self) -> Hashable:
        """A value that differs when the material does; costs microseconds. None
        means "look again": what is there may be half-written."""

    def load(self) -> Material:
        """The material now. Raises :class:`IdentityError`."""

    def describe(self) -> dict[str, str]:
        """What it reads, for reports."""


class FileSource:
    """CA, client certificate, key and revocation list from files, each optional.

    Empty ``ca`` stands for the system's roots.
    """

    __slots__ = ("ca", "certificate", "crl", "key")

    def __init__(self, ca: str = "", certificate: str = "", key: str = "", crl: str = "") -> None:
        self.ca, self.certificate, self.key, self.crl = ca, certificate, key, crl

    def signature(self) -> Hashable:
        paths = [path for path in (self.ca, self.certificate, self.key, self.crl) if path]
        return _signature(paths)

    def load(self) -> Material:
        if self.certificate:
            _read("key", self.key)
        return Material(
            roots=_blocks("ca", self.ca, "CERTIFICATE"),
            certificate=self.certificate,
            key=self.key,
            crl=self._checked_crl(),
            leaf=_blocks("certificate", self.certificate, "CERTIFICATE"),
        )

    def _checked_crl(self) -> str:
        """OpenSSL takes lists from files only, and would trust a certificate beside them."""
        _blocks("crl", self.crl, "X509 CRL")
        if self.crl and "CERTIFICATE-----" in _read("crl", self.crl):
            raise IdentityError(f"crl {self.crl}: holds a certificate, too; keep them apart")
        return self.crl

    def describe(self) -> dict[str, str]:
        named = {"ca": self.ca or "system roots", "certificate": self.certificate}
        named |= {"key": self.key, "crl": self.crl}
        return {name: path for name, path in named.items() if path}


class IstioFiles:
    """The workload's own certificates, where Istio mounts them.

    The folder is ``folder`` (default: the one ``MESHCLIENT_ISTIO_CERTS`` names),
    else the first of the usual ones that has a certificate; looked for anew each time.
    """

    __slots__ = ("_folder",)

    def __init__(self, folder: str = "") -> None:
        self._folder = folder

    def signature(self) -> Hashable:
        return self._files().signature()

    def load(self) -> Material:
        files = self._files()
        try:
            return files.load()
        except IdentityError as error:
            hint = f"; set workload_certificates or {ISTIO_CERTS_VARIABLE} to their folder"
            where = "" if self._chosen() else hint
            raise IdentityError(f"workload certificates: {error}{where}") from error

    def describe(self) -> dict[str, str]:
        return self._files().describe()

    def _chosen(self) -> str:
        return self._folder or os.environ.get(ISTIO_CERTS_VARIABLE, "")

    def _files(self) -> FileSource:
        chosen = self._chosen()
        if chosen:
            names = next(
                (n for _, n in _ISTIO_FOLDERS if os.path.exists(os.path.join(chosen, n[0]))),
                _PLAIN_NAMES,
            )
            return _in_folder(chosen, names)
        for folder, names in _ISTIO_FOLDERS:
            if os.path.exists(os.path.join(folder, names[0])):
                return _in_folder(folder, names)
        return _in_folder(*_ISTIO_FOLDERS[0])


def _in_folder(folder: str, names: tuple[str, str, str]) -> FileSource:
    certificate, key, roots = (os.path.join(folder, name) for name in names)
    return FileSource(roots, certificate, key)


def _signature(
    paths: list[str], now_ns: Callable[[], int] = time.time_ns
) -> tuple[object, ...] | None:
    """Time, size and inode behind every link: swapped ``..data`` folders show, too."""
    found: list[object] = []
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            found.append((path, str(error)))
            continue
        if abs(now_ns() - status.st_mtime_ns) < _RACY_NS:
            return None
        found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _blocks(what: str, path: str, kind: str) -> str:
    """The PEM blocks of one kind, without the comments that OpenSSL may not like."""
    if not path:
        return ""
    text = _read(what, path)
    wanted = (kind, f"TRUSTED {kind}")
    blocks = [found[0] for found in _PEM.finditer(text) if found[1] in wanted]
    if not blocks:
        raise IdentityError(f"{what} {path}: holds no PEM block {kind}")
    return "\n".join(blocks) + "\n"


def _read(what: str, path: str) -> str:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"{what} {path}: is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise IdentityError(f"{what} {path}: is larger than {MAX_FILE_BYTES} bytes")
        with open(path, encoding="latin-1") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise IdentityError(f"{what} {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise IdentityError(f"{what} {path!r}: {error}") from error
