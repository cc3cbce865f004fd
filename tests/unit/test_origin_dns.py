"""The origins as a DNS server: the whole of .test, and nothing else."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import dns.message
import dns.query
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.errors import TransportError
from pytest_bottle.guest import dnswire
from pytest_bottle.internet.talk import Peer, Talk
from pytest_bottle.internet.zone import FIRST, LAST, Zone, ZoneFullError
from tests.origins import Running, query, run_origins
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def running6() -> Iterator[Running]:
    """Origins on the IPv6 loopback address."""
    try:
        free_port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    with ExitStack() as stack:
        yield run_origins(stack, "::1")


@pytest.mark.parametrize("how", [dns.query.udp, dns.query.tcp])
def test_a_name_under_test_has_two_addresses(running: Running, how: Callable[..., Any]) -> None:
    """Over UDP and TCP, and both addresses carry the same number."""
    address = running.client.address("allowed.test")
    number = int(address.removeprefix("192.88.99."))
    assert query(running, "allowed.test", "A", how) == ("NOERROR", [address])
    assert query(running, "Allowed.TEST", "AAAA", how) == (
        "NOERROR",
        [f"2620:4f:8000::{number:x}"],
    )


def test_dns_works_over_ipv6(running6: Running) -> None:
    """The answer leaves from the IPv6 address that was asked."""
    assert query(running6, "allowed.test")[0] == "NOERROR"


def test_names_get_addresses_in_order_of_the_first_question(fresh: Running) -> None:
    """Hosts of one domain share its address, so that nonces as labels do not use them up."""
    assert query(fresh, "first.test")[1] == ["192.88.99.64"]
    assert query(fresh, "x.second.test")[1] == ["192.88.99.65"]
    assert query(fresh, "y.z.second.test")[1] == ["192.88.99.65"]
    assert query(fresh, "first.test")[1] == ["192.88.99.64"]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("private.test", "10.0.0.1"),
        ("x.private.test", "10.0.0.1"),
        ("loopback.test", "127.0.0.1"),
        ("metadata.test", "169.254.169.254"),
    ],
)
def test_some_names_lead_where_a_sidecar_must_not_go(
    running: Running, name: str, address: str
) -> None:
    """Rebinding needs names with forbidden addresses (PXY-11)."""
    assert query(running, name) == ("NOERROR", [address])


def test_a_name_leads_inside_at_every_other_question(fresh: Running) -> None:
    """Of each two answers one is public and one is not, in no order that comes back."""
    answers = [query(fresh, "alternating.test")[1][0] for _ in range(16)]
    inside = [answer == "10.99.0.7" for answer in answers]

    assert {answer for answer in answers if answer != "10.99.0.7"} == {
        fresh.client.address("alternating.test")
    }
    assert "".join("01"[one] for one in inside) == "0110100110010110"
    assert query(fresh, "alternating.test", "AAAA") == ("NOERROR", [])


@pytest.mark.parametrize(
    ("name", "qtype", "records"),
    [
        ("aliased.test", "A", ["hop.aliased.test.", "metadata.test.", "169.254.169.254"]),
        ("127-0-0-1.spelled.test", "A", ["127.0.0.1"]),
        ("127-0-0-1.spelled.test", "AAAA", []),
        ("mixed6.test", "AAAA", ["fd00::7"]),
    ],
)
def test_some_names_lead_inside_by_others(
    running: Running, name: str, qtype: str, records: list[str]
) -> None:
    """By aliases, by the address in the name, or by one family only."""
    assert query(running, name, qtype) == ("NOERROR", records)


def test_one_address_of_two_leads_inside(running: Running) -> None:
    """The other one is public."""
    first, second = query(running, "mixed.test")[1]
    assert (first, second) == (running.client.address("mixed.test"), "10.99.0.7")


@pytest.mark.parametrize("name", ["nxdomain.test", "x.nxdomain.test", "example.com", "latest", "."])
def test_other_names_do_not_exist(running: Running, name: str) -> None:
    """The lab plays a resolver at every address, and knows only .test."""
    assert query(running, name) == ("NXDOMAIN", [])


def test_a_name_can_be_adopted(fresh: Running) -> None:
    """It exists from then on, with all below it and nothing beside it; ``.test`` needs none."""
    assert query(fresh, "db.internal")[0] == "NXDOMAIN"

    pair = fresh.client.adopt("DB.internal.")

    assert query(fresh, "db.internal")[1] == query(fresh, "x.db.internal")[1] == [pair[0]]
    assert query(fresh, "db.internal", "AAAA")[1] == [pair[1]]
    assert query(fresh, "web.internal")[0] == query(fresh, "internal")[0] == "NXDOMAIN"
    assert fresh.client.adopt("a.private.test") == fresh.client.addresses("private.test")
    with pytest.raises(TransportError, match=r"nxdomain\.test does not exist"):
        fresh.client.adopt("nxdomain.test")


def test_a_text_record_repeats_the_question(running: Running) -> None:
    """A lookup of a nonce can be told from a cached or made-up answer."""
    assert query(running, "n8.allowed.test", "TXT") == ("NOERROR", ['"n8.allowed.test"'])


def test_a_question_may_come_over_https(running: Running) -> None:
    """Whoever posts a DNS message gets one back (RFC 8484), and it is logged as a question."""
    since, message = running.client.mark(), dns.message.make_query("n7.denied.test", "A")
    body, form = message.to_wire(), {"Content-Type": "application/dns-message"}
    with closing(running.http()) as connection:
        connection.request("POST", "/dns-query", body, form)
        answer = connection.getresponse()
        data = answer.read()

    assert answer.getheader("Content-Type") == "application/dns-message"
    assert dns.message.from_wire(data).answer[0][0].address == running.client.address("denied.test")
    assert [entry.name for entry in running.client.dns_log(since)] == ["n7.denied.test"]


def test_what_is_no_question_over_https_is_answered_like_any_request(running: Running) -> None:
    """Without the message's own type, or without a message."""
    for body, form in ((b"x", "application/dns-message"), (b"x" * 40, "text/plain")):
        with closing(running.http()) as connection:
            connection.request("POST", "/dns-query", body, {"Content-Type": form})
            answer = connection.getresponse()
            answer.read()
        assert answer.getheader("Content-Type") == "application/json"


def test_another_type_has_no_data(running: Running) -> None:
    """The name exists, the record does not."""
    assert query(running, "allowed.test", "MX") == ("NOERROR", [])


def test_a_question_is_logged(running: Running) -> None:
    """Who asked whom for what, and how."""
    since = running.client.mark()
    query(running, "N9.denied.test", "TXT")
    query(running, "n9.elsewhere.example", "A", dns.query.tcp)
    first, second = running.client.dns_log(since)
    assert (first.name, first.qtype, first.scheme) == ("n9.denied.test", dnswire.TXT, "udp")
    assert (first.client, first.server) == ("127.0.0.1", running.address)
    assert (second.name, second.scheme) == ("n9.elsewhere.example", "tcp")


def test_garbage_is_logged_and_not_answered(running: Running) -> None:
    """A datagram that is no question has arrived all the same."""
    since = running.client.mark()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"garbage", (running.address, running.dns_port))
        (entry,) = running.client.dns_log(since)
    assert entry.note.startswith("not a query")


def test_when_all_addresses_are_given_away_the_server_fails() -> None:
    """It must not answer that the name does not exist, nor give an address twice."""
    zone = Zone()
    given_away = {zone.addresses(f"n{number}.test") for number in range(FIRST, LAST + 1)}
    assert len(given_away) == LAST - FIRST + 1
    with pytest.raises(ZoneFullError):
        zone.addresses("one-more.test")
    assert zone.addresses(f"again.n{LAST}.test") in given_away
    notes: list[str] = []
    talk = Talk(zone, lambda *_, **fields: notes.append(fields["note"]), (), None)
    reply = talk.answer_query(dnswire.build_query("one-more.test", dnswire.A, 1), _PEER, "udp")
    assert reply is not None
    assert dnswire.parse_answer(reply).rcode == dnswire.SERVFAIL
    assert notes[0].startswith("no address left for one-more.test")


_PEER = Peer("127.0.0.1", 1, "127.0.0.2", 53)


@given(
    st.binary(max_size=80)
    | st.builds(
        lambda ident, body: ident + b"\x01\0\0\x01\0\0\0\0\0\0" + body,
        st.binary(min_size=2, max_size=2),
        st.binary(max_size=300),
    )
)
def test_no_datagram_brings_the_zone_down(data: bytes) -> None:
    """Whatever is asked is answered with the same id, or not at all."""
    answer = Talk(Zone(), lambda *_, **__: None, (), None).answer_query(data, _PEER, "udp")
    assert answer is None or answer[:2] == data[:2]
