"""Certificates of every kind that the TLS tests need, made with the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def openssl(*words: str) -> None:
    """Run it; its complaints are in the exception."""
    done = subprocess.run(["openssl", *words], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"openssl {' '.join(words)}: {done.stderr}")


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.ca = str(self.folder / "ca.pem")
        self._key = str(self.folder / "ca.key")
        openssl(
            "req", "-x509", "-nodes", *_EC, "-days", "30", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:true",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", self._key, "-out", self.ca,
        )  # fmt: skip
        self._count = 0

    def issue(self, names: str, *, dates: tuple[str, str] | None = None) -> tuple[str, str]:
        """(certificate, key) for ``names`` such as ``DNS:a.test,URI:spiffe://x/y``.

        ``dates`` are ``YYYYMMDDHHMMSSZ``; default: two days from now on.
        """
        self._count += 1
        base = self.folder / f"leaf{self._count}"
        certificate, key, request = (f"{base}{end}" for end in (".pem", ".key", ".csr"))
        openssl("req", "-new", "-nodes", *_EC, "-subj", "/CN=leaf", "-keyout", key, "-out", request)
        settings = self.folder / f"leaf{self._count}.cnf"
        settings.write_text(
            self._settings
            + (f"subjectAltName = {names}\n" if names else "")
            + "basicConstraints = CA:false\n"
        )
        (self.folder / "index.txt").touch()
        days = ("-days", "2") if dates is None else ("-startdate", dates[0], "-enddate", dates[1])
        openssl(
            "ca", "-batch", "-config", str(settings), "-in", request, "-out", certificate,
            "-notext", *days,
        )  # fmt: skip
        return certificate, key

    def revoke(self, certificate: str) -> str:
        """A revocation list with that certificate on it."""
        settings = self.folder / "crl.cnf"
        settings.write_text(self._settings)
        openssl("ca", "-config", str(settings), "-revoke", certificate)
        crl = str(self.folder / "crl.pem")
        openssl("ca", "-config", str(settings), "-gencrl", "-crldays", "2", "-out", crl)
        return crl

    @property
    def _settings(self) -> str:
        return (
            "[ca]\ndefault_ca = x\n[x]\n"
            f"database = {self.folder}/index.txt\nnew_certs_dir = {self.folder}\n"
            f"certificate = {self.ca}\nprivate_key = {self._key}\n"
            "default_md = sha256\npolicy = p\nx509_extensions = e\nunique_subject = no\n"
            "rand_serial = yes\n"
            "[p]\ncommonName = supplied\n[e]\n"
        )


EXPIRED = ("20200101000000Z", "20200201000000Z")


def server_context(
    pair: tuple[str, str],
    client_ca: str = "",
    *,
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    alpn: tuple[str, ...] = ("http/1.1",),
) -> ssl.SSLContext:
    """A server's side; with ``client_ca`` it demands a client certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    context.maximum_version = maximum
    context.set_alpn_protocols(list(alpn))
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context
