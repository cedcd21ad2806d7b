from __future__ import annotations

import time

import pytest

from ckptmap.errors import CheckpointError
from ckptmap.formats.pickled import Global, Made, OddKey
from ckptmap.formats.state_dict import find_state_dict
from ckptmap.formats.torch_tensors import DTYPES, Storage, Tensor


def t(key: str = "0") -> Tensor:
    return Tensor(Storage(key, DTYPES["float32"], 4), DTYPES["float32"], 0, (1,), (1,))


def names(tree: object, at: str | None = None) -> list[str]:
    return list(find_state_dict(tree, at=at, source="file").tensors)


def notes(tree: object, at: str | None = None) -> str:
    return "\n".join(find_state_dict(tree, at=at, source="file").all_notes())


def module(parameters=None, buffers=None, modules=None, passing=()) -> Made:
    hidden = Made(Global("builtins", "set"), (list(passing),))
    state = {
        "training": True,
        "_parameters": parameters or {},
        "_buffers": buffers or {},
        "_modules": modules or {},
        "_non_persistent_buffers_set": hidden,
    }
    return Made(Global("mine", "Net"), (), states=[state])


def test_a_plain_state_dict_needs_no_words():
    assert names({"a": t(), "b.c": t()}) == ["a", "b.c"]
    assert notes({"a": t(), "b.c": t()}) == ""
    assert names({}) == []


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net", "ema", "generator"])
def test_wrappers(key):
    tree = {"epoch": 3, key: {"a": t()}, "optimizer": {"state": {0: {"m": t()}}}}
    assert names(tree) == ["a"]
    said = notes(tree)
    assert f"taken from the part '{key}'" in said
    assert "--at optimizer" in said
    assert "epoch" in said
    assert names(tree, at="optimizer") == ["0.m"]


def test_wrappers_in_wrappers():
    assert names({"model": {"state_dict": {"a": t()}, "step": 1}}) == ["a"]
    assert "taken from the part 'model.state_dict'" in notes({"model": {"state_dict": {"a": t()}, "step": 1}})


def test_preferred_parts_win_and_say_so():
    tree = {"model": {"a": t()}, "ema": {"a": t()}}
    assert names(tree) == ["a"]
    assert "tensors also in ema; choose with --at ema" in notes(tree)


def test_several_models_are_never_guessed():
    tree = {"generator": {"a": t()}, "discriminator": {"b": t()}, "optimizer_g": {"m": t()}}
    with pytest.raises(CheckpointError, match=r"several parts .* --at generator, --at discriminator, or --at \."):
        names(tree)
    assert names(tree, at="discriminator") == ["b"]
    assert names(tree, at=".") == ["generator.a", "discriminator.b", "optimizer_g.m"]


def test_only_an_optimizer_is_no_model():
    with pytest.raises(CheckpointError, match="no part of it is a model; choose one: --at optimizer"):
        names({"optimizer": {"state": {0: {"m": t()}}}, "epoch": 1})


def test_words_of_training_inside_other_words_do_not_count():
    assert names({"upscaler": {"a": t()}, "lr_schedulers": {"b": t()}}) == ["a"]
    assert names({"sample_model": {"a": t()}, "optimizer_g": {"m": t()}, "loops": {"b": t()}}) == ["a"]


def test_a_tensor_next_to_the_model_is_told():
    assert names({"model": {"a": t()}, "step": t()}) == ["a"]
    assert "tensors also in step" in notes({"model": {"a": t()}, "step": t()})


def test_nested_dicts_of_tensors_are_joined():
    tree = {"state_dict": {"encoder": {"w": t()}, "decoder": {"x": {"w": t()}}}}
    assert names(tree) == ["encoder.w", "decoder.x.w"]
    assert "joined" in notes(tree)


def test_names_that_collide_are_refused():
    with pytest.raises(CheckpointError, match=r"a\.b: two tensors"):
        names({"a.b": t(), "a": {"b": t()}})
    with pytest.raises(CheckpointError, match="0: two tensors"):
        names({"0": t(), 0: t()})


def test_what_is_no_tensor_is_left_out_with_a_note():
    sparse = Made(Global("torch._utils", "_rebuild_sparse_tensor"), (t(),))
    tree = {"a": t(), "_metadata": {"version": 1}, "b._extra_state": None, "n": 3, "s": sparse, "l": [t()]}
    assert names(tree) == ["a"]
    said = notes(tree)
    assert "no tensors: _metadata, b._extra_state, n" in said
    assert "_rebuild_sparse_tensor: s" in said
    assert "lists of tensors: l" in said
    assert find_state_dict(tree, at=None, source="file").left_out_tensors == ["s", "l.0"]


def test_only_parts_that_work_are_hinted_at():
    tree = {"g": {"a": t()}, "d": {"b": t()}, "losses": [t()], "many": [{"c": t()}, 3], "": {"x": t()}}
    with pytest.raises(CheckpointError, match=r"choose one: --at g, --at d, --at many\.0, or --at \."):
        names(tree)
    assert "choose with" not in notes({"model": {"a": t()}, "step": t()})


def test_looking_for_parts_that_work_ends():
    barren = {"tensors": [t()]} | {f"n{i}": i for i in range(100_000)}
    started = time.process_time()
    with pytest.raises(CheckpointError, match=r"choose one: --at good, or --at \."):
        names({"good": {"a": t()}} | {f"m{i}": barren for i in range(200)})
    assert time.process_time() - started < 5


def test_left_out_entries_are_counted_and_few_are_kept():
    found = find_state_dict({"a": t()} | {f"n{i}": 3 for i in range(1000)}, at=None, source="file")
    assert found.all_notes() == ("left out, as they are no tensors: n0, n1, n2, n3, n4 and 995 more",)
    assert sum(map(len, found.left_out.values())) == 5


def test_a_bare_tensor_says_what_to_do():
    for tree in (t(), [t()]):
        with pytest.raises(CheckpointError, match=r"Save tensors under names, with torch\.save"):
            names(tree)


def test_names_that_are_no_text():
    tree = {0: t(), 1: t(), OddKey(("x",)): t()}
    assert names(tree) == ["0", "1"]
    assert "numbers" in notes(tree) and "(an object)" in notes(tree)
    with pytest.raises(CheckpointError, match="not valid text"):
        names({"\ud800": t()})


@pytest.mark.parametrize(
    ("tree", "kind"),
    [(t(), "one bare tensor"), ([t()], "a list"), (3, "a int"), (Made(Global("a", "B"), ()), "an object of type a.B")],
)
def test_what_is_no_state_dict_says_what_it_is(tree, kind):
    with pytest.raises(CheckpointError, match=f"there are no tensors with names: it is {kind}"):
        names(tree)


def test_modules():
    child = module({"weight": t("1"), "bias": None}, {"mean": t("2"), "hidden": t("3")}, passing=["hidden"])
    root = module({"p": t()}, modules={"child": child, "twin": child, "none": None})
    expected = ["p", "child.weight", "child.mean", "twin.weight", "twin.mean"]
    assert names(root) == expected
    assert names({"model": root, "optimizer": {"m": t()}}) == expected
    assert names({"model": root}, at="model") == expected


def test_script_objects():
    inner = Made(Global("__torch__.torch.nn", "Linear"), (), states=[{"weight": t(), "training": True}])
    root = Made(Global("__torch__", "M"), (), states=[{"a": inner, "scale": t(), "_flag": None}])
    assert names(root) == ["a.weight", "scale"]


def test_a_dict_of_an_unknown_class_is_a_dict():
    assert names(Made(Global("mine", "Dict"), (), entries={"a": t()})) == ["a"]
    assert names({"state_dict": Made(Global("mine", "Dict"), (), entries={"a": t()})}) == ["a"]


def test_at_follows_keys_with_dots_lists_and_attributes():
    tree = {"a.b": {"c": [{"x": t()}]}, "o": Made(Global("mine", "Box"), (), states=[{"net": {"y": t()}}])}
    assert names(tree, at="a.b.c.0") == ["x"]
    assert names(tree, at="o.net") == ["y"]
    with pytest.raises(CheckpointError, match=r"at=a\.q: there is no part 'a\.q'; there is: a\.b, o"):
        names(tree, at="a.q")
    with pytest.raises(CheckpointError, match="one tensor, not a part"):
        names(tree, at="o.net.y")
    with pytest.raises(CheckpointError, match="no tensors in the part 'b'"):
        names({"a": {"x": t()}, "b": {"n": 1}}, at="b")


def test_cycles_and_repetition_end():
    loop: dict[object, object] = {"a": t()}
    loop["self"] = loop
    assert names(loop) == ["a"]
    assert "contain themselves: self" in notes(loop)
    level: object = {"a": t()}
    for _ in range(40):
        level = {"x": level, "y": level}
    with pytest.raises(CheckpointError, match=r"more than 500,000 tensors|no end is in sight"):
        names(level, at=".")


def test_depth_ends():
    deep: object = {"a": t()}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(CheckpointError, match="nested more than 10,000 deep"):
        names(deep)
