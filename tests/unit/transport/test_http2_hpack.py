"""HPACK against the ``hpack`` package as the other side, and the checks on what arrives."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.transport.http2_decoder import Decoder, HpackError, fault
from meshclient.transport.http2_encoder import TABLE_SIZE, Encoder, Field

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
