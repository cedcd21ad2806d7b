"""Names that stand twice are found whether or not the quick look at a header can rule them out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptmap.formats import strict_json

NAMES = st.text(alphabet='ab":{}\\ ,é\t', max_size=3)
INNER = st.lists(st.tuples(NAMES, NAMES | st.integers(0, 9) | st.lists(NAMES, max_size=2)), max_size=3)
OUTER = st.lists(st.tuples(NAMES, INNER), max_size=4)
Pairs = list[tuple[str, object]]


def text_of(pairs: Pairs, colon: str) -> str:
    return "{" + ",".join(json.dumps(name) + colon + value for name, value in pairs) + "}"


@given(OUTER, st.sampled_from([":", ": ", " :", "\n:"]))
def test_a_name_that_stands_twice_is_refused_and_nothing_else(outer: list[tuple[str, Pairs]], colon: str) -> None:
    objects = [(name, text_of([(key, json.dumps(value)) for key, value in inner], colon)) for name, inner in outer]
    twice = any(len(dict(pairs)) < len(pairs) for pairs in [outer, *(inner for _, inner in outer)])
    text = text_of(objects, colon)
    if not twice:
        assert strict_json.loads(text.encode()) == json.loads(text)
        return
    with pytest.raises(ValueError, match="stands twice in one object"):
        strict_json.loads(text.encode())


@pytest.mark.parametrize("text", ['{"a":{"b":[{"c":1,"c":2}]}}', '{"a":1,"a":2}', '{"a":{"x\\":y":1,"b":2,"b":3}}'])
def test_names_twice_in_places_that_headers_do_not_have(text: str) -> None:
    with pytest.raises(ValueError, match="stands twice"):
        strict_json.loads(text.encode())
