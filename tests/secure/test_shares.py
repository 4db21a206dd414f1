"""Shares: they sum to the vector, all but one of them tell nothing, and a server takes what was meant for it only."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.core.roster import Member
from fedloom.entropy import derived_secret
from fedloom.errors import Error, PlanError
from fedloom.secure.additive import hidden_words, seed_total
from fedloom.secure.agreement import PrivateKey, private_key, signing_key
from fedloom.secure.roster import LocalIdentity, SimulatedRoster, roster, simulated_identity
from fedloom.secure.shares import ShareServer, ShareTerms, agreed, combine, split

VECTORS = Path(__file__).parents[1] / "vectors" / "shares.json"
KEY = Key.from_seed(11)
ROSTER = SimulatedRoster(KEY)
NAMES = tuple(ClientId(f"site {number}") for number in range(4))
DIM = 8
"""With it a share of words, uint32, is as long as one that is a seed: no length tells servers apart."""
quick = settings(max_examples=15, derandomize=True, database=None, deadline=None)


def secret(*path: str | int) -> Any:
    return derived_secret(KEY.child("secret", *path))


def server_keys(count: int) -> list[PrivateKey]:
    return [private_key(secret("server", place).random_bytes(32)) for place in range(count)]


def terms_of(count: int = 2, **fields: Any) -> ShareTerms:
    publics = tuple(key.public for key in server_keys(count))
    given_ = {"context": b"round 1", "dim": DIM, "dtype": "uint32", "servers": publics, "fewest": 3, **fields}
    return ShareTerms(**given_)


def server_of(terms: ShareTerms, place: int, who: Any = ROSTER) -> ShareServer:
    return ShareServer(terms, place, key=server_keys(len(terms.servers))[place], roster=who)


def servers_of(terms: ShareTerms) -> list[ShareServer]:
    return [server_of(terms, place) for place in range(len(terms.servers))]


def values_of(client: str, terms: ShareTerms) -> Vector:
    draw = KEY.child("values", client).generator()
    return draw.integers(0, np.iinfo(terms.dtype).max, terms.dim, dtype=terms.dtype, endpoint=True)


def sent(client: ClientId, terms: ShareTerms, values: Vector | None = None) -> tuple[bytes, ...]:
    vector = values_of(client, terms) if values is None else values
    return split(vector, terms, identity=simulated_identity(KEY, client), secret=secret("client", client))


def filled(terms: ShareTerms, names: tuple[ClientId, ...] = NAMES) -> list[ShareServer]:
    servers = servers_of(terms)
    for name in names:
        for server, share in zip(servers, sent(name, terms), strict=True):
            server.receive(name, share)
    return servers


# ---- The protocol by other code ----------------------------------------------------------------------------------


def framed(*fields: Any) -> bytes:
    def one(field: Any) -> bytes:
        tag = b"b" if isinstance(field, bytes) else b"s" if isinstance(field, str) else b"i"
        content = field if isinstance(field, bytes) else str(field).encode()
        return tag + len(content).to_bytes(8, "big") + content

    return b"".join(map(one, fields))


def expanded(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256: one block."""
    inner = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(inner, info + b"\x01", "sha256")


def keystream(seed: bytes, words: int, dtype: str) -> Vector:
    """Return a mask of at most one chunk, its blocks encrypted one by one."""
    count = words * np.dtype(dtype).itemsize
    key = expanded(seed, b"", framed(b"fedloom/sa/v1/mask-chunk", 0))
    ecb = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    stream = b"".join(ecb.update(number.to_bytes(16, "big")) for number in range(-(-count // 16)))
    return np.frombuffer(stream[:count], np.dtype(dtype).newbyteorder("<"))


def session(terms: ShareTerms) -> bytes:
    label = b"fedloom/shares/v1/terms"
    return hashlib.sha256(framed(label, terms.context, terms.dim, terms.dtype, terms.fewest, *terms.servers)).digest()


def opened(terms: ShareTerms, sender: str, place: int, sealed: bytes) -> bytes:
    """Return the content of a share, by a reader that knows the server's key; its signature is checked too."""
    public, signature, cipher = sealed[:32], sealed[32:96], sealed[96:]
    sid, name = session(terms), f"server {place}"
    statement = framed(b"fedloom/shares/v1/share-sig", sid, sender, place, public, hashlib.sha256(cipher).digest())
    member = ROSTER.member(ClientId(sender))
    assert member is not None
    Ed25519PublicKey.from_public_bytes(member.key).verify(signature, statement)
    raw = server_keys(len(terms.servers))[place].stored()
    shared = X25519PrivateKey.from_private_bytes(raw).exchange(X25519PublicKey.from_public_bytes(public))
    info = framed(b"fedloom/shares/v1/channel", sender, name, public + terms.servers[place])
    return AESGCM(expanded(shared, sid, info)).decrypt(bytes(12), cipher, framed(sid, 0, sender, name))


def mask(terms: ShareTerms, sender: str, place: int, seed: bytes) -> Vector:
    info = framed(b"fedloom/shares/v1/mask", sender, f"server {place}", b"")
    return keystream(expanded(seed, session(terms), info), terms.dim, terms.dtype)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("count", [2, 3])
def test_other_code_that_has_the_servers_keys_reads_the_shares_and_adds_them_to_the_vector(
    count: int, dtype: str
) -> None:
    terms = terms_of(count, dtype=dtype, dim=37)
    client = NAMES[0]
    shares = [opened(terms, client, place, share) for place, share in enumerate(sent(client, terms))]
    total = np.frombuffer(shares[0], np.dtype(dtype).newbyteorder("<")).copy()
    for place, seed in enumerate(shares[1:], 1):
        total += mask(terms, client, place, seed)
    assert total.tolist() == values_of(client, terms).tolist()


@pytest.mark.parametrize("count", [2, 3])
def test_shares_have_the_published_bytes(count: int) -> None:
    known = json.loads(VECTORS.read_text())[f"{count} servers"]
    terms = terms_of(count)
    assert [key.stored().hex() for key in server_keys(count)] == known["server_keys"]
    assert terms.sid.hex() == session(terms).hex() == known["sid"]
    values = np.array(known["values"], np.uint32)
    shares = sent(NAMES[0], terms, values)
    assert [share.hex() for share in shares] == known["sealed"]
    contents = [opened(terms, NAMES[0], place, share) for place, share in enumerate(shares)]
    assert [content.hex() for content in contents] == known["opened"]
    masks = [mask(terms, NAMES[0], place, seed) for place, seed in enumerate(contents[1:], 1)]
    assert [each.tolist() for each in masks] == known["masks"]
    totals = [server.total(NAMES) for server in filled(terms)]
    assert [total.values.tolist() for total in totals] == known["totals"]


# ---- Sums --------------------------------------------------------------------------------------------------------


@quick
@given(data=st.data(), count=st.sampled_from([2, 3]), dtype=st.sampled_from(["uint32", "uint64"]))
def test_the_totals_of_all_servers_add_up_to_the_sum(data: st.DataObject, count: int, dtype: str) -> None:
    terms = terms_of(count, dtype=dtype, dim=3)
    words = st.lists(st.integers(0, np.iinfo(dtype).max), min_size=3, max_size=3)
    rows = [np.array(data.draw(words), dtype) for _ in NAMES]
    servers = servers_of(terms)
    for name, row in zip(NAMES, rows, strict=True):
        for server, share in zip(servers, sent(name, terms, row), strict=True):
            server.receive(name, share)
    included = data.draw(st.lists(st.sampled_from(NAMES), min_size=3, unique=True))
    total = combine([server.total(included) for server in servers], terms)
    expected = np.sum([rows[NAMES.index(name)] for name in included], axis=0, dtype=dtype)
    assert total.dtype == dtype
    assert total.tolist() == expected.tolist()


def test_totals_are_added_in_any_order_but_one_of_each_server() -> None:
    terms = terms_of(3)
    totals = [server.total(NAMES) for server in filled(terms)]
    expected = np.sum([values_of(name, terms) for name in NAMES], axis=0, dtype=np.uint32).tolist()
    for order in itertools.permutations(totals):
        assert combine(order, terms).tolist() == expected
    for wrong in (totals[:2], [*totals, totals[0]], [totals[0], totals[1], totals[1]]):
        with pytest.raises(Error, match="one of each of 3"):
            combine(wrong, terms)


def test_who_is_in_the_sum_is_what_all_servers_hold() -> None:
    terms = terms_of(2)
    servers = servers_of(terms)
    for name in NAMES:
        servers[0].receive(name, sent(name, terms)[0])
    for name in NAMES[1:]:
        servers[1].receive(name, sent(name, terms)[1])
    common = agreed([server.received for server in servers])
    assert common == NAMES[1:]
    expected = np.sum([values_of(name, terms) for name in common], axis=0, dtype=np.uint32)
    assert combine([server.total(common) for server in servers], terms).tolist() == expected.tolist()


def test_a_message_grows_by_144_bytes_a_server() -> None:
    for count in (2, 3):
        terms = terms_of(count, dim=1000)
        lengths = [len(share) for share in sent(NAMES[0], terms)]
        assert lengths == [4000 + 112, *[144] * (count - 1)]
        assert lengths == [terms.length(place) for place in range(count)]


# ---- What shares tell --------------------------------------------------------------------------------------------

HIGHEST = 377.0
"""Chi-square of 255 degrees of freedom is above it once in a million draws."""


def chi_square(counts: Vector) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


def bytes_of(words: Vector) -> Vector:
    return np.bincount(words.view(np.uint8), minlength=256)


INPUTS: dict[str, Callable[[int], Vector]] = {
    "zeros": lambda size: np.zeros(size, np.uint32),
    "largest": lambda size: np.full(size, 2**32 - 1, np.uint32),
    "ramp": lambda size: np.arange(size, dtype=np.uint32),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(("count", "absent"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_all_servers_but_one_see_uniform_words_whatever_the_vector(count: int, absent: int, name: str) -> None:
    """Where words are seen, the masks that are known as well are taken off; else what is left are seeds' masks."""
    terms = terms_of(count, dim=1 << 15)
    values = INPUTS[name](terms.dim)
    contents = [opened(terms, NAMES[0], place, share) for place, share in enumerate(sent(NAMES[0], terms, values))]
    view = np.zeros(terms.dim, np.uint32)
    for place, content in enumerate(contents):
        if place != absent:
            view += mask(terms, NAMES[0], place, content) if place else np.frombuffer(content, "<u4")
    assert chi_square(bytes_of(view)) < HIGHEST
    assert chi_square(np.bincount((view ^ values) & 255, minlength=256)) < HIGHEST, "the view goes with the vector"


def test_seeds_are_uniform_and_no_two_are_equal() -> None:
    terms = terms_of(3)
    names = [ClientId(f"c{number}") for number in range(150)]
    seeds = [opened(terms, name, place, sent(name, terms)[place]) for name in names for place in (1, 2)]
    assert len(set(seeds)) == len(seeds)
    assert chi_square(bytes_of(np.frombuffer(b"".join(seeds), np.uint8))) < HIGHEST


@quick
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.data())
def test_under_one_mask_words_differ_as_vectors_do(words: list[int], data: st.DataObject) -> None:
    """So to each share of words there is one mask for every vector: without the mask, all vectors are alike."""
    vector = np.array(words, np.uint32)
    others = st.lists(st.integers(0, 2**32 - 1), min_size=len(words), max_size=len(words))
    other = np.array(data.draw(others), np.uint32)
    seeds = [secret("seed", number).random_bytes(32) for number in range(2)]
    share = hidden_words(vector, seeds)
    assert (share + seed_total(seeds, len(words), dtype="uint32")).tolist() == words
    assert (hidden_words(other, seeds) - share).tolist() == (other - vector).tolist()


def test_whoever_carries_a_message_finds_nothing_of_the_vector_in_it() -> None:
    terms = terms_of(3, dim=64)
    values = values_of(NAMES[0], terms)
    message = b"".join(sent(NAMES[0], terms, values))
    contents = [opened(terms, NAMES[0], place, share) for place, share in enumerate(sent(NAMES[0], terms, values))]
    for plain in (values.tobytes(), *contents):
        assert not any(plain[start : start + 8] in message for start in range(0, len(plain) - 7, 4))
    kept = server_of(terms, 0)
    kept.receive(NAMES[0], sent(NAMES[0], terms, values)[0])
    assert contents[0][:8] not in kept.stored(), "shares are kept sealed"
    assert server_keys(3)[0].stored() not in kept.stored()


def test_the_same_vector_has_the_same_message_and_another_one_shares_no_mask_and_no_key_with_it() -> None:
    terms = terms_of(3)
    values = values_of(NAMES[0], terms)
    assert sent(NAMES[0], terms, values) == sent(NAMES[0], terms, values)
    other = values.copy()
    other[0] += np.uint32(1)
    first, second = sent(NAMES[0], terms, values), sent(NAMES[0], terms, other)
    later = sent(NAMES[0], replace(terms, context=b"round 2"), values)
    for one, two in itertools.combinations((first, second, later), 2):
        assert one[0][:32] != two[0][:32], "each has a key of its own"
    seeds = {opened(terms, NAMES[0], place, share[place]) for share in (first, second) for place in (1, 2)}
    assert len(seeds) == 4


# ---- What a server refuses ---------------------------------------------------------------------------------------


def refused(server: ShareServer, sender: ClientId, sealed: bytes, match: str) -> None:
    before = server.stored()
    with pytest.raises(Error, match=match):
        server.receive(sender, sealed)
    assert server.stored() == before, "what is refused changes nothing"


@pytest.mark.parametrize("at", [0, 31, 32, 95, 96, 100, 127, -1])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_flipped_bit_in_any_field_is_refused_and_the_right_share_is_taken_after_it(place: int, at: int) -> None:
    terms = terms_of(3)
    server, share = server_of(terms, place), sent(NAMES[0], terms)[place]
    changed = bytearray(share)
    changed[at] ^= 4
    refused(server, NAMES[0], bytes(changed), "not signed by its key")
    server.receive(NAMES[0], share)
    assert server.received == {NAMES[0]}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_share_for_another_server_client_round_or_minimum_is_refused(place: int) -> None:
    terms = terms_of(3)
    server = server_of(terms, place)
    shares = sent(NAMES[0], terms)
    for other in range(3):
        if other != place:
            assert len(shares[other]) == len(shares[place])
            refused(server, NAMES[0], shares[other], "not signed by its key")
    refused(server, NAMES[1], shares[place], "not signed by its key")
    for changed in (
        replace(terms, context=b"round 2"),
        replace(terms, fewest=2),
        replace(terms, servers=terms.servers[::-1]),
        replace(terms, servers=(*terms.servers[:2], private_key(bytes(range(32))).public)),
    ):
        refused(server, NAMES[0], sent(NAMES[0], changed)[place], "not signed by its key")
    for wrong in (b"", shares[place][:-1], shares[place] + b"\x00"):
        refused(server, NAMES[0], wrong, "bytes")


def test_a_share_that_its_client_signed_but_sealed_for_another_does_not_open() -> None:
    """The signature is the client's own: what then refuses is the seal."""
    terms = terms_of(3)
    name, me = NAMES[0], simulated_identity(KEY, NAMES[0])
    for place, other in itertools.permutations(range(3), 2):
        public, cipher = sent(name, terms)[other][:32], sent(name, terms)[other][96:]
        statement = framed(
            b"fedloom/shares/v1/share-sig", terms.sid, name, place, public, hashlib.sha256(cipher).digest()
        )
        refused(server_of(terms, place), name, public + me.sign(statement) + cipher, "authenticate")
    zero, cipher = bytes(32), sent(name, terms)[0][96:]
    statement = framed(b"fedloom/shares/v1/share-sig", terms.sid, name, 0, zero, hashlib.sha256(cipher).digest())
    refused(server_of(terms, 0), name, zero + me.sign(statement) + cipher, "low order")


def test_the_coordinator_cannot_send_in_the_name_of_a_client() -> None:
    """Vectors of its own beside one client's would make the sum that client's vector."""
    terms = terms_of(2)
    forger = LocalIdentity(NAMES[0], signing_key(secret("forger").random_bytes(32)))
    forged = split(values_of(NAMES[0], terms), terms, identity=forger, secret=secret("forger"))
    refused(server_of(terms, 0), NAMES[0], forged[0], "not signed by its key")
    nobody = roster("trial", 1, [])
    refused(server_of(terms, 0, nobody), NAMES[0], sent(NAMES[0], terms)[0], "not in the roster")


def test_a_server_takes_one_share_of_a_client_and_none_when_it_has_opened() -> None:
    terms = terms_of(2)
    server = filled(terms, NAMES[:3])[0]
    refused(server, NAMES[0], sent(NAMES[0], terms)[0], "one share of a client")
    server.lose(NAMES[3], "its share for server 1 was changed")
    refused(server, NAMES[3], sent(NAMES[3], terms)[0], "its share for server 1 was changed")
    assert server.lost == {NAMES[3]: "its share for server 1 was changed"}
    server.total(NAMES[:3])
    refused(server, ClientId("late"), sent(ClientId("late"), terms)[0], "after server 0 had opened")
    with pytest.raises(Error, match="cannot leave the sum"):
        server.lose(NAMES[0], "late")


# ---- One total for one set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_server_opens_one_total_for_one_set_and_no_second_one(place: int, resumed: bool) -> None:
    terms = terms_of(3)
    server = filled(terms)[place]
    first = server.total(NAMES)
    if resumed:
        stored, server = server.stored(), server_of(terms, place)
        server.resume(stored)
    for size in (1, 2, 3):
        for subset in itertools.combinations(NAMES, size):
            with pytest.raises(Error, match="opens no other set"):
                server.total(subset)
    again = server.total(NAMES[::-1])
    assert again.values.tolist() == first.values.tolist()
    assert again.transcript == first.transcript


def test_a_server_opens_no_total_of_few_or_of_whom_it_lacks() -> None:
    terms = terms_of(2)
    server = filled(terms)[1]
    for size in (0, 1, 2):
        with pytest.raises(Error, match="from 3 organisations on"):
            server.total(NAMES[:size])
    with pytest.raises(Error, match="name each once"):
        server.total((*NAMES[:2], NAMES[1]))
    with pytest.raises(Error, match="no share of 'stranger'"):
        server.total((*NAMES, ClientId("stranger")))
    server.lose(NAMES[0], "gone")
    with pytest.raises(Error, match="no share of 'site 0'"):
        server.total(NAMES)
    assert server.total(NAMES[1:]).place == 1, "what was refused has opened nothing"


def test_identities_of_one_organisation_count_once() -> None:
    keys = {name: signing_key(secret("identity", name).random_bytes(32)) for name in NAMES}
    owners = dict(zip(NAMES, ("a", "a", "a", "b"), strict=True))
    listed = roster(
        "trial", 1, [Member(client=name, organisation=owners[name], key=keys[name].public) for name in NAMES]
    )
    for fewest in (2, 3):
        terms = terms_of(2, fewest=fewest)
        server = server_of(terms, 0, listed)
        for name in NAMES:
            identity = LocalIdentity(name, keys[name])
            server.receive(name, split(values_of(name, terms), terms, identity=identity, secret=secret(name))[0])
        if fewest == 2:
            assert server.total(NAMES).place == 0
        else:
            with pytest.raises(Error, match="4 clients of 2 organisations"):
                server.total(NAMES)


def test_totals_of_different_sets_are_not_combined() -> None:
    terms = terms_of(2)
    servers = filled(terms)
    with pytest.raises(Error, match="different clients or messages"):
        combine([servers[0].total(NAMES), servers[1].total(NAMES[1:])], terms)


def test_totals_are_not_combined_where_a_client_sent_its_servers_parts_of_two_messages() -> None:
    terms = terms_of(2)
    servers = filled(terms, NAMES[1:])
    servers[0].receive(NAMES[0], sent(NAMES[0], terms)[0])
    servers[1].receive(NAMES[0], sent(NAMES[0], terms, np.zeros(DIM, np.uint32))[1])
    with pytest.raises(Error, match="different clients or messages"):
        combine([server.total(NAMES) for server in servers], terms)


# ---- Resuming, and what cannot be a sum of shares ----------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
def test_a_server_goes_on_from_what_it_stored(place: int) -> None:
    terms = terms_of(2)
    whole = filled(terms)[place]
    begun = filled(terms, NAMES[:2])[place]
    begun.lose(ClientId("gone"), "sent nothing")
    server = server_of(terms, place)
    server.resume(begun.stored())
    assert server.received == set(NAMES[:2])
    assert server.lost == {ClientId("gone"): "sent nothing"}
    refused(server, NAMES[0], sent(NAMES[0], terms)[place], "one share of a client")
    for name in NAMES[2:]:
        server.receive(name, sent(name, terms)[place])
    assert server.total(NAMES).values.tolist() == whole.total(NAMES).values.tolist()


def test_a_server_does_not_go_on_from_what_is_not_its_own() -> None:
    terms = terms_of(2)
    stored = filled(terms)[0].stored()
    for server in (server_of(terms, 1), server_of(replace(terms, context=b"round 2"), 0)):
        with pytest.raises(Error, match="of another sum"):
            server.resume(stored)
    with pytest.raises(Error, match="resume first"):
        filled(terms)[0].resume(stored)
    with pytest.raises(Error, match="damaged"):
        server_of(terms, 0).resume(stored[:-3])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"servers": (bytes(range(32)),)}, "1 servers"),
        ({"servers": tuple(bytes([n]) * 32 for n in range(4))}, "4 servers"),
        ({"servers": (bytes(range(32)),) * 2}, "1 of them different"),
        ({"servers": (bytes(32), bytes(31))}, "31"),
        ({"dtype": "float64"}, "float64"),
        ({"dtype": "int32"}, "int32"),
        ({"dim": 0}, "not empty"),
        ({"fewest": 1}, "the vector of one"),
    ],
)
def test_terms_that_hide_nothing_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(PlanError, match=match):
        terms_of(2, **fields)


def test_a_server_has_its_own_key_only() -> None:
    terms, keys = terms_of(2), server_keys(2)
    for place, key in ((0, keys[1]), (2, keys[0]), (-1, keys[1])):
        with pytest.raises(PlanError, match="each server keeps its own"):
            ShareServer(terms, place, key=key, roster=ROSTER)


def test_a_vector_that_is_not_of_the_terms_is_not_split() -> None:
    terms = terms_of(2)
    for wrong in (np.zeros(DIM), np.zeros(DIM + 1, np.uint32), np.zeros((1, DIM), np.uint32)):
        with pytest.raises(Error, match=r"its shares are uint32 \(8,\)"):
            sent(NAMES[0], terms, wrong)
    with pytest.raises(Error, match="each server but the first"):
        hidden_words(np.zeros(DIM, np.uint32), [])


def test_a_server_key_of_low_order_is_refused_by_the_client() -> None:
    terms = terms_of(2, servers=(bytes(32), server_keys(2)[1].public))
    with pytest.raises(Error, match="low order"):
        sent(NAMES[0], terms)


def test_splitting_leaves_the_vector_as_it_was() -> None:
    terms = terms_of(3)
    values = values_of(NAMES[0], terms)
    values.setflags(write=False)
    before = values.copy()
    sent(NAMES[0], terms, values)
    assert values.tolist() == before.tolist()
