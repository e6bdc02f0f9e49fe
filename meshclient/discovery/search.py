"""The search list: which absolute names a short name may stand for, in which order.

A pure policy, copied from glibc's ``resolv/res_query.c`` (``__res_context_search``);
asking is the resolver's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from meshclient.discovery.answers import LookupResult, Records
from meshclient.discovery.dns_settings import ResolvConf


@dataclass(frozen=True, slots=True)
class Candidate:
    """One absolute name to try. ``as_is``: the name itself, without a suffix."""

    name: str
    as_is: bool


def is_valid(name: str) -> bool:
    """Can ``name`` (absolute, with its final dot) be put into a query at all?"""
    labels = name[:-1].split(".")
    return len(name) <= 254 and all(1 <= len(label) <= 63 for label in labels)


def candidates(name: str, conf: ResolvConf) -> tuple[Candidate, ...]:
    """The names to try for ``name``; empty when it is not a domain name at all.

    A final dot means absolute. A name with at least ``ndots`` dots is tried as
    it is before the search list, any other after it (``no-tld-query`` keeps a
    name without dots away from the root).
    """
    if name.endswith("."):
        return (Candidate(name, True),) if is_valid(name) else ()
    as_is = Candidate(f"{name}.", True)
    if not is_valid(as_is.name):
        return ()
    plan = [Candidate(f"{name}.{d}.", False) if d else as_is for d in conf.search]
    if name.count(".") >= conf.ndots:
        plan.insert(0, as_is)
    elif "." in name or not plan or not conf.no_tld_query:
        plan.append(as_is)
    return tuple(dict.fromkeys(c for c in plan if is_valid(c.name)))


async def search(
    plan: Sequence[Candidate], ask: Callable[[str], Awaitable[LookupResult]]
) -> LookupResult:
    """Ask for each candidate until one has records.

    A denial goes on to the next one. SERVFAIL goes on too, but is remembered:
    when nothing is found, the failure is the result, since the records may
    well exist there. Any other failure under a suffix ends the search list, only
    the name as it is may still be tried; when no server can be reached, nothing
    is. ``plan`` must not be empty.
    """
    denials: list[LookupResult] = []
    failed: LookupResult | None = None
    list_over = False
    for candidate in plan:
        if list_over and not candidate.as_is:
            continue
        result = await ask(candidate.name)
        failure = result.failure
        if result.found:
            error = failed.failure if failed else None
            return replace(result, passed_over=error.text) if error else result
        if failure is None:
            denials.append(result)
            continue
        failed = failed or result
        if failure.kind == "unreachable":
            break
        list_over = list_over or not (candidate.as_is or failure.kind == "servfail")
    return failed or _denial(denials)


def _denial(denials: list[LookupResult]) -> LookupResult:
    """The first denial, to be asked again as soon as any of them expires."""
    soonest = min(result.ttl_s for result in denials)
    first = denials[0]
    parts = {
        kind: replace(part, ttl_s=soonest) if isinstance(part, Records) else part
        for kind, part in first.parts.items()
    }
    return replace(first, parts=parts)
