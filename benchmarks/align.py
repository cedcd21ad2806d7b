"""How many tensors of real architectures `ckptmap.remap` gets right, wrong, or leaves open; and what peers get.

    python benchmarks/align.py --cases DIR [--builders DIR] [--mode names|modules|values|both] [--exact] [CASE …]

DIR holds cases with third-party truth (`<id>.json`); its parent folder has `score.py` and `harness.py`. Builders are
Python files that build both models. Every case runs in a process of its own; one that crashes counts as left open.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align_peers import PEERS, missing

LIMIT = 600
"""Seconds that one case may take."""

DTYPES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}


COUNTS = {"right": "right", "WRONG": "wrong", "abstained": "abstained"}


def main() -> int:
    """Run the benchmark; 0 unless something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--builders", type=Path)
    parser.add_argument("--mode", choices=("names", "modules", "values", "both"), default="both")
    parser.add_argument("--exact", action="store_true", help="compare every element, not only sources and operations")
    parser.add_argument("--out", type=Path, help="keep predictions there, in a folder for each mode if there are two")
    parser.add_argument("--peers", action="store_true", help="score peers that match names and shapes, too")
    parser.add_argument("--child", nargs=3, metavar=("MODE", "ID", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("only", nargs="*", metavar="CASE", help="cases to run; all by default")
    args = parser.parse_args()
    args.cases = args.cases.resolve()
    args.builders = args.builders.resolve() if args.builders else args.cases.parent / "builders"
    if args.child:
        predict(args.child[0], args.child[1], Path(args.child[2]), args)
        return 0
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        out = (args.out or Path(temporary)).resolve()
        for peer in PEERS if args.peers else ():
            run_peer(peer, args)
        for mode in ("names", "modules") if args.mode == "both" else (args.mode,):
            wrong += run_mode(mode, out / mode if args.mode == "both" else out, args)
    return 1 if wrong else 0


# ------------------------------------------------------------------ all cases of a mode


def run_mode(mode: str, out: Path, args: argparse.Namespace) -> int:
    """Predict every case and score the predictions; the number of wrong keys."""
    score = module_of(args.cases.parent / "score.py")
    out.mkdir(parents=True, exist_ok=True)
    ids = case_ids(args)
    if mode != "names":
        ids = [one for one in ids if (args.builders / f"{one}.py").is_file()]
    if args.exact:
        ids = [one for one in ids if not one.startswith("full_")]
    print(f"== {mode}: {len(ids)} cases")
    rows = []
    for one in ids:
        target = out / f"{one}.{'npz' if args.exact else 'json'}"
        target.unlink(missing_ok=True)
        start = time.perf_counter()
        failed = in_child(mode, one, target, args)
        seconds = time.perf_counter() - start
        case = json.loads((args.cases / f"{one}.json").read_text())
        rows.append(scored(score, case, target, exact=args.exact))
        counts = "  ".join(f"{key} {rows[-1][name]:>5}" for key, name in COUNTS.items())
        full = "  full" if rows[-1]["full"] else ""
        print(f"{one:<44} {counts}  {seconds:6.1f} s{full}{failed and f'  {failed}'}", flush=True)
    print(total_line(rows))
    return sum(int(row["wrong"]) for row in rows)


def case_ids(args: argparse.Namespace) -> list[str]:
    """The cases asked for, in order."""
    return [one for one in sorted(path.stem for path in args.cases.glob("*.json")) if not args.only or one in args.only]


def in_child(mode: str, one: str, target: Path, args: argparse.Namespace) -> str:
    """Predict one case in a process of its own; what went wrong, if anything did."""
    argv = [sys.executable, __file__, "--cases", str(args.cases), "--builders", str(args.builders)]
    argv += ["--exact"] * args.exact + ["--child", mode, one, str(target)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {LIMIT} s"
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""


def scored(score: Any, case: Mapping[str, Any], path: Path, *, exact: bool) -> dict[str, Any]:
    """The case's score; no prediction counts as left open."""
    import numpy

    if exact:
        made = dict(numpy.load(path)) if path.is_file() else {}
        return dict(score.score_exact(case, made)[0])
    return dict(score.score_case(case, json.loads(path.read_text()) if path.is_file() else [])[0])


def total_line(rows: list[dict[str, Any]]) -> str:
    """The sums, as the scorer prints them."""
    sums = {key: sum(int(row[key]) for row in rows) for key in ("keys", "right", "wrong", "abstained", "full")}
    whole, keys = 100 * sums["full"] / max(1, len(rows)), 100 * sums["right"] / max(1, sums["keys"])
    return (
        f"TOTAL  cases {len(rows)}  fully right {sums['full']} ({whole:.1f}%)  keys {sums['keys']}  "
        f"right {sums['right']} ({keys:.2f}%)  WRONG {sums['wrong']}  ABSTAINED {sums['abstained']}"
    )


# ------------------------------------------------------------------ one case


def predict(mode: str, one: str, target: Path, args: argparse.Namespace) -> None:
    """Run inference on a case and write what it predicts."""
    import numpy
    import torch

    import ckptmap

    case = json.loads((args.cases / f"{one}.json").read_text())
    score = module_of(args.cases.parent / "score.py")
    remap = {"modules": remap_modules, "values": remap_values}.get(mode)
    found = remap(one, args) if remap else remap_names(case)
    if not args.exact:
        target.write_text(json.dumps(operations(found, case)))
        return
    source = score.numbered_source(case)
    for group in case["tied"].get("source", []):
        # Numbers tell names apart that are one tensor in the model.
        source |= {name: source[group[0]] for name in group[1:] if name in source}
    state = {name: torch.from_numpy(numpy.array(array)) for name, array in source.items()}
    made = ckptmap.convert(found.rules, state, partial=True)
    assert isinstance(made, dict)
    numpy.savez(target, **{name: tensor.numpy() for name, tensor in made.items()})


def remap_names(case: Mapping[str, Any]) -> Any:
    """What names and shapes tell."""
    import ckptmap

    sides = (
        {name: ckptmap.TensorSpec(name, tuple(shape), DTYPES.get(dtype, "F32")) for name, shape, dtype in case[key]}
        for key in ("source_tensors", "target_tensors")
    )
    return ckptmap.remap(*sides)


def built(one: str, args: argparse.Namespace) -> Any:
    """The builder of a case."""
    sys.path[:0] = [str(args.builders.parent), str(args.cases.parent), str(args.builders)]
    return module_of(args.builders / f"{one}.py")


def remap_values(one: str, args: argparse.Namespace) -> Any:
    """What equal weights tell: random ones of the left, and what the authors' own converter makes of them."""
    import torch

    import ckptmap

    builder = built(one, args)
    state = builder.source().state_dict()
    torch.manual_seed(3)
    state = {name: torch.randn(t.shape) if t.is_floating_point() else t.clone() for name, t in state.items()}
    made = builder.convert({name: tensor.clone() for name, tensor in state.items()})
    return ckptmap.remap(state, {name: tensor.detach().clone() for name, tensor in made.items()})


def remap_modules(one: str, args: argparse.Namespace) -> Any:
    """What running both models tells."""
    import ckptmap

    builder = built(one, args)
    left, right = builder.source().eval(), builder.target().eval()
    if not hasattr(builder, "inputs"):
        return ckptmap.remap(left, right)
    ours, theirs = builder.inputs()
    return ckptmap.remap(
        left,
        right,
        inputs=(given(ours, getattr(builder, "run_source", None)), given(theirs, getattr(builder, "run_target", None))),
    )


def given(values: Any, run: Any) -> Any:
    """Inputs as `ckptmap.remap` takes them."""
    if run is not None:
        return lambda module: run(module, values)
    return values if isinstance(values, dict | tuple) else (values,)


def operations(found: Any, case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each right tensor its sources and the words for what is done to them."""
    from ckptmap.rules.plan import bind

    left, right = ({name: tuple(shape) for name, shape, _ in case[key]} for key in ("source_tensors", "target_tensors"))
    made = []
    for equation in bind(found.rules, left, right, partial=True).equations:
        for name in equation.right:
            blocks = [b for b in equation.blocks if not isinstance(b.right, str) and b.right.name == name]
            sources = [b.left.name for b in blocks if not isinstance(b.left, str)]
            words = {word for block in blocks for word in block_words(block, left, right)}
            if len(blocks) > 1:
                words.add("concat")
            op = "+".join(sorted(words)) or "identity"
            made.append({"target": name, "sources": list(dict.fromkeys(sources)), "op": op})
    return made


def block_words(block: Any, left: Mapping[str, Any], right: Mapping[str, Any]) -> set[str]:
    """What happens to one block, in the scorer's words."""
    if isinstance(block.left, str):
        return {"other"}
    words = set()
    if block.left.narrow:
        words.add("slice")
    order = [at for at, size in zip(block.left.order, block.shape, strict=True) if size > 1]
    if order != sorted(order):
        words.add("permute" if len(order) > len(left[block.left.name]) else "transpose")
    elif len(left[block.left.name]) != len(right[block.right.name]) and not words:
        words.add("reshape")
    return words


# ------------------------------------------------------------------ peers


def run_peer(peer: str, args: argparse.Namespace) -> None:
    """Score a matcher that knows names and shapes only; it renames and does nothing else."""
    if missing(peer):
        print(f"== peer: {peer}: not run, its package is not installed")
        return
    score = module_of(args.cases.parent / "score.py")
    rows = []
    for one in case_ids(args):
        if args.exact and one.startswith("full_"):
            continue
        case = json.loads((args.cases / f"{one}.json").read_text())
        left, right = ({n: tuple(s) for n, s, _ in case[key]} for key in ("source_tensors", "target_tensors"))
        found = PEERS[peer][1](left, right)
        if args.exact:
            source = score.numbered_source(case)
            rows.append(score.score_exact(case, {name: source[one] for name, one in found.items() if one in source})[0])
        else:
            said = [{"target": name, "sources": [one], "op": "identity"} for name, one in found.items()]
            rows.append(score.score_case(case, said)[0])
    print(f"== peer: {peer}\n{total_line(rows)}")


def module_of(path: Path) -> Any:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
