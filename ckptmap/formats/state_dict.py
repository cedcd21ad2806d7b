"""Finds the state dict in what was unpickled: a dict of tensors, a part of a training checkpoint, or a module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice

from ckptmap.errors import CheckpointError
from ckptmap.formats.found import MAX_NAME, StateDict, some
from ckptmap.formats.pickled import SET, Global, Made, OddKey
from ckptmap.formats.torch_tensors import Tensor

PREFERRED = ("state_dict", "model_state_dict", "model", "module", "net", "network")
"""Where training code puts its model, likeliest first."""

_NOT_A_MODEL = re.compile(
    r"(?:^|_)(?:optim[a-z]*|lr|schedulers?|scaler|rng|callbacks?|loops?|amp)(?:_|$)", re.IGNORECASE
)
_WHOLE = "."
_MAX_DEPTH = 100
_MAX_NESTING = 10_000
_MANY = 20
_MAX_LOOKS = 500_000


def find_state_dict(tree: object, *, at: str | None, source: str) -> StateDict:
    """The state dict of an unpickled tree.

    Args:
        tree: What `unpickle` returned.
        at: The part to take, as dotted keys; `.` is everything there is.
        source: The file, for messages.

    Raises:
        CheckpointError: There is none, there are several that could be meant, or `at` names no part.
    """
    found = StateDict(holders=_tensor_holders(tree, source))
    if at == _WHOLE:
        _flatten(tree, found, source)
        return _filled(found, tree, at, source)
    node = _part(tree, at, source) if at else tree
    path = [at] if at else []
    for _ in range(_MAX_DEPTH):
        step = _wrapped(node, path, found, source)
        if step is None:
            break
        key, node = step
        path.append(key)
    _flatten(node, found, source)
    found.part = ".".join(path) or None
    if path and not at:
        found.notes.insert(0, f"taken from the part {'.'.join(path)!r}; choose another with --at")
    return _filled(found, tree, at, source)


def _filled(found: StateDict, tree: object, at: str | None, source: str) -> StateDict:
    if found.tensors or (not found.left_out and type(tree) is dict and not tree):
        return found
    what = "there are no tensors" if not at or at == _WHOLE else f"there are no tensors in the part {at!r}"
    reasons = "".join(f"; {note}" for note in found.left_out_notes())
    hint = _parts_hint(tree)
    if not hint and (type(tree) is Tensor or found.holds_tensors(tree)):
        hint = "Save tensors under names, with torch.save({'a.name': tensor, …}, path)"
    raise CheckpointError(f"{what} with names: {_kind(tree)}{reasons}. {hint}".rstrip(), source=source)


def _wrapped(node: object, path: list[str], found: StateDict, source: str) -> tuple[str, object] | None:
    """The entry of a wrapper that is the model, or None where the node itself is the state dict."""
    entries = _entries(node)
    if entries is None or _is_module(node) or _is_script(node):
        return None
    holders = {key: value for key, value in entries.items() if type(key) is str and found.holds_tensors(value)}
    models = [key for key in holders if not _NOT_A_MODEL.search(key)]
    chosen = next((key for key in PREFERRED if key in models), None)
    if chosen is None:
        if any(type(value) is Tensor for value in entries.values()) or not holders:
            return None
        if len(models) == 1:
            chosen = models[0]
        elif path and _is_plain(entries):
            return None
        elif not models:
            if path:
                return None
            raise _undecided("no part of it is a model", path, holders, source)
        else:
            parts = {key: holders[key] for key in models}
            raise _undecided("several parts of it could be the model", path, parts, source)
    # Say what else there is: tensors of other parts first, they might have been meant.
    others = [
        _text(key) for key, value in entries.items() if key != chosen and (key in holders or type(value) is Tensor)
    ]
    rest = [_text(key) for key in entries if key != chosen and _text(key) not in others]
    prefix = "".join(f"{part}." for part in path)
    if others:
        works = _parts_that_work({key: entries[key] for key in others if key in entries})
        hint = f"; choose with --at {prefix}{works[0]}" if works else ""
        found.notes.append(f"tensors also in {some([prefix + other for other in others])}{hint}")
    if rest:
        found.notes.append(f"next to {prefix + chosen!r}, without tensors: {some(rest)}")
    return chosen, holders[chosen]


def _undecided(why: str, path: list[str], parts: Mapping[str, object], source: str) -> CheckpointError:
    prefix = "".join(f"{part}." for part in path)
    choices = "".join(f"--at {prefix}{key}, " for key in _parts_that_work(parts)[:_MANY])
    return CheckpointError(f"{why}; choose one: {choices}or --at . for everything", source=source)


def _parts_that_work(parts: Mapping[str, object]) -> list[str]:
    """What `--at` takes of these keys: parts with named tensors, or in their place the items of a list that have."""
    works: list[str] = []
    looked = StateDict()
    for key, part in islice(parts.items(), 10 * _MANY):
        items = {f"{key}.{index}": item for index, item in enumerate(part[:_MANY])} if type(part) is list else {}
        works += [name for name, item in (items or {key: part}).items() if key and _has_named_tensors(item, looked)]
    return works


def _has_named_tensors(node: object, looked: StateDict) -> bool:
    """Whether `_flatten` would find a tensor, as far as a bounded look tells; `holds_tensors` looks into lists too."""
    rest, seen = [node], {id(node)}
    while rest:
        parent = rest.pop()
        for key, value in _members(parent, looked, ""):
            looked.visits += 1
            if looked.visits > _MAX_LOOKS:
                return False
            if type(key) is str or type(key) is int:
                if type(value) is Tensor:
                    return True
                if id(value) not in seen and type(value) in _CONTAINERS:
                    seen.add(id(value))
                    rest.append(value)
    return False


def _part(tree: object, at: str, source: str) -> object:
    """The part that dotted keys lead to; a key may have dots itself."""
    node, rest = tree, at
    while rest:
        if len(at) - len(rest) > MAX_NAME:
            raise CheckpointError("there is no such part", source=source, where=at[:80])
        entries = _children(node)
        key = next((key for key in sorted(entries, key=len, reverse=True) if _leads(key, rest)), None)
        if key is None:
            there = some([*entries], _MANY) if entries else "nothing"
            raise CheckpointError(f"there is no part {rest!r}; there is: {there}", source=source, where=f"at={at}")
        node, rest = entries[key], rest[len(key) + 1 :]
    if type(node) is Tensor:
        raise CheckpointError("this is one tensor, not a part that holds named ones", source=source, where=f"at={at}")
    return node


def _leads(key: str, rest: str) -> bool:
    return bool(key) and (rest == key or rest.startswith(key + "."))


def _children(node: object) -> dict[str, object]:
    if isinstance(node, list | tuple):
        return {str(index): value for index, value in enumerate(node[:10_000])}
    entries: dict[object, object] = {}
    for part in (*_states(node), _entries(node) or {}):
        entries |= part
    return {str(key): value for key, value in entries.items() if type(key) in (str, int)}


def _parts_hint(tree: object) -> str:
    parts = _parts_that_work(_children(tree))
    return f"Parts with tensors: {some(parts, _MANY)}; choose one with --at" if parts else ""


# -- flattening ---------------------------------------------------------------------------------------------------


def _flatten(node: object, found: StateDict, source: str) -> None:
    """Names every tensor below a node: as `nn.Module.state_dict` would for modules, else by its keys."""
    if _is_script(node):
        found.notes.append(
            "a TorchScript archive: plain tensor attributes are shown too, as nothing tells them from buffers"
        )
    elif _is_module(node):
        found.notes.append("a whole pickled module: the names are those its state_dict() has unless it overrides that")
    nested = False
    # The way down, as iterators, instead of recursion: the tree is somebody else's and may be deep or cyclic.
    open_nodes: set[int] = {id(node)}
    way: list[tuple[object, str, Iterator[tuple[object, object]]]] = [(node, "", _members(node, found, source))]
    while way:
        parent, prefix, members = way[-1]
        entry = next(members, None)
        if entry is None:
            way.pop()
            open_nodes.discard(id(parent))
            continue
        found.visit(source)
        key, value = entry
        name = prefix + _text(key)
        if type(key) not in (str, int):
            if value is not None:
                found.leave_out("as their names are no text", name)
                found.leave_out_tensors(value, name, source)
        elif type(value) is Tensor:
            found.number_names |= type(key) is int
            found.add(name, value, source)
        elif id(value) in open_nodes:
            found.leave_out("as they contain themselves", name)
        elif len(name) > MAX_NAME or len(way) > _MAX_DEPTH:
            found.leave_out("as they are nested too deep", name[:80])
            found.leave_out_tensors(value, name[:80], source)
        elif _is_module(value) or _is_script(value):
            open_nodes.add(id(value))
            way.append((value, name + ".", _members(value, found, source)))
        elif _entries(value) is not None and found.holds_tensors(value):
            nested = nested or type(parent) is dict
            found.number_names |= type(key) is int
            open_nodes.add(id(value))
            way.append((value, name + ".", _members(value, found, source)))
        elif not _is_script(parent):
            found.leave_out(_why_not(value, found), name)
            found.leave_out_tensors(value, name, source)
    if nested:
        found.notes.append("nested dicts were joined into one, their keys with dots between")


def _members(node: object, found: StateDict, source: str) -> Iterator[tuple[object, object]]:
    """What a node's names go on with."""
    if _is_script(node):
        for attributes in _states(node):
            yield from attributes.items()
    elif _is_module(node):
        for attributes in _states(node):
            yield from _module_members(attributes, found, source)
    else:
        yield from (_entries(node) or {}).items()


def _module_members(attributes: dict[object, object], found: StateDict, source: str) -> Iterator[tuple[object, object]]:
    """Source: torch 2.13, torch/nn/modules/module.py, Module._save_to_state_dict and Module.state_dict."""
    passing = _set_items(attributes.get("_non_persistent_buffers_set"))
    found.visit(source, len(passing))
    for kind in ("_parameters", "_buffers", "_modules"):
        for key, value in (_entries(attributes.get(kind)) or {}).items():
            if value is not None and not (kind == "_buffers" and key in passing):
                yield key, value


def _set_items(made: object) -> set[str]:
    if type(made) is not Made or made.kind not in (SET, _OLD_SET):
        return set()
    items = made.appended or ()
    if type(made.args) is tuple and made.args and isinstance(made.args[0], list | tuple):
        items = made.args[0]
    return {item for item in items if type(item) is str}


_OLD_SET = Global("__builtin__", "set")


def _states(node: object) -> list[dict[object, object]]:
    """The attributes that an object was given: a state is a dict, or a (dict, slots) pair."""
    if type(node) is not Made:
        return []
    states = [part for state in (node.states or ())[:1] for part in (state[:2] if type(state) is tuple else (state,))]
    return [part for part in states if type(part) is dict]


def _entries(node: object) -> dict[object, object] | None:
    """The node's entries if it is a dict, or something that was filled like one."""
    if type(node) is dict:
        return node
    return node.entries if type(node) is Made else None


def _is_module(node: object) -> bool:
    return any("_parameters" in attributes and "_modules" in attributes for attributes in _states(node))


def _is_script(node: object) -> bool:
    module = getattr(node.kind, "module", "") if type(node) is Made else ""
    return module == "__torch__" or module.startswith("__torch__.")


def _is_plain(node: object) -> bool:
    """Whether there is nothing but tensors below, in dicts with text for keys."""
    return all(kind is not None for kind in _walk_dicts(node))


def _walk_dicts(node: object) -> Iterator[Tensor | None]:
    seen: set[int] = set()
    rest = [node]
    while rest:
        node = rest.pop()
        if type(node) is Tensor:
            yield node
        elif type(node) is dict and all(type(key) is str for key in node):
            if id(node) not in seen:
                seen.add(id(node))
                rest += node.values()
        else:
            yield None


def _tensor_holders(tree: object, source: str) -> set[int]:
    """The ids of everything that has a tensor somewhere below it; each node is visited once."""
    holders: set[int] = set()
    seen = {id(tree)}
    way = [(tree, _contained(tree))]
    while way:
        node, contained = way[-1]
        for value in contained:
            if type(value) is Tensor or id(value) in holders:
                holders.add(id(node))
            elif type(value) in _CONTAINERS and id(value) not in seen:
                seen.add(id(value))
                way.append((value, _contained(value)))
                break
        else:
            way.pop()
            if way and id(node) in holders:
                holders.add(id(way[-1][0]))
        if len(way) > _MAX_NESTING:
            raise CheckpointError(f"it is nested more than {_MAX_NESTING:,} deep", source=source)
    return holders


_CONTAINERS = (dict, list, tuple, Made)


def _contained(node: object) -> Iterator[object]:
    if type(node) is dict:
        return iter(node.values())
    if isinstance(node, list | tuple):
        return iter(node)
    if type(node) is Made:
        return iter((node.args, node.entries, node.appended, node.states))
    return iter(())


# -- words --------------------------------------------------------------------------------------------------------


def _text(key: object) -> str:
    if type(key) is str:
        return key
    return "(an object)" if type(key) is OddKey else str(key)


def _why_not(value: object, found: StateDict) -> str:
    if type(value) is Made:
        return f"of type {str(value.kind)[:120]}" if type(value.kind) is Global else "as they are no plain tensors"
    return "as they are lists of tensors" if found.holds_tensors(value) else "as they are no tensors"


def _kind(tree: object) -> str:
    if type(tree) is Tensor:
        return "it is one bare tensor"
    if type(tree) is Made:
        return f"it is an object of type {str(tree.kind)[:120]}" if type(tree.kind) is Global else "it is an object"
    return f"it is a {type(tree).__name__}"
