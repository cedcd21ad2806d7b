"""Pages of the documentation as things that run: their blocks, in order, in one folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptmap.__main__ import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w.-]+\.(?:py|ckptmap))\n")
"""A block that begins with a file's name is that file; other Python is run."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return BLOCK.findall(page.read_text())


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output shown below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def shown_matches(shown: str, printed: str) -> bool:
    """Whether this is what a page shows; a line `…` stands for any lines, and … within a line for any text there."""
    pieces = re.split(r"(^…\n|…)", shown, flags=re.MULTILINE)
    pattern = "".join({"…\n": ".*", "…": "[^\\n]*"}.get(piece, re.escape(piece)) for piece in pieces)
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


@dataclass
class Reader:
    """Someone who types what a page says, in a folder with the fixtures."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    code: int = 0

    def type(self, command: str) -> str:
        """What a command prints, errors too."""
        if command == "echo $?":
            return f"{self.code}\n"
        words = shlex.split(command)
        if words[0] == "ckptmap" and not {"|", ">", "&&"} & set(words):
            with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
                self.code = main(words[1:])
            return printed.getvalue()
        shim = self.folder / ".bin"
        environment = {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
        )
        self.code = done.returncode
        return done.stdout

    def keep(self, block: str) -> bool:
        """Write the file that a block is, if it is one."""
        if name := FILE.match(block):
            (self.folder / name[1]).write_text(block.removeprefix(name[0]).lstrip("\n"))
        return name is not None

    def run(self, python: str) -> str:
        """Run code and return what it prints."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(python, "docs", "exec"), self.names)
        return printed.getvalue()


def _forget_conversions() -> None:
    """Weight conversions that a page registered with transformers must not meet the tests that follow."""
    mapping = sys.modules.get("transformers.conversion_mapping")
    if mapping is not None:
        mapping.USER_REGISTERED_MAPPINGS.clear()
        mapping._checkpoint_conversion_mapping_cache = None  # transformers' own are made again when asked for


@contextlib.contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """A reader in a folder; modules imported from there, and what they registered, are forgotten afterwards."""
    shutil.copytree(ROOT / "fixtures", folder / "fixtures", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "handbuilt", folder / "tests" / "handbuilt")
    (folder / ".bin").mkdir()
    for name, words in (("python", ""), ("ckptmap", "-m ckptmap ")):
        (folder / ".bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (folder / ".bin" / name).chmod(0o755)
    known, path = set(sys.modules), list(sys.path)
    with contextlib.chdir(folder):
        sys.path.insert(0, str(folder))
        try:
            yield Reader(folder)
        finally:
            sys.path[:] = path
            _forget_conversions()
            for name in set(sys.modules) - known:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                    del sys.modules[name]
