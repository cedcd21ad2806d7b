"""The pickle machine: the opcodes of protocols 0 to 5, made inert and bounded."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from ckptmap.formats.pickle_limits import (
    MAX_ALIKE,
    MAX_CALLS,
    MAX_CONTAINERS,
    MAX_INTEGER_BYTES,
    MAX_ITEMS,
    MAX_KEPT_STRING,
    MAX_LINE,
    MAX_MARKS,
    MAX_OPCODES,
    MAX_SPARSE_MEMO,
    MAX_STACK,
    MAX_WIDE_CHARACTERS,
)
from ckptmap.formats.pickled import SET, Builder, Foreign, Global, How, LongString, Made, dict_key

_CHECK_EVERY = 1 << 14
_U4 = struct.Struct("<I")

Known = Mapping[tuple[str, str], object]
"""Allowed globals by exact (module, name): a Builder, or an inert value to put in its place."""


class CutOffError(Exception):
    """Fewer bytes are left than an opcode needs."""


class Machine:
    """The pickle machine, protocols 0 to 5. Source: CPython 3.11, Lib/pickletools.py, the opcode descriptions."""

    def __init__(self, data: bytes, known: Known, persistent: Callable[[object], object]) -> None:
        self.data = data
        self.position = 0
        self.known = known
        self.persistent = persistent
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: list[object] = []
        self.sparse_memo: dict[int, object] = {}
        self.globals: dict[tuple[str, str], object] = {}
        self.foreign: list[Foreign] = []
        self.alike: dict[object, int] = {}
        self.items = self.containers = self.calls = self.wide_characters = 0

    def run(self, handlers: Sequence[Callable[[Machine], None]]) -> object:
        """The unpickled object, or a machine stopped at a fault. `handlers` is what each opcode does.

        The commonest opcodes are handled in place: a call each would take twice the time.
        """
        data, stack, memo, marks = self.data, self.stack, self.memo, self.marks
        sparse_memo, unpack_u4 = self.sparse_memo, _U4.unpack_from
        position = self.position
        try:
            for _ in range(MAX_OPCODES // _CHECK_EVERY):
                self.count_items(0)
                if len(marks) > MAX_MARKS:
                    raise ValueError(f"more than {MAX_MARKS:,} groups are open at once")
                if len(stack) > MAX_STACK:
                    raise ValueError(f"more than {MAX_STACK:,} values are on its stack at once")
                for _ in range(_CHECK_EVERY):
                    opcode = data[position]
                    position += 1
                    if opcode == 0x72:  # LONG_BINPUT
                        (index,) = unpack_u4(data, position)
                        position += 4
                        if index == len(memo) and not sparse_memo:
                            memo.append(stack[-1])
                        else:
                            self.put(index, stack[-1])
                    elif opcode == 0x71:  # BINPUT
                        self.put(data[position], stack[-1])
                        position += 1
                    elif opcode == 0x68:  # BINGET
                        index = data[position]
                        stack.append(memo[index] if index < len(memo) else self.get(index))
                        position += 1
                    elif opcode == 0x4B:  # BININT1
                        stack.append(data[position])
                        position += 1
                    elif opcode == 0x28:  # MARK
                        marks.append(len(stack))
                    elif opcode == 0x58:  # BINUNICODE
                        (length,) = unpack_u4(data, position)
                        self.position = position + 4
                        self.text(length)
                        position = self.position
                    elif opcode == 0x74:  # TUPLE
                        stack.append(tuple(self.group()))
                    elif opcode == 0x85:  # TUPLE1
                        stack[-1] = (stack[-1],)
                        self.items += 1
                    elif opcode == 0x2E:  # STOP
                        return stack.pop()
                    else:
                        handler = handlers[opcode]
                        self.position = position
                        handler(self)
                        position = self.position
        finally:
            self.position = position
        raise ValueError(f"it has more than {MAX_OPCODES:,} opcodes")

    # -- reading ------------------------------------------------------------------------------------------------

    def number(self, layout: struct.Struct) -> int:
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return int(value)

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.position:
            raise CutOffError
        taken = self.data[self.position : self.position + length]
        self.position += length
        return taken

    def skip(self, length: int) -> None:
        if length > len(self.data) - self.position:
            raise CutOffError
        self.position += length

    def line(self, encoding: str = "utf-8") -> str:
        end = self.data.find(b"\n", self.position, self.position + MAX_LINE)
        if end < 0:
            if len(self.data) - self.position < MAX_LINE:
                raise CutOffError
            raise ValueError(f"a line is longer than {MAX_LINE} bytes")
        taken = self.data[self.position : end]
        self.position = end + 1
        return taken.decode(encoding)

    def text(self, length: int) -> None:
        if length > MAX_KEPT_STRING:
            self.skip(length)
            self.stack.append(LongString(length))
            return
        decoded = str(self.take(length), "utf-8", "surrogatepass")
        if not decoded.isascii():
            self.wide_characters += length
            if self.wide_characters > MAX_WIDE_CHARACTERS:
                raise ValueError("it holds too much text")
        self.stack.append(decoded)

    def raw(self, length: int) -> None:
        if length < 0:
            raise ValueError("a length is negative")
        if length > MAX_KEPT_STRING:
            self.skip(length)
            self.stack.append(LongString(length))
        else:
            self.stack.append(self.take(length))

    def old_string(self, length: int) -> None:
        """The str of Python 2; its names are ASCII, anything else was bytes."""
        self.raw(length)
        if isinstance(value := self.stack[-1], bytes):
            self.stack[-1] = value.decode("latin-1")

    def integer(self, length: int) -> None:
        if not 0 <= length <= MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {length:,} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    # -- memo and groups ----------------------------------------------------------------------------------------

    def put(self, index: int, value: object) -> None:
        # Picklers number the memo from 0 on, so a list holds it; a file that does not gets a bounded dict.
        if index == len(self.memo):
            self.memo.append(value)
            while self.sparse_memo and len(self.memo) in self.sparse_memo:
                self.memo.append(self.sparse_memo.pop(len(self.memo)))
        elif index < len(self.memo):
            self.memo[index] = value
        else:
            self.sparse_memo[index] = value
            if len(self.sparse_memo) > MAX_SPARSE_MEMO:
                raise ValueError("its memo is numbered with gaps")

    def get(self, index: int) -> object:
        if 0 <= index < len(self.memo):
            return self.memo[index]
        if index not in self.sparse_memo:
            raise ValueError(f"memo entry {index} is used before it is set")
        return self.sparse_memo[index]

    def count_items(self, count: int) -> None:
        self.items += count
        if self.items > MAX_ITEMS:
            raise ValueError(f"its containers hold more than {MAX_ITEMS:,} items")

    def group(self) -> list[object]:
        if not self.marks:
            raise ValueError("a group ends that was not opened")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        self.items += len(items)
        if self.items > MAX_ITEMS:
            self.count_items(0)
        return items

    def container(self) -> None:
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise ValueError(f"it holds more than {MAX_CONTAINERS:,} containers")

    # -- objects ------------------------------------------------------------------------------------------------

    def name(self, module: str, name: str) -> object:
        found = self.globals.get((module, name))
        if found is None:
            found = self.known.get((module, name), Global(module, name))
            self.globals[module, name] = found
        return found

    def call(self, kind: object, args: object, how: How = "call") -> object:
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise ValueError(f"it makes more than {MAX_CALLS:,} objects")
        if type(kind) is Builder and type(args) is tuple:
            if args and type(args[0]) in (list, dict):
                self.count_items(len(args[0]))  # a builder may copy it
            if args and type(args[0]) is Global:  # a factory, or a function that a torch function calls
                self.note("handed", kind.stands_for, args)
            made = kind.build(args)
            if type(made) is dict:
                self.container()
            return made
        self.container()
        kind = kind.stands_for if type(kind) is Builder else kind
        self.note(how, kind, args)
        return Made(kind, args)

    def note(self, how: How, target: object, args: object) -> None:
        kind = (how, target if type(target) is Global else type(target))
        seen = self.alike[kind] = self.alike.get(kind, 0) + 1
        if seen <= MAX_ALIKE:
            self.foreign.append(Foreign(how, target, args))

    def set_items(self, target: object, flat: list[object]) -> None:
        if len(flat) % 2:
            raise ValueError("a key has no value")
        if type(target) is dict:
            entries = target
        elif type(target) is Made:
            if target.entries is None:
                self.container()
                target.entries = {}
            entries = target.entries
        else:
            raise ValueError("entries are given to something that is no dict")
        for index in range(0, len(flat), 2):
            entries[dict_key(flat[index])] = flat[index + 1]

    def append_all(self, target: object, values: list[object]) -> None:
        if type(target) is list:
            target.extend(values)
        elif type(target) is Made:
            if target.appended is None:
                self.container()
                target.appended = []
            target.appended.extend(values)
        else:
            raise ValueError("items are given to something that is no list")

    # -- opcodes ------------------------------------------------------------------------------------------------

    def op_tuple(self) -> None:
        self.stack.append(tuple(self.group()))

    def short_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise ValueError("a tuple has fewer items than it says")
        items = tuple(self.stack[-length:])
        self.count_items(length)
        self.stack[-length:] = [items]

    def op_new_list(self) -> None:
        self.container()
        self.stack.append([])

    def op_new_dict(self) -> None:
        self.container()
        self.stack.append({})

    def op_new_set(self) -> None:
        self.container()
        self.stack.append(Made(SET, ()))

    def op_list(self) -> None:
        self.container()
        self.stack.append(self.group())

    def op_dict(self) -> None:
        items = self.group()
        self.container()
        made: dict[object, object] = {}
        self.set_items(made, items)
        self.stack.append(made)

    def op_frozenset(self) -> None:
        items = self.group()
        self.container()
        self.stack.append(Made(SET, (), appended=items))

    def op_append(self) -> None:
        value = self.stack.pop()
        self.count_items(1)
        self.append_all(self.stack[-1], [value])

    def op_appends(self) -> None:
        items = self.group()
        self.append_all(self.stack[-1], items)

    def op_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.count_items(2)
        self.set_items(self.stack[-1], [key, value])

    def op_setitems(self) -> None:
        items = self.group()
        self.set_items(self.stack[-1], items)

    def op_global(self) -> None:
        module = self.line()
        self.stack.append(self.name(module, self.line()))

    def op_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global is named by something that is no text")
        self.stack.append(self.name(module, name))

    def op_reduce(self, how: How = "call") -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args, how)

    def op_newobj_ex(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        kind = self.stack.pop()
        self.container()
        kind = kind.stands_for if type(kind) is Builder else kind
        self.note("new", kind, args if not kwargs else (args, kwargs))
        self.stack.append(Made(kind, (args, kwargs)))

    def op_inst(self) -> None:
        module = self.line()
        kind = self.name(module, self.line())
        self.stack.append(self.call(kind, tuple(self.group())))

    def op_obj(self) -> None:
        items = self.group()
        if not items:
            raise ValueError("an object has no class")
        self.stack.append(self.call(items[0], tuple(items[1:])))

    def op_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # On our own tensors and dicts the state is attributes (backward hooks, `_metadata`) that nobody asks for.
        if type(target) is Made:
            if target.states is None:
                target.states = []
            self.count_items(1)
            target.states.append(state)

    def op_persistent_id(self) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def op_text_persistent_id(self) -> None:
        self.stack.append(self.persistent(self.line()))

    def op_get_text(self) -> None:
        self.stack.append(self.get(int(self.line())))

    def op_put_text(self) -> None:
        index = int(self.line())
        if index < 0:
            raise ValueError("a memo index is negative")
        self.put(index, self.stack[-1])

    def op_memoize(self) -> None:
        self.put(len(self.memo), self.stack[-1])

    def op_pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def drop_group(self) -> None:
        self.group()

    def op_int_text(self) -> None:
        line = self.line()
        self.stack.append({"00": False, "01": True}[line] if line in ("00", "01") else int(line.rstrip("L")))

    def op_string_text(self) -> None:
        line = self.line()
        if len(line) < 2 or line[0] not in "'\"" or line[-1] != line[0] or "\\" in line:
            raise ValueError("a text of pickle protocol 0 has escapes; save the file again with protocol 2")
        self.stack.append(line[1:-1])

    def op_refused(self) -> None:
        opcode = self.data[self.position - 1]
        if opcode not in b"\x82\x83\x84":
            raise ValueError(f"opcode 0x{opcode:02x} is unknown, or refused")
        width = 1 << (opcode - 0x82)
        self.note("extension", None, int.from_bytes(self.data[self.position : self.position + width], "little"))
        raise ValueError(f"opcode 0x{opcode:02x} asks for a registered extension")
