"""The ``tls`` section of the native file: Reader to :class:`TlsSettings`.

Checks what contradicts itself; loads no certificate.
"""

from __future__ import annotations

from typing import Literal, cast

from meshclient.config.native_values import finish, flag_of, required, text_of
from meshclient.config.reader import Reader
from meshclient.config.tls_paths import path_of
from meshclient.model.cluster import SanMatcher, TlsSettings
from meshclient.model.regex import RegexError, compile_regex

_KINDS: tuple[Literal["exact", "prefix", "suffix", "regex"], ...] = (
    "exact",
    "prefix",
    "suffix",
    "regex",
)
_TYPES = ("dns", "uri", "ip", "email")
_Type = Literal["", "dns", "uri", "ip", "email"]


def read_tls(r: Reader) -> TlsSettings | None:
    """The settings; None for mode disable.

    Fail closed: whatever is wrong with the block, it never becomes plain text.
    """
    mode_reader = required(r, "mode")
    mode = mode_reader.string(("disable", "simple", "mutual")) if mode_reader else None
    names = r.field("subject_alt_names")
    plain, matchers = _names(names) if names is not None else ((), ())
    settings = TlsSettings(
        mode="mutual" if mode == "mutual" else "simple",
        ca=path_of(r, "ca"),
        certificate=path_of(r, "certificate"),
        key=path_of(r, "key"),
        crl=path_of(r, "crl"),
        sni=text_of(r, "sni"),
        subject_alt_names=plain,
        insecure_skip_verify=flag_of(r, "insecure_skip_verify"),
        san_matchers=matchers,
    )
    finish(r, "tls")
    if mode == "disable":
        if settings != TlsSettings("simple"):
            r.error("the other settings have no effect with mode disable")
        return None
    _check(r, mode, settings)
    return settings


def _check(r: Reader, mode: str | None, settings: TlsSettings) -> None:
    if mode == "mutual" and not (settings.certificate and settings.key):
        r.error("mode mutual needs certificate and key", code="missing-field")
    if mode == "simple" and (settings.certificate or settings.key):
        r.error("a client certificate is only sent with mode mutual", suggestion="mode: mutual")
    if not settings.insecure_skip_verify:
        return
    if settings.ca or settings.crl or settings.expected_names:
        r.error("insecure_skip_verify contradicts ca, crl and subject_alt_names")
    else:
        r.warning("insecure_skip_verify: anybody can pretend to be this service")


def _names(r: Reader) -> tuple[tuple[str, ...], tuple[SanMatcher, ...]]:
    """Plain texts, and matchers. A name that cannot be read must not widen the list."""
    plain: list[str] = []
    matchers: list[SanMatcher] = []
    for item in r.elements():
        if item.is_mapping:
            matchers.append(_matcher(item))
            continue
        text = item.string()
        if text == "":
            item.error("must not be empty")
        plain.append(text or "\0")
    return tuple(plain), tuple(matchers)


def _matcher(r: Reader) -> SanMatcher:
    type_reader = r.field("type")
    kind_of_name = type_reader.string(_TYPES) if type_reader is not None else ""
    texts = [(kind, text_of(r, kind)) for kind in _KINDS]
    given = [(kind, text) for kind, text in texts if text]
    finish(r, "san")
    if len(given) != 1:
        r.error("give exactly one of exact, prefix, suffix and regex")
        return SanMatcher("\0")
    kind, value = given[0]
    if kind == "regex":
        try:
            compile_regex(value)
        except RegexError as error:
            r.error(str(error), code="regex")
    return SanMatcher(value, kind, cast(_Type, kind_of_name or ""))
