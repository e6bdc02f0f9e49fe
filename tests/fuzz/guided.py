"""One string of bytes as a case for any of the oracles; its first byte chooses which.

What :mod:`tests.fuzz.guided_run` feeds and the kept corpus replays. No clock.
"""

from __future__ import annotations

from tests.fuzz import exchange, loop_exchange, oracle, requests

REQUESTS, EXCHANGES, ANSWERS, ANSWERS_TO_HEAD = range(4)
#: First bytes that have an answer judged each way; the last is an exchange after CONNECT.
ANSWER_KINDS = (EXCHANGES, ANSWERS, ANSWERS_TO_HEAD, 4 * 4 + EXCHANGES)


def judge(data: bytes) -> str:
    """What is wrong with our verdict; "" for nothing."""
    which, rest = (data[0], data[1:]) if data else (0, b"")
    kind = which % 4
    if kind == REQUESTS:
        return requests.judge(rest)[1]
    if kind == EXCHANGES:
        method = exchange.METHODS[which // 4 % len(exchange.METHODS)]
        cuts = list(range(1, len(rest), 1 + which // 32))
        return exchange.judge(rest, method)[1] or loop_exchange.judge(rest, method, cuts)[1]
    return _answer(rest, kind == ANSWERS_TO_HEAD)


def _answer(data: bytes, head_only: bool) -> str:
    whole = oracle.ours(data, [], head_only)
    cut = oracle.ours(data, list(range(1, len(data))), head_only)
    if cut[:3] + cut[4:] != whole[:3] + whole[4:]:
        return f"depends on the cuts: {data!r}: {whole} {cut}"
    theirs = oracle.h11s(data, head_only)
    return "" if oracle.explained(data, whole, theirs, head_only) else f"{data!r}: {whole} {theirs}"
