"""Scores `ckptmap heads` against recorded real loads, and times it: `python benchmarks/heads.py --truth DIR`."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import files
import measure
from measure import Row

from ckptmap.errors import ArchitectureError
from ckptmap.heads import cache, class_inventory
from ckptmap.heads.classes import InternalsChangedError, family, library_version
from ckptmap.heads.inventory import ClassInventory
from ckptmap.heads.prediction import predict
from ckptmap.heads.reports import head_report

Names: TypeAlias = frozenset[Any]

WAYS = ("without the cache", "with the cache")
LISTS = ("missing", "unexpected", "mismatched", "newly_initialized", "silent")
"""What a load is compared by, as the record calls it; `silent` is initialised and named nowhere in the report."""
SHOWN = 6
"""Names of a disagreement that are printed on each side."""

HOW = """\
`ckptmap heads FOLDER` on a checkpoint of bert-base's names and shapes (BF16, its data a hole in the file), for all
classes of the family. Cold: no inventory on disk; warm: all of them. The peer calls `from_pretrained(FOLDER,
output_loading_info=True)` for each class, in one process. Wall time of the whole process, medians of 5."""

BARS = {"cold": 5.0, "warm": 0.7}

BERT = {
    "model_type": "bert",
    "architectures": ["BertForPreTraining"],
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
BY_HEADERS = "import sys; from ckptmap.heads import heads; heads(sys.argv[1])"
BY_LOADING = """
import sys, transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
for name in sys.argv[2:]:
    getattr(transformers, name).from_pretrained(sys.argv[1], output_loading_info=True)
"""


@dataclass
class Score:
    """Pairs of one or several model types: how many agree on each list, by way and kind, and which do not."""

    pairs: Counter[str] = field(default_factory=Counter)
    agree: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def add(self, other: Score) -> None:
        """Count another score in."""
        self.pairs += other.pairs
        self.agree += other.agree
        self.disagreements += other.disagreements
        self.not_run += other.not_run


def main() -> int:
    """Run what is asked for; 1 if a prediction is wrong or a bar does not hold, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", metavar="DIR", type=Path, help="folder of recorded loads, one gzipped JSON a type")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count(), help="processes that score")
    parser.add_argument("--no-truth", action="store_true", help="only time")
    parser.add_argument("--no-times", action="store_true", help="only score")
    args = parser.parse_args()
    holds = True
    if not args.no_truth:
        if args.truth is None or not (paths := sorted(args.truth.glob("*.json.gz"))):
            parser.error("--truth must name a folder of recorded loads; or give --no-truth")
        score = score_all(paths, args.jobs)
        print(scored(score, len(paths)))
        holds = not score.disagreements
    if not args.no_times:
        with tempfile.TemporaryDirectory() as folder:
            rows = run(Path(folder))
        print(timed(rows))
        holds = holds and all(row.holds is not False for row in rows)
    return 0 if holds else 1


def score_all(paths: Iterable[Path], jobs: int) -> Score:
    """Score every model type, each in one of several processes."""
    total = Score()
    with ProcessPoolExecutor(jobs) as pool:
        for score in pool.map(score_type, paths):
            total.add(score)
    return total


def score_type(path: Path) -> Score:
    """Score one model type twice: with inventories just built, and with those that the cache gives back."""
    record = json.loads(gzip.decompress(path.read_bytes()))
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pair in record["pairs"]:
        asked = [pair["loaded_class"], record["configs"][pair["config"]], pair["kwargs"]]
        groups[json.dumps(asked)].append(pair)
    score = Score()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CKPTMAP_CACHE"] = folder
        for group, pairs in groups.items():
            class_name, config, overrides = json.loads(group)
            try:
                found = _fresh_and_cached(class_name, config, overrides)
            except (ArchitectureError, InternalsChangedError) as error:
                score.not_run += [f"{_called(record, pair)}: {type(error).__name__}: {error}" for pair in pairs]
                continue
            for pair in pairs:
                score.pairs[pair["kind"]] += 1
                stored = record["checkpoints"][pair["checkpoint"]]["tensors"]
                for way, inventory in zip(WAYS, found, strict=True):
                    _compare(score, way, _called(record, pair), pair, _predicted(inventory, stored))
    return score


def _fresh_and_cached(class_name: str, config: Any, overrides: Any) -> tuple[ClassInventory, ClassInventory]:
    """The inventory as built, and as the cache gives it back."""
    fresh = _counting_misses(class_name, config, overrides, misses=1)
    return fresh, _counting_misses(class_name, config, overrides, misses=0)


def _counting_misses(class_name: str, config: Any, overrides: Any, *, misses: int) -> ClassInventory:
    """Ask for an inventory, and make sure that it was built (a miss is kept) or was not."""
    kept: list[str] = []
    keep = cache.keep

    def counting(key: str, inventory: ClassInventory) -> None:
        kept.append(key)
        keep(key, inventory)

    cache.keep = counting
    try:
        inventory = class_inventory(class_name, config, overrides, None)
    finally:
        cache.keep = keep
    if len(kept) != misses:
        raise SystemExit(f"{class_name}: {len(kept)} inventories were built where {misses} should be: {kept}")
    return inventory


def _predicted(inventory: ClassInventory, stored: list[Any]) -> dict[str, Names]:
    """The lists that we predict, and conversions that fail, which none does in a load that was recorded."""
    prediction = predict(inventory, {name: tuple(shape) for name, shape, _ in stored})
    report = head_report(inventory, prediction, {})
    return {
        "missing": report.missing_keys,
        "unexpected": report.unexpected_keys,
        "mismatched": report.mismatched_keys,
        "newly_initialized": report.newly_initialized,
        "silent": report.unreported,
        "errors": frozenset(report.errors),
    }


def _compare(score: Score, way: str, called: str, pair: Mapping[str, Any], predicted: Mapping[str, Names]) -> None:
    unverifiable = frozenset(pair["unverifiable"])
    for name, ours in predicted.items():
        if name == "mismatched":
            real = frozenset((key, tuple(stored), tuple(wanted)) for key, stored, wanted in pair["mismatched"])
        else:
            real = frozenset(pair.get(name, ()))
        if name in ("newly_initialized", "silent"):
            ours, real = ours - unverifiable, real - unverifiable
        if ours == real:
            score.agree[way, pair["kind"], name] += 1
        else:
            score.disagreements.append(
                f"{way}: {called}: {name}: only predicted: {_some(ours - real)}; only real: {_some(real - ours)}"
            )


def _called(record: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    kwargs = f" {pair['kwargs']}" if pair["kwargs"] else ""
    return f"{record['model_type']}: {pair['checkpoint']} into {pair['loaded_class']} ({pair['kind']}{kwargs})"


def _some(names: Names) -> str:
    texts = sorted(map(str, names))
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "") or "none"


def scored(score: Score, types: int) -> str:
    """The score as Markdown."""
    pairs = sum(score.pairs.values())
    lines = [f"## {pairs:,} recorded loads of {types} model types, transformers {library_version()}", ""]
    lines += ["| inventories | kind | pairs | " + " | ".join(LISTS) + " |", "|---" * (3 + len(LISTS)) + "|"]
    for way in WAYS:
        for kind in (*sorted(score.pairs), None):
            kinds = [kind] if kind else list(score.pairs)
            agree = [sum(score.agree[way, one, name] for one in kinds) for name in LISTS]
            total = sum(score.pairs[one] for one in kinds)
            cells = [f"{_share(number, total)}" for number in agree]
            lines.append(f"| {way} | {kind or '**all**'} | {total:,} | " + " | ".join(cells) + " |")
    lines += ["", f"Disagreements: {len(score.disagreements) or 'none'}."]
    lines += ["", *(f"- {text}" for text in score.disagreements)] if score.disagreements else []
    lines += ["", f"Loads that could not be predicted: {len(score.not_run) or 'none'}."]
    lines += ["", *(f"- {text}" for text in score.not_run)] if score.not_run else []
    return "\n".join(lines) + "\n"


def _share(number: int, total: int) -> str:
    return "100 %" if number == total else f"{number:,} of {total:,} ({100 * number / total:.2f} %)"


def run(folder: Path) -> list[Row]:
    """Time the whole process, cold and warm, beside the peer's way."""
    checkpoint = folder / "bert-base"
    checkpoint.mkdir()
    files.write_safetensors(checkpoint / "model.safetensors", bert_shapes())
    (checkpoint / "config.json").write_text(json.dumps(BERT))
    os.environ["HF_HUB_OFFLINE"] = "1"
    verb = (measure.ROOT / "ckptmap" / "cli" / "heads.py").exists()
    asked = ("-m", "ckptmap", "heads", str(checkpoint)) if verb else ("-c", BY_HEADERS, str(checkpoint))

    def ours(kept: str) -> measure.Run:
        os.environ["CKPTMAP_CACHE"] = kept
        return measure.command(*asked)

    def cold() -> measure.Run:
        with tempfile.TemporaryDirectory(dir=folder) as empty:
            return ours(empty)

    classes = family("bert")
    took = measure.by_turns(
        5,
        cold=cold,
        warm=lambda: ours(str(folder / "cache")),
        loading=lambda: measure.command("-c", BY_LOADING, str(checkpoint), *classes),
    )
    loading = took["loading"].process
    peer = f"from_pretrained, {len(classes)} classes: {_seconds(loading)}"
    what = "`ckptmap heads FOLDER`" if verb else "`heads(FOLDER)`"
    return [
        Row(f"{what}, {way}", _seconds(took[way].process), peer, took[way].process / loading, f"≤ {_seconds(bar)}", ok)
        for way, bar in BARS.items()
        for ok in [took[way].process <= bar]
    ]


def bert_shapes() -> files.Shapes:
    """Names and shapes of bert-base as its file has them, with the heads that it was trained with."""
    width, inner = BERT["hidden_size"], BERT["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"] = (out, into)
        shapes[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.LayerNorm.gamma"] = shapes[f"{name}.LayerNorm.beta"] = (width,)

    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        shapes[f"bert.embeddings.{name}_embeddings.weight"] = (BERT[rows], width)
    norm("bert.embeddings")
    for layer in range(BERT["num_hidden_layers"]):
        prefix = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            linear(f"{prefix}.attention.self.{name}", width, width)
        linear(f"{prefix}.attention.output.dense", width, width)
        norm(f"{prefix}.attention.output")
        linear(f"{prefix}.intermediate.dense", inner, width)
        linear(f"{prefix}.output.dense", width, inner)
        norm(f"{prefix}.output")
    linear("bert.pooler.dense", width, width)
    linear("cls.predictions.transform.dense", width, width)
    norm("cls.predictions.transform")
    shapes["cls.predictions.bias"] = (BERT["vocab_size"],)
    linear("cls.seq_relationship", 2, width)
    return shapes


def timed(rows: Iterable[Row]) -> str:
    """The times as Markdown."""
    lines = ["## Times", "", HOW, "", "| what | ours | peer | ours / peer | bar | holds |", "|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "–" if row.holds is None else "yes" if row.holds else "**no**"
        lines.append(f"| {row.what} | {row.ours} | {row.peer} | {row.ratio:.3f} | {row.bar} | {verdict} |")
    return "\n".join(lines) + "\n"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
