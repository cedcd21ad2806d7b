"""What a pickle would do if it were loaded: calls and classes by name, told apart without running or importing any.

A pickle names functions and classes, and says what to call with what. Loading it without `weights_only` imports and
calls them all. So what is not known to be harmless is reported: a short list is known, and everything else is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

from ckptmap.errors import CheckpointError
from ckptmap.formats.base import Contents
from ckptmap.formats.findings import Finding, Level, danger_sentence
from ckptmap.formats.pickle_machine import Machine
from ckptmap.formats.pickled import Builder, Foreign, Global, LongString, Made, OddKey

LOAD_FROM_BYTES = "torch.storage._load_from_bytes"
MOST_SHOWN = 160
MOST_FINDINGS = 100
_DEEPEST = 5

_PLAIN = (
    *("set", "frozenset", "list", "tuple", "slice", "range", "xrange", "complex", "object", "int", "long", "float"),
    *("bool", "str", "unicode", "bytes", "bytearray", "dict", "type"),
)
HARMLESS = frozenset(
    {
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _PLAIN),
        *(f"collections.{name}" for name in ("OrderedDict", "defaultdict", "deque", "Counter", "ChainMap")),
        *("argparse.Namespace", "types.SimpleNamespace", "fractions.Fraction", "decimal.Decimal", "uuid.UUID"),
        *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
        *("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "_codecs.encode"),
        *("enum.Enum", "enum.IntEnum", "enum.auto"),
        *(f"numpy.{name}" for name in ("dtype", "ndarray", "bool_", "float32", "float64", "int32", "int64")),
        *(f"numpy{core}.multiarray.{name}" for core in (".core", "._core") for name in ("scalar", "_reconstruct")),
        *(f"numpy{core}.numeric._frombuffer" for core in (".core", "._core")),
        *("numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor"),
        *("numpy.random._pickle.__bit_generator_ctor",),
        *(f"torch.{name}" for name in ("device", "Size", "Tensor", "dtype", "layout", "memory_format", "Generator")),
        *("torch._C._TensorMeta", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
        *("torch.serialization._get_layout", "torch._utils._rebuild_parameter"),
        *("torch.distributed._tensor.api.DTensor", "torch.distributed.tensor.DTensor"),
        "torch.lazily conjugated or negated tensor",
    }
)
"""Functions and classes that only hold data, whatever they are given. Source: their documentation in Python 3.11, NumPy
2.4 and torch 2.13; `_codecs.encode` is how protocol 2 writes bytes."""

_HARMLESS_PLACES = ("torch.nn.modules.", "torch.distributed.checkpoint.", "torch.optim.")
"""Modules whose classes, as long as they are classes, hold data; torch is imported by whoever loads the file anyway."""


class Watch:
    """Gathers what the pickles of one file would do."""

    def __init__(self) -> None:
        self._findings: dict[Finding, None] = {}
        self.unread: str | None = None
        """What was not looked into, if anything."""

    def saw(self, machine: Machine, where: str) -> None:
        """Add what a machine came across, whether or not it came to its end."""
        if not machine.foreign and all(type(named) is not Global for named in machine.globals.values()):
            return
        called = set()
        for foreign in machine.foreign:
            called.add(str(foreign.target))
            self._add(_level_of_call(foreign), _call_text(foreign), where)
        for named in machine.globals.values():
            if type(named) is Global and str(named) not in called and (level := level_of(named)) != "harmless":
                # To name a function is not to call it, unless it is one that nobody keeps in a checkpoint.
                self._add(level if _is_tool(named) else "unknown", f"names {named}", where)

    def inside(self, machine: Machine) -> Iterator[bytes]:
        """Pickles within a pickle; those that were too long to keep are told."""
        for foreign in machine.foreign:
            if str(foreign.target) == LOAD_FROM_BYTES and type(foreign.args) is tuple:
                data = _bytes(foreign.args[0]) if len(foreign.args) == 1 else None
                if isinstance(data, bytes) and data[:1] == b"\x80":
                    yield data
                elif type(data) is LongString:
                    self.unread = f"a pickle of {data.length:,} bytes inside of it is not looked into"
                else:
                    self._add("dangerous", _call_text(foreign), "")

    def too_deep(self, depth: int, where: str) -> None:
        """Add that a pickle stands in so many others that it is not looked into; nobody does so without a reason."""
        self._add("dangerous", f"{LOAD_FROM_BYTES}(…), more than {depth} deep within one another", where)

    def _add(self, level: Level, what: str, where: str) -> None:
        kept = sum(finding.level == level for finding in self._findings)
        if kept < MOST_FINDINGS:
            self._findings.setdefault(Finding(level, what, where))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the worst first."""
        order = ("dangerous", "unknown", "harmless")
        return tuple(sorted(self._findings, key=lambda finding: order.index(finding.level)))


def watched(read: Callable[[Watch], Contents]) -> Contents:
    """What is read, with what loading it would do; a danger is the first thing that is said, in an error too."""
    watch = Watch()
    try:
        contents = read(watch)
    except CheckpointError as error:
        sentence = danger_sentence(watch.findings)
        if sentence is None:
            raise
        raise CheckpointError(f"{sentence}. {error.problem}", source=error.source, where=error.where) from None
    sentence = danger_sentence(watch.findings)
    warnings = contents.warnings if sentence is None else (sentence, *contents.warnings)
    return replace(contents, findings=watch.findings, warnings=warnings)


def level_of(named: Global) -> Level:
    """How bad it is to call a function or class of this name, whatever it is given."""
    full, last = str(named), named.name.rpartition(".")[2]
    if full in HARMLESS or (full.startswith("torch._utils._rebuild_") and "." not in named.name):
        return "harmless"
    if not _is_class_name(named.name):
        return "dangerous"
    if full.startswith(_HARMLESS_PLACES):
        return "harmless"
    return "dangerous" if _is_tool(named) or last == "CDLL" else "unknown"


def _is_tool(named: Global) -> bool:
    """Whether it is of Python's own library, or reached through another module: `torch` with `os.system`."""
    return any(part in _STANDARD for part in (named.module.partition(".")[0], *named.name.split(".")[:-1]))


_STANDARD = frozenset(sys.stdlib_module_names) | {"__builtin__", "__builtins__", "commands", "posix", "nt", "copy_reg"}


def _is_class_name(name: str) -> bool:
    return all(part.lstrip("_")[:1].isupper() and part.isidentifier() for part in name.split("."))


def _level_of_call(foreign: Foreign) -> Level:
    target = foreign.target
    if foreign.how == "handed" and type(foreign.args) is tuple and type(foreign.args[0]) is Global:
        return level_of(foreign.args[0])
    if type(target) is not Global:  # an extension, or whatever a call before gave
        return "dangerous"
    if foreign.how == "new" and level_of(target) == "dangerous" and not _is_tool(target):
        return "unknown"  # a class with a name like a function's: of a function this would fail
    name = str(target)
    if name == LOAD_FROM_BYTES:
        return "harmless"  # what it loads is looked into
    if name in ("builtins.getattr", "__builtin__.getattr") and _is_member(foreign.args):
        return "unknown"  # how Python pickles members of an enum
    if name == "_codecs.encode":
        plain = type(foreign.args) is tuple and foreign.args[1:] in ((), ("latin1",), ("latin-1",))
        return "harmless" if plain else "dangerous"
    if name.endswith("_reconstructor") or name == "copyreg.__newobj__":
        made = foreign.args[0] if type(foreign.args) is tuple and foreign.args else None
        return level_of(made) if type(made) is Global else "harmless" if type(made) is not Made else "dangerous"
    return level_of(target)


def _is_member(args: object) -> bool:
    if type(args) is not tuple or len(args) != 2 or type(args[0]) is not Global or type(args[1]) is not str:
        return False
    return _is_class_name(args[0].name) and not _is_tool(args[0]) and args[1].isidentifier() and args[1].isupper()


def _call_text(foreign: Foreign) -> str:
    if foreign.how == "extension":
        return f"a registered extension, number {foreign.args}"
    args = foreign.args
    given = ", ".join(_text(one, 1) for one in args) if type(args) is tuple else _text(args, 1)
    return _short(f"{_text(foreign.target, 1)}({given})")


def _text(value: object, depth: int) -> str:
    """A value of a pickle as a person would write it, cut short."""
    if depth > _DEEPEST:
        return "…"
    if type(value) is Global:
        return str(value)
    if type(value) is Builder:
        return str(value.stands_for)
    if type(value) is Made:
        args = value.args if type(value.args) is tuple else (value.args,)
        return _short(f"{_text(value.kind, depth + 1)}({', '.join(_text(one, depth + 1) for one in args[:4])})")
    if isinstance(value, str | bytes):
        return _short(repr(value[:MOST_SHOWN]))
    if type(value) is LongString:
        return f"<{value.length:,} bytes>"
    if type(value) is OddKey:
        return _text(value.key, depth + 1)
    if isinstance(value, list | tuple):
        inside = ", ".join(_text(one, depth + 1) for one in value[:4]) + (", …" if len(value) > 4 else "")
        return _short(f"[{inside}]" if type(value) is list else f"({inside})")
    if isinstance(value, dict):
        pairs = [f"{_text(key, depth + 1)}: {_text(one, depth + 1)}" for key, one in list(value.items())[:3]]
        return _short("{" + ", ".join(pairs) + (", …" if len(value) > 3 else "") + "}")
    return _short(repr(value)) if isinstance(value, int | float | bool | type(None)) else type(value).__name__


def _bytes(value: object) -> object:
    """Bytes as protocols below 3 write them, which have none."""
    if type(value) is Made and str(value.kind) == "_codecs.encode" and type(value.args) is tuple and value.args:
        text = value.args[0]
        return text.encode("latin-1", "replace") if type(text) is str else text
    return value


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
