"""`hf ckptmap …`: an installed extension is started by the Hub client as if it were a command of its own.

What the client does before, fetching the repository hf-ckptmap from its code host, needs that host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

CLIENT = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"


def hf(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", CLIENT, *words], env=environment, capture_output=True, text=True)


def installed(home: Path) -> None:
    """As the client of huggingface_hub 2.4 leaves an extension: a folder with a manifest and an executable."""
    folder = home / ".local" / "share" / "hf" / "extensions" / "hf-ckptmap"
    folder.mkdir(parents=True)
    executable = folder / "hf-ckptmap"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} -m ckptmap "$@"\n')
    executable.chmod(0o755)
    manifest = {
        "owner": "someone",
        "repo": "hf-ckptmap",
        "repo_id": "someone/hf-ckptmap",
        "short_name": "ckptmap",
        "executable_path": str(executable),
        "type": "python",
        "installed_at": "2026-11-25T00:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_hub_client_runs_it_with_its_exit_codes(fixtures: Path, tmp_path: Path) -> None:
    installed(tmp_path)
    shown = hf(tmp_path, "ckptmap", "inspect", str(fixtures / "roberta-cls"))
    assert (shown.returncode, shown.stdout.split()[:2]) == (0, ["source", str(fixtures / "roberta-cls")])
    one, other = str(fixtures / "roberta-mlm"), str(fixtures / "roberta-cls")
    assert hf(tmp_path, "ckptmap", "diff", one, other, "-q", "--no-heads").returncode == 1
    assert hf(tmp_path, "ckptmap", "inspect", str(tmp_path / "nothing")).returncode == 2
    assert "ckptmap" in hf(tmp_path, "--help").stdout


def test_the_package_has_the_command_that_extensions_need() -> None:
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["hf-ckptmap"] == scripts["ckptmap"]
