"""What became of matching and proving two models, to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptmap.infer.proof import NEAR
from ckptmap.patterns import group
from ckptmap.report.document import Document, Section, count_text
from ckptmap.rules.names import NamePattern
from ckptmap.rules.rules import Rule

if TYPE_CHECKING:
    from ckptmap.infer.proof import Difference, Verification
    from ckptmap.remapping import Remap


def verdict(proof: Verification) -> str:
    """What became of a proof, in one sentence that begins with its outcome."""
    said = _of_near if proof.outcome == NEAR else _of_proven if proof.passed else _of_failed
    return f"{proof.outcome}: {said(proof)}"


def _of_near(proof: Verification) -> str:
    differ = "; ".join(difference_text(one) for one in proof.differences)
    return f"the two differ: {differ}. Allowing for that, {_of_proven(proof)}"


def difference_text(one: Difference) -> str:
    """What the two do differently, where, and what showed it, as one text."""
    where = [
        f"{side} at {', '.join(places)}" for side, places in zip(("left", "right"), one.places, strict=True) if places
    ]
    return f"{one} ({'; '.join(where)}); {one.evidence}"


def _of_proven(proof: Verification) -> str:
    rest = f"; no input reaches {', '.join(proof.unreached)}" if proof.unreached else ""
    return (
        f"outputs differ by {proof.difference:.1g} of the largest value, "
        f"and converted weights came back with equal bits{rest}"
    )


def _of_failed(proof: Verification) -> str:
    if not proof.bits:
        return "converted weights did not come back with equal bits"
    if proof.apart_ties:
        return f"the right ties {', '.join(proof.apart_ties)}, and the left has other values for each of its names"
    if not proof.compared:
        return "the two give no output of equal shape that could be compared"
    lacking = f"the right returns {', '.join(proof.lacking)}, which the left has nothing of"
    if proof.agrees:
        return f"what could be compared is equal, but {lacking}"
    where = f" at {proof.where[0]} and {proof.where[1]}" if proof.where else ""
    apart = f"outputs differ by {proof.difference:.1g} of the largest value{where}"
    if proof.hangs_on_loose:
        names = group_texts([name for side in proof.loose for name in side])
        return f"{apart} as soon as what no rule gives has values of its own: {', '.join(names)}"
    until = f"; the two agree up to {proof.until[0]} and {proof.until[1]}" if proof.until else ""
    parted = f"; they part at {proof.apart[0]} and {proof.apart[1]}" if proof.apart else ""
    return f"{apart}{until}{parted}{f'; {lacking}' if proof.lacking else ''}"


def group_texts(names: Sequence[str]) -> list[str]:
    """Names as few patterns."""
    return [str(one) for one in group(dict.fromkeys(names), dict.fromkeys(names, ""))]


def remap_verdict(answer: Remap) -> str:
    """Whether the rules found are proven, in one sentence."""
    proof = answer.verification
    if proof is None:
        return f"not proven: {answer.note or 'nothing was run'}"
    if not proof.values:
        return verdict(proof)
    casts = "".join(f", {count:,} of them {cast}" for cast, count in proof.casts.items())
    others = len(answer.evidence) - len(proof.compared)
    rest = f"; the other {others:,} rest on names and shapes" if others > 0 else ""
    equal = count_text(len(proof.compared), "tensor")
    return f"proven by values: {equal} hold what the rules make of the left, bit for bit{casts}{rest}"


def remap_counts(answer: Remap) -> Iterator[str]:
    """How much is decided, how much guessed."""
    rules = sum(_links(one) for one in answer.rules.rules)
    yield f"{count_text(len(answer.evidence), 'tensor')} of the right decided by {count_text(rules, 'rule')}"
    if answer.draft is not None:
        guesses = sum(one.mark == "guess" for one in answer.draft.rules)
        yield f"{guesses:,} more are guesses, marked so: confirm each with --pin, or delete the word `guess`"


def _links(rule: Rule) -> bool:
    """Whether it names tensors of both sides, in place of saying that some have no home."""
    return all(any(isinstance(term, NamePattern) for term in side) for side in (rule.left, rule.right))


def remap_document(answer: Remap, *, why: bool = False) -> Document:
    """All but the rules themselves."""
    failed = "nothing is decided and nothing is written; one of these rules is wrong:"
    sections = (
        Section("undecided", tuple((one.question,) for one in answer.undecided), ("what would decide it",), "changed"),
        Section("why", tuple(answer.evidence.items()) if why else (), ("tensor of the right", "its rule rests on")),
        Section("only on the left", tuple((one.name, one.reason) for one in answer.left_only), ("tensor", "why")),
        Section("only on the right", tuple((one.name, one.reason) for one in answer.right_only), ("tensor", "why")),
    )
    closing = remap_verdict(answer), *((failed,) if answer.unproven is not None else remap_counts(answer))
    return Document((), tuple(section for section in sections if section.rows), closing, closing[0])


def verify_document(proof: Verification) -> Document:
    """The verdict, and what was compared."""
    section = Section("compared", proof.compared, ("left", "right"))
    return Document((), (section,) if proof.compared else (), headline=verdict(proof))
