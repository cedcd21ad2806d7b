"""What loading a checkpoint into a class would do, worked out from names and shapes alone.

Source: transformers 5.23.0, `core_model_loading.py` (`convert_and_load_state_dict_in_model`) and `modeling_utils.py`
(`_finalize_model_loading`, `tie_weights`, `_adjust_missing_and_unexpected_keys`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ckptmap.heads.inventory import ClassInventory
from ckptmap.heads.rules import Collected, Renamer, Rule, Shape, convert

Mismatch = tuple[str, Shape, Shape]
"""Name, shape in the checkpoint, shape in the model."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The loader's own lists, and what it does not list.

    Attributes:
        missing: Names in memory that the checkpoint lacks and the loader reports.
        unexpected: Names, as renamed, that the model does not have and the loader reports.
        mismatched: Names whose shapes differ.
        new: Names in memory whose values do not come from the checkpoint.
        errors: Conversions that fail, by target; any of them makes the load raise.
        spellings: For each name of `unexpected`, the names it has in the file.
        dropped: Names of the file that are used for nothing and reported nowhere.
        stored_ties: Ties both of whose ends the file holds, so that their values decide.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[Mismatch]
    new: frozenset[str]
    errors: Mapping[str, str]
    spellings: Mapping[str, tuple[str, ...]]
    dropped: tuple[str, ...]
    stored_ties: tuple[tuple[str, str], ...]


def predict(inventory: ClassInventory, checkpoint: Mapping[str, Shape | None]) -> Prediction:
    """Predict the load of a checkpoint, given as shapes by name, into the class; a shape of None is not checked."""
    load = _Load(inventory)
    load.collect(checkpoint)
    load.fill()
    stored_ties = load.tie()
    missing = _unignored(load.missing, inventory.ignore_missing)
    unexpected = _unignored(load.unexpected, inventory.ignore_unexpected)
    return Prediction(
        missing=missing,
        unexpected=unexpected,
        mismatched=frozenset(load.mismatched),
        # A tensor without elements has nothing to initialise, and is still a name that may be missing.
        new=frozenset(
            name for name, shape in inventory.shapes.items() if 0 not in shape and not load.comes_from_checkpoint(name)
        ),
        errors=load.errors,
        spellings={name: tuple(load.unexpected[name]) for name in sorted(unexpected)},
        dropped=tuple(sorted({*load.dropped, *_ignored_spellings(load.unexpected, unexpected)})),
        stored_ties=stored_ties,
    )


def _ignored_spellings(found: Mapping[str, list[str]], reported: frozenset[str]) -> Iterable[str]:
    return (original for name, originals in found.items() if name not in reported for original in originals)


def _unignored(names: Iterable[str], patterns: tuple[str, ...]) -> frozenset[str]:
    if not patterns:
        return frozenset(names)
    ignored = re.compile("|".join(f"({pattern})" for pattern in patterns))
    return frozenset(name for name in names if not ignored.search(name))


def natural_order(name: str) -> list[tuple[int | str, ...]]:
    """The order in which the loader goes through names: by segments, numbers as numbers.

    Source: transformers 5.23.0, `core_model_loading.py`, `dot_natural_key`.
    """
    return [_segment_order(segment) for segment in name.split(".")]


def _segment_order(segment: str) -> tuple[int | str, ...]:
    if segment.isdecimal():
        return (0, int(segment))
    word = segment.rstrip("0123456789")
    return (1, word, int(segment[len(word) :])) if word != segment else (1, word)


class _Load:
    """One load under way: which parameter stands where, and whether it came from the checkpoint."""

    def __init__(self, inventory: ClassInventory) -> None:
        self.inventory = inventory
        self.missing = dict.fromkeys(inventory.shapes)
        self.unexpected: dict[str, list[str]] = {}
        self.mismatched: set[Mismatch] = set()
        self.errors: dict[str, str] = {}
        self.dropped: list[str] = []
        # A parameter is a token; loading puts a fresh one in a place, tying puts one place's token in another.
        self._standing = {inventory.places[name]: inventory.values[name] for name in inventory.shapes}
        self._loaded: set[int] = set()
        self._next = max(inventory.values.values(), default=0) + 1
        self._unchecked: set[str] = set()
        self._targets: dict[str, tuple[Rule | None, Collected, list[str]]] = {}

    def collect(self, checkpoint: Mapping[str, Shape | None]) -> None:
        """Rename every name of the checkpoint and gather shapes by target."""
        expected = self.inventory.shapes
        renamer = Renamer(self.inventory.rules, self.inventory.base_prefix, expected)
        for original in sorted(checkpoint, key=natural_order):
            renamed, rule, source = renamer.rename(original)
            if renamed in expected:
                # The first name that arrives decides how its target is made.
                _, collected, originals = self._targets.setdefault(renamed, (rule, {}, []))
                shape = checkpoint[original]
                if shape is None:
                    self._unchecked.add(renamed)
                collected.setdefault(source or original, []).append(shape or ())
                originals.append(original)
            elif rule is not None:
                for target in rule.targets:
                    self._unexpected(renamed.replace(rule.targets[0], target), original)
            else:
                self._unexpected(renamed, original)

    def fill(self) -> None:
        """Convert what was gathered and put it in place."""
        for target, (rule, collected, originals) in self._targets.items():
            if target in self._unchecked:
                targets = [target.replace(rule.targets[0], other) for other in rule.targets] if rule else [target]
                for name in targets:
                    self._put(name, self.inventory.shapes.get(name, ()))
                continue
            if rule is None:
                self._put(target, collected[originals[0]][0])
                self.dropped += originals[1:]
                continue
            try:
                made = convert(rule, target, collected, self.inventory.shapes)
            except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
                self.errors[target] = f"{rule.operations[0][0]}: {error}"
                continue
            for name, shape in made.items():
                self._put(name, shape)

    def tie(self) -> tuple[tuple[str, str], ...]:
        """Tie what the config ties; returns the ties of which the file holds both ends."""
        stored = []
        ties = self.inventory.ties
        missing = set(self.missing)
        for index, pair in enumerate(ties):
            target, source = pair
            removed = True
            if source not in missing and target not in missing:
                stored.append(pair)
                # Unequal values are left untied; equal ones make one parameter of two equal ones. Which parameters
                # come from the checkpoint is the same in both cases, unless a shape kept one of them out.
                if not (self.comes_from_checkpoint(source) and self.comes_from_checkpoint(target)):
                    continue
            elif source in missing and target not in missing:
                target, source = source, target
            elif source in missing:
                backup = next((t for t, s in ties[index + 1 :] if s == source and t not in missing), None)
                removed = backup is not None
                source = backup or source
            self._standing[self.inventory.places[target]] = self._standing[self.inventory.places[source]]
            if removed:
                missing.discard(target)
        self.missing = {name: None for name in self.missing if name in missing}
        return tuple(stored)

    def comes_from_checkpoint(self, name: str) -> bool:
        """Whether the parameter that stands under this name was loaded."""
        return self._standing[self.inventory.places[name]] in self._loaded

    def _unexpected(self, name: str, original: str) -> None:
        self.unexpected.setdefault(name, []).append(original)

    def _put(self, name: str, shape: Shape) -> None:
        expected = self.inventory.shapes.get(name)
        if expected is None:
            if name not in self.inventory.silent_buffers:
                self.errors[name] = "the conversion makes a tensor that the model does not have"
            return
        self.missing.pop(name, None)
        if shape != expected:
            self.mismatched.add((name, shape, expected))
            return
        self._standing[self.inventory.places[name]] = self._next
        self._loaded.add(self._next)
        self._next += 1
