"""Runs rules on a checkpoint: into a state dict, a file or a folder, by streaming and whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint, Source, read_config
from ckptmap.conversion.labels import with_labels_of
from ckptmap.conversion.loading import load_into as load_into
from ckptmap.conversion.reading import FileStates, Reader, check_ties, float_dtype, local_path, narrows, opened
from ckptmap.conversion.residue import Filler, Residue, open_residue, pieces, shapes_in, write_residue
from ckptmap.conversion.run import tensors_of, write_steps
from ckptmap.conversion.schedule import Schedule, schedule
from ckptmap.conversion.stamp import RulesLike, Task, architecture_in, make_task, rule_file_path
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.files import Staging, check_room, check_targets, locked_folder, remove_leftovers, write_all
from ckptmap.printable import lines_of
from ckptmap.rules.plan import Plan
from ckptmap.spec import TensorSpec
from ckptmap.writing.folder import (
    INDEX,
    SINGLE,
    companions,
    free_names,
    index_of,
    into_shards,
    is_shard,
    is_taken,
    made_folder,
    parse_size,
    replaced_by,
)
from ckptmap.writing.inplace import replace_header, roll_back
from ckptmap.writing.safetensors import Writer, header_bytes

if TYPE_CHECKING:
    import torch

FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
Progress = Callable[[int, int], None]
"""Told of the bytes written and the bytes to write."""


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
        kept = open_residue(residue, writes)
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
        if in_place:
            return _in_place(source, task, made)
        read = FileStates([one for one in (source, given, kept) if one is not None])
        if target is None:
            check_ties(task.plan.left_ties, source)
            tensors = _state_dict(task, made, reader, filler, kept_to)
            read.check()
            return tensors
        beside = _beside(like, architecture or architecture_in(task.side_text), made) if like is not None else {}
        shards = into_shards(made.outputs, largest) if folder else [(target.name, made.outputs)]
        place = target if folder else target.parent
        kept_file = Path(kept_to) if kept_to is not None and not isinstance(kept_to, Mapping) else None
        inputs = [*_files_of(source), *_files_of(given), *_files_of(kept)]
        inputs += [path for path in (rule_file_path(rules),) if path is not None]
        stale: list[Path] = []
        if folder:
            shards = free_names(target, shards)
            stale = replaced_by(target, [name for name, _ in shards] + [INDEX] * (len(shards) > 1)) if force else []
            _check_folder(target, [*beside, *(name for name, _ in shards)], inputs, stale, force=force)
        else:
            check_targets([target], inputs, force=force)
        check_targets([] if kept_file is None else [kept_file], [*inputs, place / shards[0][0]], force=force)
        check_ties(task.plan.left_ties, source)
        if isinstance(kept_to, Mapping):
            _state_dict_residue(made, reader, kept_to)
        if not to_bin:
            check_room(place, sum(spec.nbytes for spec in made.outputs))
        names = {name for name, _ in shards} | ({SINGLE, INDEX, *beside} if folder else set())
        leftovers = remove_leftovers(place, lambda name: name in names or (folder and is_shard(name)))
        with made_folder(place) if folder else nullcontext(), Staging(overwrite=force) as staging:
            if to_bin:
                _write_bin(staging, target, _state_dict(task, made, reader, filler, None))
            else:
                _write(staging, place, shards, _metadata(source, task), made, reader, filler, progress)
            if kept_file is not None:
                write_residue(staging, kept_file, made.homeless, Reader(source), task.reads, task.stamp)
            last = {INDEX: index_of(shards, task.stamp)} if len(shards) > 1 else {}
            for name, data in {**beside, **last}.items():
                with staging.file(place / name) as descriptor:
                    write_all(descriptor, memoryview(data))
            with locked_folder(place):
                read.check()
                if folder and not force and (taken := is_taken(target, list(names))):
                    raise ConvertError(f"{target}: holds {', '.join(taken[:5])} since a moment ago; --force overwrites")
                staging.commit()
                for path in stale:
                    path.unlink(missing_ok=True)
        files = tuple(str(place / name) for name, _ in shards)
        return replace(_summary(files, task, made, kept_to), leftovers=leftovers)


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


def _check_folder(folder: Path, names: list[str], inputs: list[Path], stale: list[Path], *, force: bool) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConvertError(f"{folder}: exists and is no folder")
    if not force and (taken := is_taken(folder, names)):
        raise ConvertError(f"{folder}: holds {', '.join(taken[:5])}; --force overwrites")
    check_targets([folder / name for name in names] if folder.is_dir() else [], inputs, force=True)
    read = {os.path.realpath(path) for path in inputs}
    if lost := [str(path) for path in stale if os.path.realpath(path) in read]:
        raise ConvertError(f"{lost[0]}: is read by this conversion, and would be replaced; write to another place")


def _metadata(source: Checkpoint, task: Task) -> dict[str, str]:
    own = {key: text for key, text in source.metadata.items() if not key.startswith("ckptmap.")}
    # Readers of transformers ask for a format, and only torch's has tensors that ckptmap reads.
    return {**own, "format": "pt", **task.stamp}


def _write(
    staging: Staging,
    folder: Path,
    shards: list[tuple[str, list[TensorSpec]]],
    metadata: Mapping[str, str],
    made: Schedule,
    reader: Reader,
    filler: Filler,
    progress: Progress | None,
) -> None:
    """Write shards one after another."""
    total, done = sum(spec.nbytes for _, specs in shards for spec in specs), 0

    def report(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(min(done, total), total)

    headers = [header_bytes(specs, metadata) for _, specs in shards]  # refused before byte one, if at all
    shard_of = {spec.name: number for number, (_, specs) in enumerate(shards) for spec in specs}
    current, writer = -1, None
    with ExitStack() as last:

        def writer_for(spec: TensorSpec | None) -> Writer:
            nonlocal current, writer
            wanted = len(shards) - 1 if spec is None else shard_of[spec.name]
            while current < wanted:
                if writer is not None:
                    writer.flush()
                    last.close()
                current += 1
                descriptor = last.enter_context(staging.file(folder / shards[current][0]))
                writer = Writer(descriptor, reader.descriptor, report)
                writer.write(headers[current])
            assert writer is not None
            return writer

        writer_for(made.outputs[0] if made.outputs else None)
        write_steps(made.steps, reader, filler, writer_for)
        writer_for(None).flush()


def _write_bin(staging: Staging, target: Path, tensors: dict[str, torch.Tensor]) -> None:
    import torch

    with staging.file(target) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
        try:
            torch.save(tensors, file)
        except RuntimeError as error:  # torch's writer of zip archives tells a full disk so
            raise CheckpointError(
                f"cannot be written: {str(error).splitlines()[0]}; nothing was changed", source=str(target)
            ) from None


def _state_dict(
    task: Task, made: Schedule, reader: Reader, filler: Filler, residue: Residue | None
) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for step in made.steps:
        tensors |= tensors_of(step, reader, filler)
    tensors |= {second: tensors[first] for second, first in task.plan.right_ties if first in tensors}
    if isinstance(residue, Mapping):
        _state_dict_residue(made, reader, residue)
    elif residue is not None:
        check_targets([Path(residue)], _files_of(reader.checkpoint), force=False)
        read = FileStates([reader.checkpoint])
        with Staging(overwrite=False) as staging:
            write_residue(staging, Path(residue), made.homeless, Reader(reader.checkpoint), task.reads, task.stamp)
            read.check()
            staging.commit()
    return tensors


def _state_dict_residue(made: Schedule, reader: Reader, residue: Any) -> None:
    fresh = Reader(reader.checkpoint, reuse=False)
    residue.update(pieces(made.homeless, fresh))


def _in_place(source: Checkpoint, task: Task, made: Schedule) -> Conversion:
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
    metadata = _metadata(source, task)
    specs = [TensorSpec(names[name], source[name].shape, source[name].dtype) for name in order]
    replace_header(files[0], header_bytes(specs, metadata, blanks=0))
    return _summary((str(files[0]),), task, made, None)


def _summary(files: tuple[str, ...], task: Task, made: Schedule, residue: Residue | None) -> Conversion:
    outputs = made.outputs
    return Conversion(
        files,
        len(outputs),
        sum(spec.nbytes for spec in outputs),
        made.left_out,
        made.missing,
        task.plan.right_ties,
        tuple((old, new, count) for (old, new), count in made.casts.items()),
        None if residue is None or isinstance(residue, Mapping) else os.fspath(residue),
    )
