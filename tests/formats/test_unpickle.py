from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptmap.errors import CheckpointError
from ckptmap.formats.pickled import Global, LongString, Made, OddKey
from ckptmap.formats.torch_globals import KNOWN
from ckptmap.formats.torch_tensors import StorageType, Tensor, make_storage
from ckptmap.formats.unpickle import TruncatedPickleError, unpickle


def load(data: bytes, **options: object) -> object:
    value, end = unpickle(data, known=KNOWN, source="file", **options)
    assert end == len(data)
    return value


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-(2**61), 2**61) | st.none(), inner)
    ),
    max_leaves=20,
)


@given(PLAIN, st.integers(2, 5))
def test_plain_values_are_read_as_they_are(value, protocol):
    # Below protocol 3 bytes are written as a call of _codecs.encode, which stays a record.
    if protocol >= 3:
        assert load(pickle.dumps(value, protocol)) == value
    else:
        load(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol):
    value = {"a": [1, 2.5, -3, 1 << 70, True, None, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "b": "text"}
    assert load(pickle.dumps(value, protocol)) == value


def test_shared_and_cyclic_values_stay_so():
    shared = [1]
    cyclic = [shared, shared]
    cyclic.append(cyclic)
    read = load(pickle.dumps(cyclic))
    assert read[0] is read[1] and read[2] is read


def test_unknown_objects_are_recorded():
    read = load(pickle.dumps(argparse.Namespace(lr=0.1)))
    assert type(read) is Made and read.kind == Global("argparse", "Namespace")
    assert read.states == [{"lr": 0.1}]
    read = load(pickle.dumps(pathlib.PurePosixPath("/a/b")))
    assert read.kind == Global("pathlib", "PurePosixPath") and "a" in read.args
    read = load(pickle.dumps(Fraction(1, 3)))
    assert read.kind == Global("fractions", "Fraction")
    assert load(pickle.dumps({1, 2})).kind == Global("builtins", "set")
    assert load(pickle.dumps(print)) == Global("builtins", "print")


class Filled(list):
    pass


class Named(dict):
    pass


def test_what_is_put_into_unknown_containers_is_kept():
    assert load(pickle.dumps(Filled([1, 2]))).appended == [1, 2]
    assert load(pickle.dumps(Named(a=1))).entries == {"a": 1}


def test_known_containers():
    assert load(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}
    assert load(pickle.dumps(collections.defaultdict(list, a=1))) == {"a": 1}


def test_old_ordered_dicts_are_made_from_pairs():
    data = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R."
    assert load(data) == {"a": 1, "b": 2}


def test_keys_that_would_be_hashed_at_length_are_wrapped():
    (key,) = load(pickle.dumps({(1, 2): 3}))
    assert type(key) is OddKey and key.key == (1, 2)


def test_long_strings_are_not_kept():
    assert load(pickle.dumps("x" * 100_000)) == LongString(100_000)
    assert load(pickle.dumps(b"x" * 100_000)) == LongString(100_000)


def test_storage_types_and_dtypes_are_values():
    assert type(load(b"ctorch\nFloatStorage\n.")) is StorageType
    assert load(b"ctorch\nbfloat16\n.").name == "BF16"


def tensor_pickle(args: tuple[object, ...]) -> bytes:
    pickled = b"".join(pickle.dumps(arg, 2)[2:-1] for arg in args)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor\n(\x8c\x01sQ" + pickled + b"tR."


def load_tensor(*args: object) -> Tensor:
    storage = make_storage(KNOWN["torch", "FloatStorage"], "0", 8)
    return load(tensor_pickle(args), persistent=lambda saved_id: storage)


def test_a_tensor():
    tensor = load_tensor(2, (3,), (1,))
    assert (tensor.offset, tensor.shape, tensor.extent) == (2, (3,), (8, 12))


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ((-1, (3,), (1,)), "offset is -1"),
        ((0, (-3,), (1,)), "shape holds something"),
        ((0, (3,), (-1,)), "strides holds something"),
        ((0, (3,), ()), "1 dimensions but 0 strides"),
        ((0, (True,), (1,)), "shape holds something"),
        ((0, (2**62, 4), (1, 1)), "more elements than 63 bits"),
        ((0, (2**63,), (1,)), "shape holds something"),
        ((0, (1,) * 100, (1,) * 100), "at most 64"),
        ((0, "abc", (1,)), "no tuple"),
        ((0, (3,)), "not enough values"),
    ],
)
def test_impossible_tensors_are_refused(args, problem):
    with pytest.raises(CheckpointError, match=f"file: pickle byte [0-9]+: .*{problem}"):
        load_tensor(*args)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x02", b"\x80\x02}", b"X\x05\x00\x00\x00ab", b"\x8a\x05a", b"cos"]
)
def test_the_end_of_the_data_is_told_from_damage(data):
    with pytest.raises(TruncatedPickleError, match="cut off"):
        load(data)


@pytest.mark.parametrize(
    "data", [b"R.", b"0.", b"\xff.", b"t.", b"h\x05.", b"Na.", b"}Na..", b"\x82\x01.", b"Q.", b"N\x93."]
)
def test_damage_says_where(data):
    with pytest.raises(CheckpointError, match="pickle byte"):
        load(data + b"........")
