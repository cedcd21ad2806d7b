"""Two sides and what links them, as the page draws them: columns of numbers, texts told once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any, Literal

from ckptmap.report.document import shape_text

Tone = Literal["quiet", "good", "left", "right", "change", "doubt", "open"]
"""What a state means to the eye; the page gives each a colour, and each state has a symbol beside it."""


@dataclass(frozen=True, slots=True)
class State:
    """What can be said of a link between tensors.

    Attributes:
        symbol: One character, so that no colour is needed to tell states apart.
        label: Two or three words.
        tone: Its colour.
        meaning: A sentence.
    """

    symbol: str
    label: str
    tone: Tone
    meaning: str


@dataclass(frozen=True, slots=True)
class Side:
    """A side's tensors.

    Attributes:
        label: What it is.
        shapes: Shape of every tensor by its name, in order.
        dtypes: Their dtypes, where they are known.
    """

    label: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str] = field(default_factory=dict)


class Matching:
    """Links between the tensors of two sides; a link with an empty end says why nothing is there.

    Args:
        left: The left side.
        right: The right side.
        states: Every state that a link may have, in the order in which they are told.
    """

    def __init__(self, left: Side, right: Side, states: Sequence[State]) -> None:
        self._sides = left, right
        self._states = {state: number for number, state in enumerate(states)}
        self._places = [{name: place for place, name in enumerate(side.shapes)} for side in self._sides]
        self._texts: dict[str, int] = {}
        self._links: tuple[list[Any], list[Any], list[int], list[int], list[int]] = ([], [], [], [], [])
        self._linked: tuple[set[int], set[int]] = (set(), set())

    def link(
        self, left: Sequence[str], right: Sequence[str], state: State, why: str = "", rule: int | None = None
    ) -> None:
        """Say what these tensors are to each other.

        Args:
            left: Names of the left.
            right: Names of the right.
            state: How sure or how alike.
            why: For people.
            rule: The number of the rule that says so.
        """
        for column, ends, linked in zip(self._links[:2], self.ends(left, right), self._linked, strict=True):
            linked.update(ends)
            column.append(ends[0] if len(ends) == 1 else ends)
        self._links[2].append(self._states[state])
        self._links[3].append(self._texts.setdefault(why, len(self._texts)))
        self._links[4].append(-1 if rule is None else rule)

    def ends(self, *sides: Sequence[str]) -> list[list[int]]:
        """Numbers of these tensors of the left, and of the right."""
        return [
            [places[name] for name in names if name in places]
            for names, places in zip(sides, self._places, strict=True)
        ]

    def unlinked(self) -> tuple[list[str], list[str]]:
        """Names of both sides that nothing was said of yet."""
        left, right = (
            [name for name, place in places.items() if place not in linked]
            for places, linked in zip(self._places, self._linked, strict=True)
        )
        return left, right

    def to_json(self) -> dict[str, Any]:
        """The page's data: names and kinds of tensors once, then columns."""
        names: dict[str, int] = {}
        kinds: dict[tuple[tuple[int, ...], str], int] = {}
        sides = [
            {
                "label": side.label,
                "names": [names.setdefault(name, len(names)) for name in side.shapes],
                "kinds": [
                    kinds.setdefault((tuple(shape), side.dtypes.get(name, "")), len(kinds))
                    for name, shape in side.shapes.items()
                ],
            }
            for side in self._sides
        ]
        return {
            "names": list(_folded(names)),
            "kinds": [
                {"shape": list(shape), "text": " ".join(filter(None, (shape_text(shape), dtype)))}
                for shape, dtype in kinds
            ],
            "sides": sides,
            "states": [
                {"symbol": one.symbol, "label": one.label, "tone": one.tone, "meaning": one.meaning}
                for one in self._states
            ],
            "texts": list(self._texts),
            "links": dict(zip(("left", "right", "state", "text", "rule"), self._links, strict=True)),
        }


def _folded(names: Iterable[str]) -> Iterator[int | str]:
    """Each name as how many characters it shares with the one before, and the rest: a third of the size."""
    last = ""
    for name in names:
        shared = len(commonprefix((last, name)))  # noqa: RUF071 - characters are meant
        yield shared
        yield name[shared:]
        last = name
