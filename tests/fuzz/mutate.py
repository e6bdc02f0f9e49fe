"""Answers and requests to begin with, and ways to damage them. Randomness is an argument."""

from __future__ import annotations

from pathlib import Path
from random import Random

CORPUS = Path(__file__).parent / "corpus"

#: Pieces that framing bugs are made of.
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0\r\n\r\n", b"-1", b"+1", b"0x1",
    b"ffffffffffffffff", b"10000000000000000", b"18446744073709551616", b"chunked", b"identity",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding : chunked\r\n", b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"HTTP/1.0 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n",
    b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"1\r\nx\r\n", b"\xff", b"\x7f",
    b" folded\r\n", b"304", b"204", b"A: b\r\n",
)  # fmt: skip


def seeds() -> list[bytes]:
    """Every kept answer, in the order of its name."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]


def request_seeds() -> list[bytes]:
    """Every kept request, in the form of :mod:`tests.fuzz.requests`."""
    return [path.read_bytes() for path in sorted((CORPUS / "requests").glob("*.req"))]


def guided() -> list[bytes]:
    """Inputs of :mod:`tests.fuzz.guided_run`, each of which reached code that no other did."""
    return [bytes.fromhex(line) for line in (CORPUS / "guided.txt").read_text().splitlines()]


def mutate(
    rand: Random, data: bytes, others: list[bytes], tokens: tuple[bytes, ...] = TOKENS
) -> bytes:
    """A few random damages; ``tokens`` are pieces to put in."""
    out = bytearray(data)
    for _ in range(rand.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        at = rand.randrange(len(out) + 1)
        end = min(len(out), at + rand.choice((1, 1, 2, 4, 8, 32)))
        kind = rand.randrange(7)
        if kind == 0:
            out[at:at] = rand.choice(tokens)
        elif kind == 1:
            out[at:end] = rand.choice(tokens)
        elif kind == 2:
            del out[at:end]
        elif kind == 3 and at < len(out):
            out[at] ^= 1 << rand.randrange(8)
        elif kind == 4:
            out[at:at] = out[at:end]
        elif kind == 5:
            other = rand.choice(others)
            out[at:] = other[rand.randrange(len(other) + 1) :]
        elif at < len(out):
            out[at] = rand.randrange(256)
    return bytes(out)


def cuts(rand: Random, length: int) -> list[int]:
    """Where the answer is split on its way."""
    kind = rand.randrange(4)
    if kind == 0 or length < 2:
        return []
    if kind == 1:
        return list(range(1, length))
    return [rand.randrange(1, length) for _ in range(rand.randrange(1, 6))]
