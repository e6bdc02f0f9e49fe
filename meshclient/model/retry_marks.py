"""How hops tell each other that a call was repeated already. Names only."""

from __future__ import annotations

#: On a failing answer: a call made for it was repeated in vain, or refused by a limit.
#: Whoever gets it and repeats the request multiplies the load, and gains nothing.
EXHAUSTED_HEADER = "x-meshclient-retries-exhausted"
EXHAUSTED_LINE = (b"x-meshclient-retries-exhausted", b"true")
#: The same in gRPC's own words, for callers that are no meshclient: a negative push-back.
#: Source: gRFC A6, "Pushback".
GRPC_PUSHBACK = ("grpc-retry-pushback-ms", "-1")
