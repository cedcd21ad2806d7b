"""Runs rules on a checkpoint: into a state dict, a file or a folder, by streaming and whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint, Source, read_config
from ckptmap.conversion.labels import with_labels_of
from ckptmap.conversion.loading import load_into as load_into
from ckptmap.conversion.output import Output, Progress, Work, metadata_of, write_output
from ckptmap.conversion.reading import FileStates, Reader, check_ties, float_dtype, local_path, narrows, opened
from ckptmap.conversion.residue import Filler, Residue, open_residue, pieces, shapes_in, write_residue
from ckptmap.conversion.run import state_dict_of
from ckptmap.conversion.schedule import Schedule, schedule
from ckptmap.conversion.stamp import RulesLike, architecture_in, make_task, rule_file_path
from ckptmap.errors import ConvertError
from ckptmap.files import Staging
from ckptmap.printable import lines_of
from ckptmap.rules.plan import Plan
from ckptmap.spec import TensorSpec
from ckptmap.writing.folder import companions, parse_size
from ckptmap.writing.inplace import replace_header, roll_back
from ckptmap.writing.places import check_targets
from ckptmap.writing.safetensors import header_bytes

if TYPE_CHECKING:
    import torch

FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote.

    Attributes:
        files: The files with weights, as paths.
        tensors: How many tensors they hold.
        nbytes: Bytes of these.
        left_out: Tensors, and parts of some as `name[axis:start:length]`, that have no place on the written side.
        missing: Tensors of the written side that were not written: nothing gave their values, or no rule names them.
        tied: Second names that are not stored, each with the name it stands for.
        casts: Old and new dtype, and how many tensors went from one to the other.
        residue: Where what was left out is kept.
        leftovers: Temporary files of runs that were cut short, which were removed.
    """

    files: tuple[str, ...]
    tensors: int
    nbytes: int
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    casts: tuple[tuple[str, str, int], ...] = ()
    residue: str | None = None
    leftovers: tuple[str, ...] = ()

    @property
    def narrowed(self) -> tuple[tuple[str, str, int], ...]:
        """Those casts that may lose bits or range."""
        return tuple(cast for cast in self.casts if narrows(cast[0], cast[1]))


def convert(
    rules: RulesLike,
    checkpoint: Checkpoint | Source,
    out: str | os.PathLike[str] | None = None,
    *,
    back: bool = False,
    residue: Residue | None = None,
    base: Checkpoint | Source | None = None,
    sizes: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    partial: bool = False,
    dtype: str | None = None,
    max_shard_size: str | int | None = None,
    like: str | os.PathLike[str] | None = None,
    architecture: str | None = None,
    force: bool = False,
    in_place: bool = False,
    to_bin: bool = False,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor] | Conversion:
    """Convert a checkpoint by rules, left to right or, with `back`, right to left; every bit of every value survives.

    Args:
        rules: Rules, a rule file, a bound plan, or None for those that the checkpoint carries in its header.
        checkpoint: What to read.
        out: A file or folder to write; None for a state dict, whose merely renamed tensors are those of a live source.
        back: Run the rules from right to left.
        residue: What has no home on the other side: written going one way, read coming back.
        base: A checkpoint or model of the written side, for what has no source.
        sizes: Lengths of axes that shapes do not tell.
        config: In place of the config.json beside the checkpoint.
        partial: Leave out what no rule covers, and list it.
        dtype: Make every floating-point tensor this.
        max_shard_size: Split a folder's weights into files no larger (`5GB`).
        like: A folder or repo whose config, tokenizer and generation files a folder gets too.
        architecture: Class for the config; by default the one that the rules name last for the written side.
        force: Overwrite what exists.
        in_place: Rename within the file itself; it is the checkpoint, and `out` is None.
        to_bin: Write a file of torch.save, all of it in memory.
        progress: Told of the bytes written and to write.

    Returns:
        A state dict when nothing is written, else what was written.

    Raises:
        ConvertError: The data do not allow it: a broken tie, padding that is not zero, a missing residue, a target that
            exists, a second conversion.
        PlanError: The rules do not fit the checkpoint.
        RuleError: The rule file is wrong.
        CheckpointError: Something cannot be read or written.
    """
    wanted = None if dtype is None else float_dtype(dtype)
    largest = None if max_shard_size is None else parse_size(max_shard_size)
    target = None if out is None else Path(out)
    folder = target is not None and (target.is_dir() or target.suffix not in FILE_SUFFIXES)
    _check_options(target, folder, in_place=in_place, to_bin=to_bin, like=like, largest=largest, dtype=wanted)
    with ExitStack() as stack:
        source = stack.enter_context(opened(checkpoint))
        given = stack.enter_context(opened(base)) if base is not None else None
        writes = "left" if back else "right"
        kept = open_residue(residue, writes, source)
        base_shapes = {} if given is None else {name: spec.shape for name, spec in given.items()}
        task = make_task(
            rules,
            source,
            back=back,
            sizes=sizes,
            config=_config(config, source, given, like),
            partial=partial,
            hints={**base_shapes, **shapes_in(kept)},
            residue=kept,
        )
        reader = Reader(source, wanted, reuse=target is not None and not to_bin)
        stack.callback(reader.close)
        filler = Filler(kept, given)
        filler.check(task.plan)
        made = schedule(task.plan, reader, filler.dtypes, filler.keys)
        made = replace(made, missing=(*made.missing, *_unnamed(given, task.plan)))
        kept_to = None if kept is not None or not made.homeless else residue
        work = Work(task, made, reader, filler)
        states = FileStates([one for one in (source, given, kept) if one is not None])
        if in_place:
            return _in_place(work, states)
        if target is None:
            return _in_memory(work, kept_to, states)
        beside = _beside(like, architecture or architecture_in(task.side_text), made) if like is not None else {}
        inputs = [*_files_of(source), *_files_of(given), *_files_of(kept)]
        inputs += [path for path in (rule_file_path(rules),) if path is not None]
        kept_file = Path(kept_to) if kept_to is not None and not isinstance(kept_to, Mapping) else None
        output = Output(target, folder, beside, kept_file, largest, to_bin, force, progress)
        rest = _rest(work, kept_to)
        files, leftovers = write_output(work, output, inputs, states)
        if isinstance(kept_to, Mapping):
            kept_to.update(rest)
        return replace(_summary(files, work, kept_to), leftovers=leftovers)


def undo(file: str | os.PathLike[str]) -> bool:
    """Roll back a conversion in place that was cut short; whether there was one."""
    return roll_back(Path(file))


def _config(
    config: Mapping[str, Any] | None, source: Checkpoint, base: Checkpoint | None, like: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """What sizes may be looked up in: the config given, else the source's; of the others what that does not say."""
    own = source.config if config is None else config
    beside = read_config(os.fspath(like)) if like is not None else None
    return {**(beside or {}), **((base.config if base is not None else None) or {}), **(own or {})}


def _unnamed(base: Checkpoint | None, plan: Plan) -> list[str]:
    """What a base has and no rule makes."""
    seconds = {second for second, _ in plan.right_ties}
    return [name for name in base or () if name not in plan.right and name not in seconds]


def _check_options(
    target: Path | None, folder: bool, *, in_place: bool, to_bin: bool, like: object, largest: object, dtype: object
) -> None:
    wrong = [
        (in_place and target is not None, "--in-place writes no other file; leave OUT out"),
        (in_place and (to_bin or dtype is not None), "--in-place changes names only; leave --dtype and --to-bin out"),
        (like is not None and not folder, "--like fills a folder; name a folder as OUT"),
        (largest is not None and not folder, "--max-shard-size splits into files of a folder; name a folder as OUT"),
        (to_bin and (target is None or folder), "--to-bin writes one file; name it, for example pytorch_model.bin"),
        (
            target is not None and not folder and not to_bin and target.suffix != ".safetensors",
            f"{target}: ckptmap writes safetensors; name OUT *.safetensors or a folder, or ask with --to-bin",
        ),
    ]
    if problems := [text for is_wrong, text in wrong if is_wrong]:
        raise ConvertError(lines_of(problems))


def _files_of(checkpoint: Checkpoint | None) -> list[Path]:
    if checkpoint is None:
        return []
    paths = [local_path(checkpoint, file) for file in checkpoint.files]
    return [path for path in paths if path is not None]


def _beside(like: str | os.PathLike[str], architecture: str | None, made: Schedule) -> dict[str, bytes]:
    """The small files of a transformers folder, the config as the written head needs it."""
    files = companions(like, architecture)
    config = json.loads(files["config.json"])
    fitting = with_labels_of(config, like, made.outputs)
    if fitting != config:
        files["config.json"] = json.dumps(fitting, indent=2, ensure_ascii=False).encode() + b"\n"
    return files


def _rest(work: Work, residue: Residue | None) -> dict[str, torch.Tensor]:
    """What has no home, for a residue that is a dict."""
    if not isinstance(residue, Mapping):
        return {}
    with closing(Reader(work.reader.checkpoint, reuse=False)) as reader:
        return dict(pieces(work.made.homeless, reader))


def _in_memory(work: Work, residue: Residue | None, states: FileStates) -> dict[str, torch.Tensor]:
    """A state dict, and what has no home in it in a dict or a file."""
    source, made = work.reader.checkpoint, work.made
    check_ties(work.task.plan.left_ties, source)
    tensors = state_dict_of(made.steps, work.task.plan, work.reader, work.filler)
    rest = _rest(work, residue)
    with Staging(overwrite=False) as staging:
        if residue is not None and not isinstance(residue, Mapping):
            check_targets([Path(residue)], _files_of(source), force=False)
            with closing(Reader(source)) as reader:
                write_residue(staging, Path(residue), made.homeless, reader, work.task.reads, work.task.stamp)
        states.check()
        staging.commit()
    if isinstance(residue, Mapping):
        residue.update(rest)
    return tensors


def _in_place(work: Work, states: FileStates) -> Conversion:
    source, made = work.reader.checkpoint, work.made
    files = _files_of(source)
    if len(files) != 1 or files[0].suffix != ".safetensors" or not files[0].is_file():
        raise ConvertError(f"{source.source}: --in-place needs one safetensors file on this machine; name OUT instead")
    names = {step.renamed: step.outputs[0].name for step in made.steps if step.renamed is not None}
    if changed := [step.equation.line for step in made.steps if step.renamed is None]:
        raise ConvertError(
            f"{files[0]}: the rule in line {changed[0]} does more than rename, and --in-place writes no data; name OUT"
        )
    if lost := [name for name in source if name not in names]:
        raise ConvertError(f"{files[0]}: {lost[0]} would be left out, and --in-place keeps all data; name OUT")
    order = sorted(source, key=lambda name: (source.locate(name).offset, source[name].nbytes))
    specs = [TensorSpec(names[name], source[name].shape, source[name].dtype) for name in order]
    leftovers = replace_header(
        files[0], header_bytes(specs, metadata_of(work, work.task.stamp), blanks=0), states.check
    )
    return replace(_summary((str(files[0]),), work, None), leftovers=leftovers)


def _summary(files: tuple[str, ...], work: Work, residue: Residue | None) -> Conversion:
    made, outputs = work.made, work.made.outputs
    return Conversion(
        files,
        len(outputs),
        sum(spec.nbytes for spec in outputs),
        made.left_out,
        made.missing,
        work.task.plan.right_ties,
        tuple((old, new, count) for (old, new), count in made.casts.items()),
        None if residue is None or isinstance(residue, Mapping) else os.fspath(residue),
    )
