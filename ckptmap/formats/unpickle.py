"""Reads pickles without importing or running anything: every object becomes one of a few inert records."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from ckptmap.errors import CheckpointError
from ckptmap.formats.pickle_machine import CutOffError, Known, Machine
from ckptmap.formats.safety import Watch
from ckptmap.formats.torch_globals import WITHOUT_TENSORS

MAX_PICKLE_BYTES = 64 * 1024 * 1024
MOST_INSIDE = 4
"""How deep pickles may stand in pickles; one deeper is called dangerous."""
MOST_PICKLES = 1000
"""Pickles that stand one after another in a file."""
# Source: torch 2.13, torch/serialization.py, MAGIC_NUMBER, and _legacy_save: magic number, protocol, system, object and
# keys are pickles; the storages that follow them are raw bytes.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5


class TruncatedPickleError(CheckpointError):
    """The pickle goes on after the bytes at hand."""


def refuse_persistent_id(saved_id: object) -> object:
    """The persistent ids of a pickle that may not have any."""
    raise ValueError("it refers to data outside of itself (a persistent id), which is not expected here")


def unpickle(
    data: bytes,
    *,
    known: Known,
    persistent: Callable[[object], object] = refuse_persistent_id,
    source: str,
    watch: Watch | None = None,
    where: str = "",
) -> tuple[object, int]:
    """The object pickled in `data`, made of inert records, and the byte after its end.

    Args:
        data: The pickle, and what may follow it.
        known: What stands for globals that are allowed.
        persistent: What stands for persistent ids.
        source: The file, for messages.
        watch: Gathers what loading it would do.
        where: The pickle's name in the file, for the watch.

    Raises:
        TruncatedPickleError: The data ends before the pickle does.
        CheckpointError: It is no pickle, or breaks a limit.
    """
    machine = Machine(data, known, persistent)
    return _run(machine, source) if watch is None else _run_watched(machine, source, watch, where)


def watch_all(data: bytes, *, watch: Watch, where: str, source: str = "", depth: int = 0) -> int:
    """Watch the pickles that stand one after another, and those inside of them; no tensor is made of them.

    Args:
        data: The pickles, and what may follow them.
        watch: Gathers what loading them would do.
        where: Their name in the file, for the watch.
        source: The file, for messages.
        depth: In how many pickles they stand.

    Returns:
        How many there were.

    Raises:
        CheckpointError: Not all of them could be read; what was seen before is in the watch.
    """
    position, legacy = 0, False
    for number in range(MOST_PICKLES):
        machine = Machine(data, WITHOUT_TENSORS, lambda saved_id: None)
        machine.position = position
        try:
            value, position = _run_watched(machine, source, watch, where, depth)
        except CheckpointError:
            if legacy and number >= _LEGACY_PICKLES:
                return number  # a storage whose size looks like the start of a pickle
            raise
        legacy = legacy or (number == 0 and type(value) is int and value == LEGACY_MAGIC)
        if data[position : position + 1] != b"\x80":
            return number + 1
    raise CheckpointError(f"more than {MOST_PICKLES:,} pickles stand one after another", source=source)


def _run_watched(machine: Machine, source: str, watch: Watch, where: str, depth: int = 0) -> tuple[object, int]:
    """Run it; what it came across is in the watch, whether or not it came to its end."""
    try:
        return _run(machine, source)
    finally:
        watch.saw(machine, where)
        _look_inside(machine, watch, where, depth)


def _look_inside(machine: Machine, watch: Watch, where: str, depth: int) -> None:
    """Watch pickles that a pickle holds as bytes and torch would load: tensors that were pickled without torch.save.

    Source: torch 2.13, torch/storage.py, `_load_from_bytes`, and `__reduce__`, which writes the old format.
    """
    for data in watch.inside(machine):
        if depth == MOST_INSIDE:
            watch.too_deep(depth, where)
            continue
        try:
            watch_all(data, watch=watch, where=where, depth=depth + 1)
        except CheckpointError as error:
            watch.unread = f"a pickle inside of it: {error.problem}"


def _run(machine: Machine, source: str) -> tuple[object, int]:
    try:
        return machine.run(_HANDLERS), machine.position
    except CheckpointError as error:
        raise CheckpointError(error.problem, source=source, where=error.where) from None
    except (IndexError, struct.error) as error:
        if machine.position >= len(machine.data) or isinstance(error, struct.error):
            raise TruncatedPickleError("the pickle is cut off; download the file again", source=source) from None
        raise _broken(machine, source, "it takes more from its stack than there is") from None
    except CutOffError:
        raise TruncatedPickleError("the pickle is cut off; download the file again", source=source) from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise _broken(machine, source, str(error) or type(error).__name__) from None


def _broken(machine: Machine, source: str, what: str) -> CheckpointError:
    where = f"pickle byte {machine.position}"
    return CheckpointError(f"the pickle cannot be read: {what[:300]}", source=source, where=where)


_U1, _U2, _U4, _U8 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_I4 = struct.Struct("<i")
_F8 = struct.Struct(">d")


def _push(value: object) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _float(machine: Machine) -> None:
    machine.stack.append(_F8.unpack_from(machine.data, machine.position)[0])
    machine.position += _F8.size


_OPCODES: Mapping[str, Callable[[Machine], None]] = {
    "N": _push(None),
    "\x88": _push(True),
    "\x89": _push(False),
    ")": _push(()),
    "]": Machine.op_new_list,
    "}": Machine.op_new_dict,
    "\x8f": Machine.op_new_set,
    "l": Machine.op_list,
    "d": Machine.op_dict,
    "\x91": Machine.op_frozenset,
    "t": Machine.op_tuple,
    "\x85": lambda machine: machine.short_tuple(1),
    "\x86": lambda machine: machine.short_tuple(2),
    "\x87": lambda machine: machine.short_tuple(3),
    "a": Machine.op_append,
    "e": Machine.op_appends,
    "\x90": Machine.op_appends,
    "s": Machine.op_setitem,
    "u": Machine.op_setitems,
    "X": lambda machine: machine.text(machine.number(_U4)),
    "\x8c": lambda machine: machine.text(machine.number(_U1)),
    "\x8d": lambda machine: machine.text(machine.number(_U8)),
    "B": lambda machine: machine.raw(machine.number(_U4)),
    "C": lambda machine: machine.raw(machine.number(_U1)),
    "\x8e": lambda machine: machine.raw(machine.number(_U8)),
    "\x96": lambda machine: machine.raw(machine.number(_U8)),
    "T": lambda machine: machine.old_string(machine.number(_I4)),
    "U": lambda machine: machine.old_string(machine.number(_U1)),
    "V": lambda machine: machine.stack.append(machine.line("raw-unicode-escape")),
    "S": Machine.op_string_text,
    "I": Machine.op_int_text,
    "L": Machine.op_int_text,
    "F": lambda machine: machine.stack.append(float(machine.line())),
    "J": lambda machine: machine.stack.append(machine.number(_I4)),
    "M": lambda machine: machine.stack.append(machine.number(_U2)),
    "G": _float,
    "\x8a": lambda machine: machine.integer(machine.number(_U1)),
    "\x8b": lambda machine: machine.integer(machine.number(_I4)),
    "c": Machine.op_global,
    "\x93": Machine.op_stack_global,
    "R": Machine.op_reduce,
    "\x81": lambda machine: machine.op_reduce("new"),
    "\x92": Machine.op_newobj_ex,
    "i": Machine.op_inst,
    "o": Machine.op_obj,
    "b": Machine.op_build,
    "Q": Machine.op_persistent_id,
    "P": Machine.op_text_persistent_id,
    "j": lambda machine: machine.stack.append(machine.get(machine.number(_U4))),
    "g": Machine.op_get_text,
    "p": Machine.op_put_text,
    "\x94": Machine.op_memoize,
    "0": Machine.op_pop,
    "1": lambda machine: machine.drop_group(),
    "2": lambda machine: machine.stack.append(machine.stack[-1]),
    "\x80": lambda machine: machine.skip(1),
    "\x95": lambda machine: machine.skip(8),
}
_HANDLERS = [_OPCODES.get(chr(opcode), Machine.op_refused) for opcode in range(256)]
