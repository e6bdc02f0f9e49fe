"""Names of certificates: Envoy's rules, as a table and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import Cluster, ClusterPolicy, SanMatcher, TlsSettings
from meshclient.transport.tls_context import ServerNameError, check_names
from meshclient.transport.tls_names import (
    any_matches,
    describe_names,
    dns_matches,
    matches,
    presented_names,
)
from meshclient.transport.tls_policy import host_of, server_name


# From Envoy's test/common/tls/utility_test.cc (TestDnsNameMatching), and its neighbours.
@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("lyft.com", "lyft.com", True),
        ("a.lyft.com", "*.lyft.com", True),
        ("a.LYFT.com", "*.lyft.COM", True),
        ("lyft.com", "*yft.com", True),
        ("LYFT.com", "*yft.com", True),
        ("lyft.com", "*lyft.com", True),
        ("lyft.com", "lyf*.com", True),
        ("lyft.com", "lyft*.com", True),
        ("lyft.com", "l*ft.com", True),
        ("t.lyft.com", "t*.lyft.com", True),
        ("test.lyft.com", "t*.lyft.com", True),
        ("l-lots-of-stuff-ft.com", "l*ft.com", True),
        ("t.lyft.com", "t*t.lyft.com", False),
        ("lyft.com", "l*ft.co", False),
        ("lyft.com", "ly?t.com", False),
        ("lyft.com", "lf*t.com", False),
        (".lyft.com", "*lyft.com", False),
        ("lyft.com", "**lyft.com", False),
        ("lyft.com", "lyft**.com", False),
        ("lyft.com", "ly**ft.com", False),
        ("lyft.com", "lyft.c*m", False),
        ("xn--lyft.com", "xn--*.com", False),
        ("xn--lyft.com", "*.com", True),
        ("a.b.lyft.com", "*.lyft.com", False),
        ("foo.test.com", "*.lyft.com", False),
        ("lyft.com", "*.lyft.com", False),
        ("alyft.com", "*.lyft.com", False),
        ("lyft.com", "", False),
        ("lyft", "*", False),
    ],
)
def test_wildcards_count_in_the_left_most_label_only(name, pattern, expected):
    assert dns_matches(name, pattern) is expected


@pytest.mark.parametrize(
    ("matcher", "kind", "value", "expected"),
    [
        (SanMatcher("A.test"), "dns", "a.test", True),
        (SanMatcher("spiffe://x/A"), "uri", "spiffe://x/a", False),
        (SanMatcher("spiffe://x/a"), "uri", "spiffe://x/a", True),
        (SanMatcher("spiffe://x/a"), "uri", "spiffe://x/ab", False),
        (SanMatcher("spiffe://x/a", type="dns"), "uri", "spiffe://x/a", False),
        (SanMatcher("127.0.0.1"), "ip", "127.0.0.1", True),
        (SanMatcher("127.0.0.1"), "dns", "127.0.0.2", False),
        (SanMatcher("::1"), "ip", "0:0:0:0:0:0:0:1", True),
        (SanMatcher("::1", "prefix"), "ip", "0:0:0:0:0:0:0:1", True),
        (SanMatcher("spiffe://x/", "prefix"), "uri", "spiffe://x/a", True),
        (SanMatcher("spiffe://x/", "prefix"), "uri", "http://spiffe://x/", False),
        (SanMatcher(".test", "suffix"), "dns", "a.test", True),
        (SanMatcher(".test", "suffix", "uri"), "dns", "a.test", False),
        (SanMatcher(".test", "suffix"), "dns", "a.test.evil", False),
        (SanMatcher("spiffe://[a-z]+/sa", "regex"), "uri", "spiffe://x/sa", True),
        (SanMatcher("spiffe://[a-z]+/sa", "regex"), "uri", "spiffe://x/sa/more", False),
        (SanMatcher("a@b.test", type="email"), "email", "a@b.test", True),
    ],
)
def test_kinds_and_types(matcher, kind, value, expected):
    assert matches(matcher, kind, value) is expected


def test_names_come_from_the_certificate_in_its_order_and_unknown_types_are_left_out():
    certificate = {
        "subject": ((("commonName", "cn.test"),),),
        "subjectAltName": (
            ("URI", "spiffe://x/a"),
            ("DNS", "a.test"),
            ("DirName", "x"),
            ("IP Address", "0:0:0:0:0:0:0:1\n"),
        ),
    }
    found = presented_names(certificate)
    assert found == [("uri", "spiffe://x/a"), ("dns", "a.test"), ("ip", "0:0:0:0:0:0:0:1")]
    assert presented_names({}) == presented_names(None) == []
    assert any_matches([SanMatcher("no"), SanMatcher("a.test")], found)
    assert not any_matches([SanMatcher("cn.test")], found)
    assert not any_matches([], found)
    assert describe_names([]) == "no subject alternative name"
    assert describe_names(found * 4).endswith(" and 4 more")


_LABEL = st.text("abcx-", min_size=1, max_size=6)
_NAME = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)


@given(_NAME, _NAME)
def test_names_without_wildcard_match_themselves_only(first, second):
    assert dns_matches(first, second) is (first == second)
    assert dns_matches(first.upper(), first)


@given(_LABEL, _NAME)
def test_a_star_covers_exactly_one_label(label, rest):
    assert dns_matches(f"{label}.{rest}", f"*.{rest}")
    assert not dns_matches(rest, f"*.{rest}")
    assert not dns_matches(f"a.{label}.{rest}", f"*.{rest}")


@pytest.mark.parametrize(
    ("authority", "host"),
    [("a.test", "a.test"), ("a.test:80", "a.test"), ("[::1]:80", "::1"), ("::1", "::1")],
)
def test_the_host_of_an_authority(authority, host):
    assert host_of(authority) == host


def test_server_names():
    """The policy's, else Istio's for its own mTLS, else the host of the request."""

    def name(settings: TlsSettings, subset: str = "") -> str:
        cluster = Cluster(
            "c", "a.ns.svc.cluster.local", subset, 80, policy=ClusterPolicy(tls=settings)
        )
        return server_name(cluster, settings, "a:80")

    assert name(TlsSettings("simple")) == "a"
    assert name(TlsSettings("simple", sni="s.test")) == "s.test"
    istio = TlsSettings("istio_mutual")
    assert name(istio) == "outbound_.80_._.a.ns.svc.cluster.local"
    assert name(istio, "v1") == "outbound_.80_.v1_.a.ns.svc.cluster.local"
    assert name(TlsSettings("istio_mutual", sni="s.test")) == "s.test"


def test_a_refusal_says_what_was_presented_and_what_expected():
    certificate = {"subjectAltName": (("DNS", "a.test"),)}
    check_names((SanMatcher("a.test"),), certificate)
    with pytest.raises(ServerNameError, match=r"is for dns:a\.test; expected is b\.test, uri:x"):
        check_names((SanMatcher("b.test"), SanMatcher("x", type="uri")), certificate)
    with pytest.raises(ServerNameError, match="no subject alternative name"):
        check_names((SanMatcher("b.test"),), {})
    with pytest.raises(ServerNameError, match="cannot be used"):
        check_names((SanMatcher("(", "regex"),), certificate)
