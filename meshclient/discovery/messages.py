"""DNS messages, made and read with dnspython; the only module that imports it.

Import this module inside functions only: dnspython loads some 170 modules,
and a program that resolves nothing should not pay for them. No I/O here.
"""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from meshclient.discovery.answers import (
    FailureKind,
    Glue,
    Kind,
    LookupFailed,
    Records,
    SrvRecord,
)

#: DNS flag day 2020: the largest UDP answer that is not fragmented on the way.
UDP_PAYLOAD = 1232

_FAILURES: dict[int, FailureKind] = {
    dns.rcode.SERVFAIL: "servfail",
    dns.rcode.REFUSED: "refused",
}


class Question:
    """One query: its wire form, and the test whether a datagram answers it.

    Each has a fresh random id. Without ``edns`` it is a plain RFC 1035 query,
    for servers that answer FORMERR to anything newer.
    """

    __slots__ = ("_query", "kind", "name", "wire")

    def __init__(self, name: str, kind: Kind, *, edns: bool = True) -> None:
        self.name = name
        self.kind = kind
        options = {"use_edns": 0, "payload": UDP_PAYLOAD} if edns else {}
        try:
            self._query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
            self.wire = self._query.to_wire()
        except (dns.exception.DNSException, UnicodeError) as error:
            raise LookupFailed("malformed", f"{name!r} is not a domain name: {error}") from error

    def read(self, wire: bytes) -> dns.message.Message | None:
        """The parsed answer, or None: broken, or an answer to something else."""
        try:
            answer = dns.message.from_wire(wire, ignore_trailing=True)
        except Exception:
            return self._read_cut(wire)
        return answer if self._query.is_response(answer) else None

    def _read_cut(self, wire: bytes) -> dns.message.Message | None:
        """Some servers truncate in the middle of a record; the head is enough to go to TCP."""
        try:
            head = dns.message.from_wire(wire, question_only=True)
        except Exception:
            # Whatever a forged datagram does to the parser, it is not our answer.
            return None
        return head if is_truncated(head) and self._query.is_response(head) else None


def is_truncated(answer: dns.message.Message) -> bool:
    """Did the answer not fit into the datagram?"""
    return bool(answer.flags & dns.flags.TC)


def dislikes_edns(answer: dns.message.Message) -> bool:
    """RFC 6891 section 7: what servers without EDNS say to an OPT record."""
    return answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP)


def interpret(answer: dns.message.Message, kind: Kind, server: str) -> Records:
    """The records of ``kind``, or that there are none.

    Raises :class:`LookupFailed` when the answer decides nothing: an error code, a
    malformed chain, or a referral of a server that does not recurse.
    """
    code = answer.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise LookupFailed(_FAILURES.get(code, "malformed"), dns.rcode.to_text(code))
    assert isinstance(answer, dns.message.QueryMessage)  # is_response compared the opcode
    try:
        chain = answer.resolve_chaining()
    except dns.exception.DNSException as error:
        raise LookupFailed("malformed", f"malformed answer: {error}") from error
    if chain.answer is None:
        return _denial(answer, chain, server)
    ttl_s = float(chain.minimum_ttl)
    if kind == "SRV":
        services = tuple(
            SrvRecord(r.priority, r.weight, r.port, r.target.to_text().lower())
            for r in chain.answer
        )
        glue = _glue(answer, {record.target for record in services})
        return Records("found", ttl_s, services=services, glue=glue, server=server)
    addresses = tuple(record.address for record in chain.answer)
    return Records("found", ttl_s, addresses, server=server)


def _denial(answer: dns.message.Message, chain: dns.message.ChainingResult, server: str) -> Records:
    ttl_s = float(chain.minimum_ttl)
    if answer.rcode() == dns.rcode.NXDOMAIN:
        return Records("no_name", ttl_s, server=server)
    has_soa = any(rrset.rdtype == dns.rdatatype.SOA for rrset in answer.authority)
    if chain.cnames and not has_soa:
        # The server followed the chain as far as its own zones go.
        ttl_s = float(min(rrset.ttl for rrset in chain.cnames))
        return Records("no_data", ttl_s, server=server, alias=chain.canonical_name.to_text())
    if not has_soa and not answer.flags & (dns.flags.AA | dns.flags.RA):
        # glibc (res_send.c) asks the next server here, too: a referral denies nothing.
        raise LookupFailed("refused", "lame: neither an answer nor recursion")
    return Records("no_data", ttl_s, server=server)


def _glue(answer: dns.message.Message, targets: set[str]) -> tuple[Glue, ...]:
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for rrset in answer.additional:
        name = rrset.name.to_text().lower()
        if name in targets and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            addresses = tuple(record.address for record in rrset)
            found.setdefault(name, {})[rrset.rdtype] = addresses
    return tuple(
        Glue(name, kinds.get(dns.rdatatype.AAAA, ()), kinds.get(dns.rdatatype.A, ()))
        for name, kinds in found.items()
    )
