"""``tls`` blocks of DestinationRules.

Reads and checks one block; no certificate is loaded. Settings that cannot be
honoured make the cluster refuse calls: plaintext is never a fallback.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from meshclient.config.reader import Reader
from meshclient.config.tls_paths import path_of
from meshclient.model.cluster import TlsSettings
from meshclient.model.source import Diagnostic

_Mode = Literal["disable", "simple", "mutual", "istio_mutual"]
_MODES: dict[str, _Mode] = {
    "DISABLE": "disable",
    "SIMPLE": "simple",
    "MUTUAL": "mutual",
    "ISTIO_MUTUAL": "istio_mutual",
}
_CODE = "tls"


@dataclass(frozen=True, slots=True)
class TlsBlock:
    """Settings of one ``tls`` block."""

    settings: TlsSettings
    notes: tuple[Diagnostic, ...] = ()


def read_tls(block: Reader, *, has_selector: bool) -> TlsBlock:
    """One ``tls`` block; ``has_selector``: its rule has a workloadSelector."""
    mode_field = block.field("mode")
    word = mode_field.string(_MODES) if mode_field is not None else "DISABLE"
    names = block.field("subjectAltNames")
    skip = block.field("insecureSkipVerify")
    settings = TlsSettings(
        # An unreadable mode is an error already; the strictest reading stands in.
        mode=_MODES.get(word or "", "istio_mutual"),
        ca=_ca(block),
        certificate=path_of(block, "clientCertificate"),
        key=path_of(block, "privateKey"),
        credential_name=_text(block, "credentialName"),
        subject_alt_names=tuple(names.strings()) if names is not None else (),
        sni=_text(block, "sni"),
        insecure_skip_verify=bool(skip.boolean()) if skip is not None else False,
        crl=path_of(block, "caCrl"),
    )
    block.finish("tls")
    _check(block, settings)
    if settings.credential_name and not has_selector:
        block.warning(
            "credentialName without a workloadSelector is ignored by sidecars",
            code="credential-name",
            suggestion="name the certificate files, or add a workloadSelector",
        )
    return TlsBlock(settings, tuple(_notes(block, settings)))


def _notes(block: Reader, settings: TlsSettings) -> Iterator[Diagnostic]:
    """What stops the calls, whatever the files hold."""
    if settings.mode == "disable":
        return
    if settings.credential_name:
        field = block.field("credentialName") or block
        yield field.not_honoured("credentialName (calls are refused: name certificate files)")
    elif settings.mode == "istio_mutual" and not settings.expected_names:
        yield block.not_honoured(
            "tls mode ISTIO_MUTUAL without subjectAltNames (calls are refused: the service "
            "accounts of the endpoints are not known)"
        )


def _ca(block: Reader) -> str:
    field = block.field("caCertificates")
    if field is not None and field.string() == "system":
        return "system"
    return path_of(block, "caCertificates")


def _text(block: Reader, name: str) -> str:
    field = block.field(name)
    return (field.string() or "") if field is not None else ""


def _check(block: Reader, tls: TlsSettings) -> None:
    paths = (tls.certificate, tls.key, tls.ca)
    if tls.insecure_skip_verify and (tls.ca or tls.subject_alt_names):
        block.error(
            "cannot specify CaCertificates or SubjectAltNames with InsecureSkipVerify", code=_CODE
        )
    if tls.mode == "istio_mutual" and (any(paths) or tls.credential_name or tls.crl):
        block.error("cannot specify certificate files with ISTIO_MUTUAL", code=_CODE)
    elif tls.credential_name and any(paths):
        block.error("cannot specify certificate files beside credentialName", code=_CODE)
    elif tls.mode == "mutual" and not tls.credential_name and not (tls.certificate and tls.key):
        block.error("client certificate and private key required for mutual tls", code=_CODE)
