"""JSON that is what the standard says: files of strangers get no leeway."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# A parsed value may take far more memory than its text. A tensor's entry in a header has 3 brackets and 5 commas or so
# in 55 bytes at the very least; files below FREE bytes may look as they like.
FREE = 1_000_000
BYTES_PER_BRACKET = 18
BYTES_PER_COMMA = 10

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON, refusing NaN and Infinity, a name given twice in one object, and endless nesting.

    Refused too are halves of a surrogate pair, which no text can hold, and what would take much memory.

    Raises:
        ValueError: With what is wrong and where.
    """
    if len(data) > FREE and (
        (data.count(b"{") + data.count(b"[")) * BYTES_PER_BRACKET > len(data)
        or data.count(b",") * BYTES_PER_COMMA > len(data)
    ):
        raise ValueError("it holds far more lists or objects than a checkpoint of its size has")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant)
        if not _each_name_is_kept(value, data):
            value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        if b"\\u" in data and _HALF_CHARACTER.search(data):
            _check_text(value)
        return value
    except UnicodeEncodeError as error:
        raise ValueError(f"{ascii(error.object)[:80]} is not valid text (half a surrogate pair)") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each_name_is_kept(value: object, data: bytes) -> bool:
    """Whether the text of an object of objects has no more names than the parsed value, so that none stood twice.

    To look at every pair while parsing takes half as long again. In a text without white space the colon of each pair
    follows a quote, so there are at most as many pairs as `":`. False says nothing.
    """
    text = data.rstrip()  # once: of a padded header this is a copy
    if type(value) is not dict or any(space in text for space in (b" ", b"\t", b"\r", b"\n")):
        return False
    inner = [one for one in value.values() if type(one) is dict]
    if data.count(b"{") != 1 + len(inner):  # objects deeper down, or a brace in a name
        return False
    return data.count(b'":') == len(value) + sum(map(len, inner))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{name[:200]!r} stands twice in one object")
            seen.add(name)
    return result


def _check_text(value: object) -> None:
    rest = [value]
    while rest:
        value = rest.pop()
        if type(value) is str:
            value.encode()
        elif type(value) is dict:
            rest += value.keys()
            rest += value.values()
        elif type(value) is list:
            rest += value


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")
