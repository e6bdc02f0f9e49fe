"""HPACK against the ``hpack`` package as the other side, and the checks on what arrives."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.transport.http2_decoder import Decoder, HpackError, fault
from meshclient.transport.http2_encoder import TABLE_SIZE, Encoder, Field
from meshclient.transport.http2_request import header_list
from meshclient.transport.interface import WireRequest

LIMIT = 80 * 1024
#: Few names and values, so that lists repeat each other; some are in the static table.
NAMES = st.sampled_from([b":status", b"server", b"x-a", b"x-b", b"content-length", b"date"])
VALUES = st.sampled_from([b"", b"200", b"a", b"b" * 40, b"c" * 1500, b"\xe9\xff", b"gzip, deflate"])
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
SIZES = st.sampled_from([0, 40, 100, 1000, TABLE_SIZE, 65_536])


@given(st.lists(st.tuples(LISTS, st.lists(SIZES, max_size=3)), max_size=20))
def test_what_we_send_is_what_the_other_side_reads(
    turns: list[tuple[list[Field], list[int]]],
) -> None:
    ours, theirs = Encoder(), hpack.Decoder(LIMIT)
    for fields, sizes in turns:
        for size in sizes:
            ours.resize(size)
            theirs.max_allowed_table_size = size
        assert list(theirs.decode(ours.encode(fields), raw=True)) == fields


@given(st.lists(st.tuples(LISTS, st.booleans(), SIZES), max_size=20))
def test_what_the_other_side_sends_is_what_we_read(
    turns: list[tuple[list[Field], bool, int]],
) -> None:
    ours, theirs = Decoder(LIMIT), hpack.Encoder()
    for fields, huffman, size in turns:
        theirs.header_table_size = min(size, TABLE_SIZE)
        block = theirs.encode(fields, huffman=huffman)
        assert ours.decode(block)[0] == fields


BLOCKS = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([bytes.fromhex(text) for text in ("88", "be", "bf", "400178017a", "7e0161")]),
)


@settings(max_examples=300)
@given(st.lists(BLOCKS, max_size=12))
def test_any_bytes_give_what_the_other_implementation_gives(blocks: list[bytes]) -> None:
    """Also when the same block comes again, after the table changed under it."""
    ours, theirs = Decoder(LIMIT), hpack.Decoder(LIMIT)
    for block in [*blocks, *blocks]:
        try:
            expected = list(theirs.decode(block, raw=True))
        except HPACKError:
            with pytest.raises(HpackError):
                ours.decode(block)
            return
        assert ours.decode(block)[0] == expected


def test_a_block_that_fills_the_table_fills_it_again_when_it_is_remembered() -> None:
    """nginx marks every literal for the table, in the same block each time."""
    ours = Decoder(LIMIT)
    first, second = b"\x40\x01a\x011", b"\x40\x01b\x012"
    for _ in range(3):
        ours.decode(first)
        ours.decode(second)
        assert ours.decode(b"\xbe\xbf")[0] == [(b"b", b"2"), (b"a", b"1")]
        ours.decode(first)
        assert ours.decode(b"\xbe\xbf")[0] == [(b"a", b"1"), (b"b", b"2")]


def test_a_field_enters_the_table_when_it_comes_again_and_is_one_byte_from_then_on() -> None:
    ours = Encoder()
    sizes = [len(ours.encode([(b"user-agent", b"python")])) for _ in range(4)]
    assert sizes == [9, 8, 1, 1]


def test_what_never_repeats_pushes_nothing_out() -> None:
    ours = Encoder()
    agent = (b"user-agent", b"python")
    ours.encode([agent])
    ours.encode([agent])
    for number in range(1000):
        ours.encode([(b"x-id", b"%d" % number), (b":path", b"/%d" % number)])
    assert len(ours.encode([agent])) == 1


def test_secrets_are_sent_as_never_indexed_and_stay_out_of_the_table() -> None:
    ours, theirs = Encoder(), hpack.Decoder()
    secret = hpack.NeverIndexedHeaderTuple(b"authorization", b"Basic eA==")
    for _ in range(3):
        block = ours.encode([(b":method", b"GET"), secret])
        found = list(theirs.decode(block, raw=True))
        assert isinstance(found[1], hpack.NeverIndexedHeaderTuple)
    assert not theirs.header_table.dynamic_entries


def test_a_list_beyond_the_limit_comes_empty_and_leaves_the_table_as_the_peer_has_it() -> None:
    ours, theirs = Decoder(1000), hpack.Encoder()
    long = [(b"a%d" % number, b"b") for number in range(40)]
    for _ in range(3):
        assert ours.decode(theirs.encode(long)) == (
            [],
            "a header list of 1430 bytes, of 1000 at most",
        )
    assert ours.decode(theirs.encode(long[-3:])) == (long[-3:], "")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x05ab",
        b"\x40",
        b"\x88\x3f\xe1\x1f",
        b"\x3f\xe2\x1f",
    ],
    ids=["entry 0", "endless integer", "cut off", "empty literal", "late resize", "too large"],
)
def test_broken_blocks(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder(LIMIT).decode(block)


@pytest.mark.parametrize(
    "field",
    [
        (b"Upper", b"x"),
        (b"", b"x"),
        (b"a b", b"x"),
        (b"a:b", b"x"),
        (b":path", b"/"),
        (b"a\r\nb", b"x"),
        (b"a\0", b"x"),
        (b"x" * 100 + b"\n", b"x"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"x"),
        (b"te", b"gzip"),
        (b"a", b"x\r\ny: z"),
        (b"a", b"x\ny"),
        (b"a", b"x\0"),
        (b"a", b" x"),
        (b"a", b"x\t"),
    ],
)
def test_fields_that_no_response_may_have(field: Field) -> None:
    status = (b":status", b"200")
    assert fault([status, (b"server", b"x"), field])
    assert fault([status, field, (b"server", b"x")])
    assert fault([field])


def test_fields_that_a_response_may_have() -> None:
    odd = [(b"x" * 100, b""), (b"a.b~!", b"x y\tz"), (b"te", b"trailers"), (b"a", b"\x80\xff\x01")]
    assert fault([(b":status", b"200"), *odd]) == ""
    assert fault(odd) == ""
    assert fault([]) == ""
    assert fault([(b"a", b"b"), (b":status", b"200")])


def _huffman_by_the_book(text: bytes) -> bytes | None:
    """RFC 7541 section 5.2, bit by bit; None: EOS, or padding that is long or not all ones."""
    codes = {
        (length, code): symbol
        for symbol, (code, length) in enumerate(
            zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)
        )
    }
    found, length, code = bytearray(), 0, 0
    for octet in text:
        for bit in range(7, -1, -1):
            length, code = length + 1, code << 1 | octet >> bit & 1
            symbol = codes.get((length, code))
            if symbol == 256:
                return None
            if symbol is not None:
                found.append(symbol)
                length = code = 0
    return bytes(found) if length <= 7 and code == (1 << length) - 1 else None


HUFFMAN = st.one_of(
    st.binary(max_size=12),
    st.text("aeiost0129 %-./=", max_size=20).map(
        lambda text: HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text.encode())
    ),
    st.sampled_from([b"\xff", b"\xff\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfc", b"\x1f\xff"]),
)


@settings(max_examples=500)
@given(HUFFMAN, st.binary(max_size=2))
def test_huffman_with_any_padding(text: bytes, more: bytes) -> None:
    text += more
    expected = _huffman_by_the_book(text)
    block = b"\x00\x01a" + bytes([0x80 | len(text)]) + text
    if expected is None:
        with pytest.raises(HpackError):
            Decoder(LIMIT).decode(block)
    else:
        assert Decoder(LIMIT).decode(block)[0] == [(b"a", expected)]


@pytest.mark.parametrize("first", [0x0F, 0x1F, 0x3F, 0x7F, 0xFF])
@pytest.mark.parametrize("rest", [b"", b"\xff", b"\xff" * 4 + b"\x7f", b"\xff" * 20, b"\x80" * 9])
def test_integers_that_are_cut_off_or_too_large(first: int, rest: bytes) -> None:
    """As index, as size of the table, as length of a name or a value."""
    blocks = [bytes([first]) + rest]
    blocks += [bytes([literal, 0x7F]) + rest for literal in (0x00, 0x10, 0x40)]
    blocks.append(b"\x00\x01a\x7f" + rest)
    for block in blocks:
        with pytest.raises(HpackError):
            Decoder(LIMIT).decode(block)


def _sent(*headers: tuple[bytes, bytes]) -> list[Field]:
    request = WireRequest(b"GET", b"/", [(b"Host", b"a"), *headers])
    return header_list(request, b"https")


def test_what_a_probe_could_guess_is_in_no_table_however_often_it_is_sent() -> None:
    """RFC 7541 section 7.1: credentials, and cookies short enough to be tried out."""
    ours, theirs = Encoder(), hpack.Decoder()
    secrets = [(b"Authorization", b"Bearer abc"), (b"Proxy-Authorization", b"Basic eA==")]
    secrets += [(b"Cookie", b"pin=1234; s=5"), (b"authorization", b"x" * 200)]
    for _ in range(4):
        block = ours.encode(_sent(*secrets))
        found = [type(field) for field in theirs.decode(block, raw=True)][-5:]
        assert found == [hpack.NeverIndexedHeaderTuple] * 5
    indexed = {name for name, _ in theirs.header_table.dynamic_entries}
    assert indexed <= {b":authority"}
    guess = Encoder()
    for _ in range(4):
        guess.encode(_sent(*secrets))
    right, wrong = (b"Cookie", b"pin=1234"), (b"Cookie", b"pin=1235")
    assert len(guess.encode(_sent(right))) == len(guess.encode(_sent(wrong)))


@given(LISTS, st.lists(SIZES, min_size=1, max_size=4))
def test_the_least_size_of_the_table_is_said_first_and_the_last_one_after_it(
    fields: list[Field], sizes: list[int]
) -> None:
    """RFC 7541 section 4.2; nothing is said where the size ends as it was, never less."""
    ours = Encoder()
    ours.encode(fields)
    ours.encode(fields)
    said = [min(size, TABLE_SIZE) for size in sizes]
    for size in sizes:
        ours.resize(size)
    block = ours.encode([])
    theirs = hpack.Decoder()
    theirs.decode(block)
    assert theirs.header_table_size == said[-1]
    if all(size == TABLE_SIZE for size in said):
        assert block == b""


def test_a_table_that_was_smaller_in_between_is_announced_as_such() -> None:
    """The peer has dropped its entries meanwhile."""
    ours = Encoder()
    ours.resize(0)
    ours.resize(100)
    ours.resize(TABLE_SIZE)
    assert ours.encode([]) == b"\x20\x3f\xe1\x1f"
    assert ours.encode([]) == b""


def test_what_is_over_the_limit_is_not_kept_while_it_is_read() -> None:
    block = b"\x40\x01a\x7f\x81\x0f" + b"b" * 2048 + b"\xbe" * 50_000
    fields, _, total, _ = Decoder(LIMIT)._fields(block)
    assert total > 50_000 * 2048
    assert len(fields) == LIMIT // (1 + 2048 + 32)
