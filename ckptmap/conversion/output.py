"""A conversion's files: checked, written beside their places, and put there together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ckptmap.conversion.reading import FileStates, Reader, check_ties
from ckptmap.conversion.residue import RESIDUE, Filler, residue_specs, write_residue
from ckptmap.conversion.run import state_dict_of, write_steps
from ckptmap.conversion.schedule import Schedule
from ckptmap.conversion.stamp import Task
from ckptmap.errors import CheckpointError, ConvertError
from ckptmap.files import Staging, alone_in, remove_leftovers, write_all
from ckptmap.renames import identity
from ckptmap.spec import TensorSpec
from ckptmap.writing.folder import (
    INDEX,
    SINGLE,
    differs,
    free_names,
    gone_with,
    index_of,
    into_shards,
    is_shard,
    is_taken,
    made_folder,
    old_shards,
    stray_shards,
)
from ckptmap.writing.places import check_room, check_targets
from ckptmap.writing.safetensors import Writer, header_bytes

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]
"""Told of the bytes written and the bytes to write."""
Shards: TypeAlias = list[tuple[str, list[TensorSpec]]]


@dataclass(frozen=True)
class Work:
    """What is to be written, and where it comes from."""

    task: Task
    made: Schedule
    reader: Reader
    filler: Filler


@dataclass(frozen=True)
class Output:
    """Where it goes, and how.

    Attributes:
        target: A file or a folder.
        is_folder: Which of both.
        beside: Small files of a transformers folder, by their names.
        residue: A file for what is left out.
        largest: Bytes of a shard, at most.
        to_bin: Whether a file of torch.save is written.
        force: Whether what exists is overwritten.
        progress: Told of the bytes written and to write.
    """

    target: Path
    is_folder: bool
    beside: Mapping[str, bytes]
    residue: Path | None
    largest: int | None
    to_bin: bool
    force: bool
    progress: Progress | None

    @property
    def place(self) -> Path:
        """The folder that files are put in."""
        return self.target if self.is_folder else self.target.parent

    def shards(self, tensors: Sequence[TensorSpec]) -> Shards:
        """File names with their tensors."""
        if not self.is_folder:
            return [(self.target.name, list(tensors))]
        return free_names(self.target, into_shards(tensors, self.largest))


def write_output(
    work: Work, output: Output, inputs: Iterable[Path], states: FileStates
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write all files of a conversion, or none.

    Args:
        work: What to write.
        output: Where.
        inputs: Files that are read, and so not written onto.
        states: In which they must still be when all is written.

    Returns:
        Paths of the files with weights, and of those that runs cut short had left and that were removed.

    Raises:
        ConvertError: A place is taken, or read from.
        CheckpointError: Something cannot be written, or was changed since it was read.
    """
    place, residue = output.place, output.residue
    shards = output.shards(work.made.outputs)
    names = {*output.beside, *(name for name, _ in shards), *([INDEX] if len(shards) > 1 else [])}
    is_new = output.is_folder and not place.is_dir()
    residue_is_inside = is_new and residue is not None and residue.parent.absolute() == place.absolute()
    going = gone_with(place, names) if output.is_folder and output.force else []
    old = old_shards(place, names) if output.is_folder and output.force else {}
    strays = stray_shards(place, {*names, *(path.name for path in old)}) if output.is_folder and output.force else {}
    _check(output, names, [*inputs], [*going, *old, *strays], residue_is_inside=residue_is_inside)
    check_ties(work.task.plan.left_ties, work.reader.checkpoint)
    rest = residue_specs(work.made.homeless, work.reader.checkpoint) if residue is not None else []
    sizes = [(place, spec.nbytes) for spec in work.made.outputs]
    check_room([*sizes, *((residue.parent, spec.nbytes) for spec in rest if residue is not None)])
    leftovers = _remove_leftovers(output, names)
    with ExitStack() as stack:
        if is_new:
            stack.enter_context(made_folder(place.parent))
        staging = stack.enter_context(Staging(overwrite=output.force))
        folder = staging.new_folder(place) if is_new else place
        stamp = dict(work.task.stamp)
        if residue is not None:
            path = folder / residue.name if residue_is_inside else residue
            with closing(Reader(work.reader.checkpoint)) as reader:
                made = write_residue(staging, path, work.made.homeless, reader, work.task.reads, work.task.stamp)
            stamp[RESIDUE] = made
        if output.to_bin:
            _write_bin(staging, output.target, work)
        else:
            _write(staging, folder, shards, work, stamp, output.progress)
        small = {**output.beside, **({INDEX: index_of(shards, stamp)} if INDEX in names else {})}
        for name, data in small.items():
            if name == INDEX or differs(folder / name, data):
                with staging.file(folder / name, decides=name == INDEX) as descriptor:
                    write_all(descriptor, memoryview(data))
        for path in going:
            staging.remove(path, decides=path.name == SINGLE)
        with alone_in(place.parent if is_new else place):
            states.check()
            if output.is_folder and not output.force and (taken := is_taken(place, list(names))):
                raise ConvertError(f"{place}: holds {', '.join(taken[:5])} since a moment ago; --force overwrites")
            staging.commit()
            for path, was in {**old, **strays}.items():
                with suppress(OSError):  # the new is there; these are only in its way
                    if identity(path) == was:
                        path.unlink()
    return tuple(str(place / name) for name, _ in shards), (*leftovers, *map(str, strays))


def _check(output: Output, names: set[str], inputs: list[Path], going: list[Path], *, residue_is_inside: bool) -> None:
    """Refuse what exists, what is read, and what is no file."""
    place, force = output.place, output.force
    if output.is_folder:
        if os.path.lexists(place) and not place.is_dir():
            raise ConvertError(f"{place}: exists and is no folder")
        if not force and (taken := is_taken(place, list(names))):
            raise ConvertError(f"{place}: holds {', '.join(taken[:5])}; --force overwrites")
        check_targets([place / name for name in sorted(names)] if place.is_dir() else [], inputs, force=True)
        read = {os.path.realpath(path) for path in inputs}
        if lost := [str(path) for path in going if os.path.realpath(path) in read]:
            raise ConvertError(f"{lost[0]}: is read by this conversion, and would be replaced; write to another place")
    else:
        check_targets([output.target], inputs, force=force)
    if output.residue is not None:
        written = [place / name for name in names]
        if residue_is_inside and output.residue.name in names:
            raise ConvertError(f"{output.residue}: is a file of OUT; name another for the residue")
        check_targets([] if residue_is_inside else [output.residue], [*inputs, *written], force=force)


def _remove_leftovers(output: Output, names: set[str]) -> tuple[str, ...]:
    also = is_shard if output.is_folder else lambda name: False
    removed = [*remove_leftovers(output.place, {*names, SINGLE, INDEX} if output.is_folder else names, also)]
    if output.is_folder and output.target.name:  # of a run to which it was a new folder
        removed += remove_leftovers(output.target.parent, {output.target.name})
    if output.residue is not None:
        removed += remove_leftovers(output.residue.parent, {output.residue.name})
    return tuple(dict.fromkeys(removed))


def _write(
    staging: Staging, folder: Path, shards: Shards, work: Work, stamp: Mapping[str, str], progress: Progress | None
) -> None:
    """Write shards one after another."""
    total, done = sum(spec.nbytes for _, specs in shards for spec in specs), 0

    def report(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(min(done, total), total)

    metadata = metadata_of(work, stamp)
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
                descriptor = last.enter_context(staging.file(folder / shards[current][0], decides=len(shards) == 1))
                writer = Writer(descriptor, work.reader.descriptor, report)
                writer.write(headers[current])
            assert writer is not None
            return writer

        writer_for(work.made.outputs[0] if work.made.outputs else None)
        write_steps(work.made.steps, work.reader, work.filler, writer_for)
        writer_for(None).flush()


def metadata_of(work: Work, stamp: Mapping[str, str]) -> dict[str, str]:
    """What a header says beside names: what the source's says, and how it was made."""
    own = {key: text for key, text in work.reader.checkpoint.metadata.items() if not key.startswith("ckptmap.")}
    # Readers of transformers ask for a format, and only torch's has tensors that ckptmap reads.
    return {**own, "format": "pt", **stamp}


def _write_bin(staging: Staging, target: Path, work: Work) -> None:
    import torch

    tensors: dict[str, torch.Tensor] = state_dict_of(work.made.steps, work.task.plan, work.reader, work.filler)
    with staging.file(target, decides=True) as descriptor, os.fdopen(os.dup(descriptor), "wb") as file:
        try:
            torch.save(tensors, file)
        except RuntimeError as error:  # torch's writer of zip archives tells a full disk so
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"cannot be written: {reason}; nothing was changed", source=str(target)) from None
