"""Secrets: published and pinned words, one stream for one path, and nothing that shows or copies the content."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.keys import Key, Keys, SecretKey
from fedloom.entropy.secret import Secret, derived_secret, fill_keystream, fresh_secret, secret_of
from fedloom.errors import Error

VECTORS = Path(__file__).parents[1] / "vectors"
quick = settings(max_examples=50, derandomize=True, database=None, deadline=None)
steps = st.lists(st.text(max_size=4) | st.integers(-(2**70), 2**70), max_size=4)
STORED = bytes(range(32))


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def test_the_keystream_is_that_of_nist_sp_800_38a() -> None:
    known = vectors("aes_ctr_sp800_38a.json")
    plain = bytes.fromhex(known["plaintext"])
    stream = bytearray(len(plain))
    fill_keystream(memoryview(stream), key=bytes.fromhex(known["key"]), counter=bytes.fromhex(known["counter"]))
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=True)).hex() == known["ciphertext"]


@pytest.mark.parametrize("case", vectors("secret_streams.json")["cases"], ids=lambda case: str(case["path"]))
def test_words_are_those_that_were_recorded(case: dict[str, Any]) -> None:
    """A party that resumes must draw these again: a change is a new version of the derivation."""
    secret = secret_of(bytes.fromhex(case["stored"])).child(*case["path"])
    assert [f"{word:016x}" for word in secret.random_raw(4).tolist()] == case["words"]
    assert hashlib.sha256(secret.random_bytes(2**20)).hexdigest() == case["sha256_of_1_MiB"]


def test_a_derived_secret_gives_the_words_that_were_recorded() -> None:
    known = vectors("secret_streams.json")["derived"]
    secret = derived_secret(Key.from_seed(known["seed"])).child(*known["path"])
    assert [f"{word:016x}" for word in secret.random_raw(4).tolist()] == known["words"]


def test_the_derivation_is_the_documented_one() -> None:
    """Written a second time, from the primitives: a step is keyed BLAKE2b, the words are AES-256 in counter mode."""

    def step(key: bytes, data: bytes, person: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32, key=key, person=person).digest()

    key = step(step(STORED, b"s5:noise", b"fedloom/step/1"), b"i2:-3", b"fedloom/step/1")
    cipher = Cipher(algorithms.AES(step(key, b"", b"fedloom/words/1")), modes.CTR(bytes(16))).encryptor()
    assert secret_of(STORED).child("noise", -3).random_bytes(100) == cipher.update(bytes(100))


@quick
@given(steps, steps)
def test_two_paths_are_one_stream_only_if_their_steps_are_equal(left: list[str | int], right: list[str | int]) -> None:
    root = secret_of(STORED)
    equal = [(type(step), step) for step in left] == [(type(step), step) for step in right]
    assert (root.child(*left).random_bytes(32) == root.child(*right).random_bytes(32)) == equal


@quick
@given(steps, steps)
def test_a_child_of_a_child_is_the_child_of_the_whole_path(left: list[str | int], right: list[str | int]) -> None:
    root = secret_of(STORED)
    assert root.child(*left).child(*right).random_bytes(16) == root.child(*left, *right).random_bytes(16)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((1,), ("1",)),
        (("ab", "c"), ("a", "bc")),
        (("a1:b",), ("a", "b")),
        ((12, 3), (1, 23)),
        (("",), ()),
        ((-1,), (1,)),
    ],
)
def test_paths_that_look_alike_are_different(left: tuple[str | int, ...], right: tuple[str | int, ...]) -> None:
    root = secret_of(STORED)
    assert root.child(*left).random_bytes(16) != root.child(*right).random_bytes(16)


@pytest.mark.parametrize("count", [0, 1, 7, 2**15 - 1, 2**15, 2**15 + 1, 3 * 2**15 + 5])
def test_a_stream_starts_alike_however_much_is_drawn(count: int) -> None:
    """2**15 words are one piece of zeros: the keystream goes on over its end."""
    secret = secret_of(STORED).child("piece")
    longest = secret.random_raw(4 * 2**15)
    words = secret.random_raw(count)
    assert words.dtype == np.uint64
    assert np.array_equal(words, longest[:count])
    assert secret.random_bytes(8 * count) == longest[:count].astype("<u8").tobytes()


def test_filling_overwrites_what_was_there() -> None:
    buffer = np.full(5, 2**64 - 1, "<u8")
    secret_of(STORED).fill(buffer.data)
    assert np.array_equal(buffer, secret_of(STORED).random_raw(5))


def test_fresh_secrets_differ_and_are_not_derived() -> None:
    left, right = fresh_secret(), fresh_secret()
    assert left.random_bytes(16) != right.random_bytes(16)
    assert not left.derived
    assert not left.child("noise").derived


def test_derived_secrets_say_so_below_as_well_and_are_not_stored() -> None:
    secret: SecretKey = derived_secret(Key.from_seed(7))
    assert secret.derived
    assert derived_secret(Key.from_seed(7)).child("round", 3).derived
    with pytest.raises(Error, match="derived"):
        derived_secret(Key.from_seed(7)).stored()
    assert derived_secret(Key.from_seed(8)).random_bytes(16) != derived_secret(Key.from_seed(7)).random_bytes(16)


def test_a_stored_secret_gives_the_same_streams_again() -> None:
    owner = fresh_secret()
    assert len(owner.stored()) == 32
    assert secret_of(owner.stored()).child("x").random_bytes(32) == owner.child("x").random_bytes(32)
    child = owner.child("round", 3)
    assert secret_of(child.stored()).random_bytes(32) == child.random_bytes(32)


@pytest.mark.parametrize("stored", [b"", b"short", bytes(range(31)), bytes(range(33)), bytes(32), b"ab" * 16])
def test_what_is_no_stored_secret_is_refused(stored: bytes) -> None:
    with pytest.raises(Error, match="stored secret is 32 bytes"):
        secret_of(stored)


def test_a_password_is_no_secret() -> None:
    with pytest.raises(TypeError):
        secret_of("correct horse battery staple 123")  # type: ignore[arg-type]


@dataclasses.dataclass
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "act",
    [
        lambda secret: secret == secret,  # noqa: PLR0124
        lambda secret: secret != STORED,
        [STORED].index,
        hash,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        lambda secret: pickle.dumps(Holder(secret), protocol=5),
        lambda secret: dataclasses.asdict(Holder(secret)),
        msgspec.msgpack.encode,
        json.dumps,
        bytes,
        vars,
    ],
)
def test_a_secret_refuses_to_be_compared_copied_or_sent(act: Any) -> None:
    with pytest.raises((Error, TypeError)):
        act(secret_of(STORED))


def test_a_secret_never_prints() -> None:
    secret = secret_of(STORED)
    shown = f"{secret} {secret!r} {secret!s} {[secret]} {Holder(secret)} {Keys(Key.from_seed(1), secret)}"
    assert shown.count("<secret>") == 6
    assert "x02" not in shown
    with pytest.raises(Error) as caught:
        secret_of(STORED[:31])
    assert "x02" not in str(caught.value)


def test_threads_draw_the_same_words() -> None:
    secret = secret_of(STORED)
    drawn: list[bytes] = []
    threads = [threading.Thread(target=lambda: drawn.append(secret.random_bytes(100_000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(drawn) == {secret.random_bytes(100_000)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_draws_the_same_words() -> None:
    secret = fresh_secret()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, secret.child("x").random_bytes(64))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == secret.child("x").random_bytes(64)
    assert os.waitpid(child, 0)[1] == 0
