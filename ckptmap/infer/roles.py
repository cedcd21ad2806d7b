"""What a module is for, as far as its words, its siblings and its shape say it.

A role is a word for people too: `attention query`, `feed-forward down`, `norm of the attention`. What cannot be told
has no role; two modules of one role in one place lose it. A role with a question mark is what it is if the order in
which modules stand means anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ckptmap.infer.templates import SLOT
from ckptmap.infer.words import (
    ATTENTION,
    CROSS,
    EMBEDDING,
    EXPERT,
    FEEDFORWARD,
    KEY,
    LEAVES_ATTENTION,
    NORM,
    PACKED,
    POSITION,
    QUERY,
    SEGMENT,
    TOKEN,
    VALUE,
    number,
    words,
)

if TYPE_CHECKING:
    from ckptmap.infer.named_modules import Module

PARTS = ("query", "key", "value")

HEADS = frozenset({"head", "classifier", "score", "logits", "unembed", "classification"})


def block_roles(modules: Sequence[Module]) -> dict[Module, str]:
    """Roles of the modules of one layer; nothing for those that cannot be told."""
    found: dict[Module, str] = {}
    norms: list[Module] = []
    forward: dict[str, list[Module]] = {}
    crosses = {_attention_path(one) for one in modules if _is_cross(one, modules)}
    bare = _bare_attention(modules)
    for one in modules:
        kind = "cross attention" if _attention_path(one) in crosses and _in_attention(one) else "attention"
        if one.is_norm:
            part = _part(one)
            if part is None:
                norms.append(one)
            else:
                found[one] = f"norm of the {kind} {part}"
        elif _in_attention(one) or (_part(one) and not FEEDFORWARD & {*one.around}) or one in bare:
            role = _attention_role(one)
            if role is not None:
                found[one] = f"{kind} {role}"
        elif (len(one.matrix()) == 2 and not one.raw) or (one.is_expert and len(one.matrix()) == 2):
            forward.setdefault(_place(one), []).append(one)
    experts = {_experts(one) for one in forward.get("expert", ())}
    plain = forward.get("feed-forward", [])
    for one in plain:
        if experts and {"gate", "router", "switch"} & {*one.own, *one.around[-2:]} and one.shape[0] in experts:
            found[one] = "router"
    forward["feed-forward"] = [one for one in plain if one not in found]
    width = Counter(one.shape[-1] for one in norms if one.shape)
    for place, members in forward.items():
        found |= {one: f"{place} {role}" for one, role in _forward_roles(members, width).items()}
    found |= _norm_roles(norms, modules)
    return _unique(found)


def _unique(found: Mapping[Module, str]) -> dict[Module, str]:
    counts = Counter(found.values())
    return {one: role for one, role in found.items() if counts[role] == 1}


# ------------------------------------------------------------------ attention


def _in_attention(one: Module) -> bool:
    return bool(ATTENTION & {*one.around})


def _attention_path(one: Module) -> tuple[str, ...]:
    """The path down to the attention that a module belongs to."""
    for at, segment in enumerate(one.path):
        if ATTENTION & {*words(segment)}:
            return one.path[: at + 1]
    return ()


def _is_cross(one: Module, modules: Sequence[Module]) -> bool:
    around = {*one.around}
    if CROSS & around or ({"encoder", "enc", "src", "context"} & around and ATTENTION & around):
        return True
    # torch.nn.TransformerDecoderLayer calls them self_attn and multihead_attn.
    return "multihead" in around and any("self" in other.around and _in_attention(other) for other in modules)


def _bare_attention(modules: Sequence[Module]) -> list[Module]:
    """`in_proj` and `out_proj` side by side, the first thrice as high as wide, without a word of attention."""
    for one in modules:
        shape = one.matrix()
        if one.own == ("in", "proj") and len(shape) == 2 and shape[0] == 3 * shape[1]:
            beside = (*one.path[:-1], one.path[-1].replace("in", "out"))
            return [one, *(other for other in modules if other.path == beside and other.matrix() == (shape[1],) * 2)]
    return []


def _part(one: Module) -> str | None:
    own = {*one.own}
    if any(word.isdigit() for word in own) or EXPERT & {*one.around}:
        return None  # w1, v1, w2 of an expert
    parts = [name for name, vocabulary in zip(PARTS, (QUERY, KEY, VALUE), strict=True) if vocabulary & own]
    return parts[0] if len(parts) == 1 else None


def _attention_role(one: Module) -> str | None:
    own = {*one.own}
    part = _part(one)
    if part is not None:
        return part if not own & {"bias", "relative", "rel", "norm"} else None
    if own & {"relative", "rel", "bias"}:
        return "relative bias"
    if own & PACKED or (own & QUERY and own & KEY and own & VALUE) or own == {"in", "proj"} or own == {"c", "attn"}:
        return "packed"
    if own & {"kv"} or (own & KEY and own & VALUE):
        return None
    if own & LEAVES_ATTENTION or own <= {"0"}:
        return "output"
    return None


# ------------------------------------------------------------------ feed-forward


def _place(one: Module) -> str:
    if "shared" in one.around and EXPERT & {*one.around}:
        return "shared expert"
    return "expert" if one.is_expert else "feed-forward"


def _experts(one: Module) -> int:
    """How many experts there are."""
    if SLOT in one.path:
        return len({ranks[-1] for ranks in one.main.names})
    return one.shape[0]


def _forward_roles(members: Sequence[Module], width: Counter[int]) -> dict[Module, str]:
    """Up, gate and down, or up and gate in one."""
    hidden = width.most_common(1)[0][0] if width else 0
    roles: dict[Module, str] = {}
    for one in members:
        by_words, by_shape = _forward_words(one, len(members)), _forward_shape(one, hidden)
        if by_words and by_shape and (by_words == "down") != (by_shape == "down"):
            return {}
        role = by_words or by_shape
        if role is not None:
            roles[one] = role
    if len(members) > 3:
        return {}
    rest = [one for one in members if one not in roles]
    down = [one for one in members if roles.get(one) == "down"]
    others = [one for one in members if one not in down]
    if len(down) > 1:
        return {}
    if len(members) == 3 and len(down) == 1:
        gates = [one for one in others if roles.get(one) == "gate"]
        if not gates and {one.own for one in members} == {("w", "1"), ("w", "2"), ("w", "3")}:
            # LLaMA's w1, w2, w3: silu(w1 x) * w3 x, then w2.
            gates = [one for one in others if one.own == ("w", "1") and down[0].own == ("w", "2")]
        if not gates and {one.own for one in others} == {("wi", "0"), ("wi", "1")}:
            # T5's gated feed-forward: act(wi_0 x) * wi_1 x.
            gates = [one for one in others if one.own[-1] == "0"]
        if len(gates) == 1:
            (up,) = (one for one in others if one is not gates[0])
            return {down[0]: "down", gates[0]: "gate", up: "up"}
        return {down[0]: "down", others[0]: "gate?", others[1]: "up?"}
    if len(members) == 2:
        if len(rest) == 1:
            other = next(one for one in members if one not in rest)
            if roles[other] == "down":
                roles[rest[0]] = "up"
            elif roles[other] in ("up", "packed"):
                roles[rest[0]] = "down"
        return roles if len({*roles.values()}) == len(roles) else {}
    return {}


def _forward_words(one: Module, count: int) -> str | None:
    own = one.own
    said = {*own}
    digit = number(own)
    if {"gate", "up"} <= said:
        return "packed"
    if said & {"gate", "gating"}:
        return "gate"
    if "down" in said or said & {"contract", "wo"} or own[-4:] == ("h", "to", "h") or own[-3:] == ("4", "h", "to"):
        return "down"
    if own[-4:] in (("4", "h", "to", "h"),):
        return "down"
    if own[-4:] == ("h", "to", "4", "h"):
        return "up"
    if "up" in said or said & {"expand", "intermediate", "inner"} or own == ("c", "fc") or own == ("wi",):
        return "up"
    parent = {*one.around}
    if "intermediate" in parent:
        return "up"
    if said & {"output", "out"} or own == ("c", "proj"):
        return "down"
    if own == ("dense",) and "output" in parent:
        return "down"
    if count == 2 and digit in (1, 2) and said & {"fc", "lin", "linear", "w", "dense", "conv", "layer"}:
        return "up" if digit == 1 else "down"
    return None


def _forward_shape(one: Module, hidden: int) -> str | None:
    """Which way it goes, where the bias tells which axis is the output."""
    shape, bias = one.matrix(), one.tensors.get("bias")
    if len(shape) != 2 or shape[0] == shape[1] or not hidden:
        return None
    if bias is not None:
        size = bias.shape[-1]
        if size not in shape or one.is_expert:
            return None
        return "down" if size == hidden else None if hidden not in shape else "up"
    return "down" if shape[0] == hidden else None


# ------------------------------------------------------------------ norms


def _norm_roles(norms: Sequence[Module], modules: Sequence[Module]) -> dict[Module, str]:
    if len(norms) == 1:
        return {norms[0]: "only norm"}
    votes = [_norm_vote(one, modules) for one in norms]
    numbers = [int(vote) for vote in votes if vote is not None and vote.isdigit()]
    if len(numbers) == len(votes) and len({*numbers}) == len(votes):
        order = sorted(numbers)
        places: list[int | None] = [order.index(int(vote or 0)) for vote in votes]
    elif numbers:
        return {}
    else:
        places = [_norm_place(vote, votes) for vote in votes]
    if len(norms) == 2 and places.count(None) == 1 and votes[places.index(None)] is None:
        known = places[1 - places.index(None)]
        places[places.index(None)] = None if known is None else 1 - known
    if len({*places}) != len(norms) or any(place is None or place >= len(norms) for place in places):
        return {}
    titles = {
        2: ("norm of the attention", "norm of the feed-forward"),
        3: ("norm of the attention", "norm of the cross attention", "norm of the feed-forward"),
        4: ("norm before attention", "norm after attention", "norm before feed-forward", "norm after feed-forward"),
    }.get(len(norms))
    if titles is None:
        return {}
    return {one: titles[place] for one, place in zip(norms, places, strict=True) if place is not None}


def _norm_place(vote: str | None, votes: Sequence[str | None]) -> int | None:
    if len(votes) == 2:
        if vote == "after attention":
            # Beside a norm before attention it stands before the feed-forward; LLaMA calls it so.
            return 1 if "attention" in votes else 0 if {"after feed-forward", "feed-forward"} & {*votes} else None
        places = {"attention": 0, "feed-forward": 1, "before feed-forward": 1, "after feed-forward": 1}
    elif len(votes) == 3:
        places = {"attention": 0, "cross": 1, "feed-forward": 2}
    else:
        places = {"attention": 0, "after attention": 1, "before feed-forward": 2, "after feed-forward": 3}
    return places.get(vote or "")


def _norm_vote(one: Module, modules: Sequence[Module]) -> str | None:
    own = {*one.own}
    around = {*one.around}
    attention, forward = bool(own & ATTENTION), bool(own & FEEDFORWARD)
    if attention and (own & CROSS or {"encoder", "enc"} & own):
        return "cross"
    if "cross" in own:
        return "cross"
    if "post" in own and attention:
        return "after attention"
    if forward and ("pre" in own or "post" in own):
        return "after feed-forward" if "post" in own else "before feed-forward"
    if attention != forward:
        return "attention" if attention else "feed-forward"
    if own & {"input", "before"}:
        return "attention"
    if own & {"after", "full", "final"}:
        return "feed-forward"
    digit = number(one.own)
    if digit is not None:
        return str(digit)
    parents = one.path[:-1]
    if parents:
        beside = [other for other in modules if other.path[: len(parents)] == parents and not other.is_norm]
        kinds = {_in_attention(other) for other in beside}
        if len(kinds) == 1 and (around & ATTENTION or around & {"output"} or not kinds & {False} or beside):
            if kinds == {True}:
                return "cross" if any(_is_cross(other, modules) for other in beside) else "attention"
            return "feed-forward"
        digit = number(word for segment in parents for word in words(segment))
        if digit is not None and not beside:
            return str(digit)
    if "output" in own and NORM & own:
        return "feed-forward"
    return None


# ------------------------------------------------------------------ outside of layers


def outer_roles(modules: Sequence[Module], *, vocabulary: int | None = None) -> dict[Module, str]:
    """Roles of modules that stand beside the layers of one component."""
    found: dict[Module, str] = {}
    tables = [one for one in modules if _is_table(one)]
    for one in tables:
        role = _table_role(one)
        if role is not None:
            found[one] = role
    words_ = [one for one in tables if found.get(one) == "word table"]
    rows = words_[0].shape[0] if len(words_) == 1 else vocabulary
    norms = [one for one in modules if one.is_norm]
    embedded = [one for one in norms if {*one.around} & (EMBEDDING | {"pre"})]
    for one in norms:
        if len(embedded) == 1 and one is embedded[0]:
            found[one] = "norm of the embeddings"
        elif len(norms) - len(embedded) == 1 and one not in embedded:
            found[one] = "last norm"
    for one in modules:
        if one in found or one in norms:
            continue
        shape = one.matrix()
        around = {*one.around}
        if len(shape) == 2 and rows == shape[0] and around & (HEADS | {"output", "out", "decoder", "lm"}):
            found[one] = "output over the vocabulary"
        elif len(shape) == 2 and around & HEADS and one.own not in (("dense",), ("pre", "classifier")):
            found[one] = "head"
        elif len(one.shape) in (4, 5) and around & {"patch", "conv", "conv1", "proj", "projection", "stem"}:
            found[one] = "patches"
        elif one.raw and (around & {"cls"} or one.own == ("class", "embedding") or one.own == ("class", "token")):
            found[one] = "class token"
        elif one.raw and {*one.own} & {"dist", "distillation"}:
            found[one] = "distillation token"
        elif one.raw and {*one.own} & {"mask"} and "token" in one.own:
            found[one] = "mask token"
    return _unique(found)


def _is_table(one: Module) -> bool:
    around = {*one.around}
    if one.is_norm or NORM & {*one.own} or "bias" in one.tensors:
        return False
    return (bool(EMBEDDING & around) and len(one.shape) == 2) or (one.raw and bool(POSITION & {*one.own}))


def _table_role(one: Module) -> str | None:
    own = {*one.own}
    kinds = [
        name
        for name, vocabulary in (("position table", POSITION), ("segment table", SEGMENT), ("word table", TOKEN))
        if vocabulary & own
    ]
    if kinds == ["segment table", "word table"]:
        kinds = ["segment table"]  # token_type_embeddings
    if len(kinds) == 1:
        return kinds[0]
    if not kinds and own <= EMBEDDING | {"in", "input", "src"} and own & EMBEDDING:
        return "word table"
    return None
