"""A downloaded folder may hold Python files: none of them runs, whatever is asked, wherever one stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptmap.cli.main import VERBS

LIBRARIES = (
    *("torch", "numpy", "transformers", "safetensors", "huggingface_hub", "rich", "httpx2", "tokenizers", "yaml"),
    *(
        "shtab",
        "ckptmap",
        "my_helpers",
        "kernels",
        "timm",
        "json",
        "re",
        "typing",
        "dataclasses",
        "argparse",
        "pathlib",
    ),
    *("subprocess", "tempfile", "pickle", "zipfile", "hashlib", "logging", "copy", "inspect", "ast", "sitecustomize"),
    *("usercustomize", "modeling_roberta", "configuration_roberta"),
)
RULES = "** <-> model.**\n"
COMMANDS = {
    "inspect": [["."], [".", "--values"]],
    "diff": [[".", "{other}"], ["{other}", "."], [".", "{other}", "--values"], ["{other}", ".#RobertaForMaskedLM"]],
    "heads": [["."]],
    "remap": [[".", "{other}"], ["{elsewhere}/net.py:build", "{elsewhere}/net.py:build"]],
    "verify": [["{elsewhere}/same.ckptmap", "{elsewhere}/net.py:build", "{elsewhere}/net.py:build"]],
    "convert": [
        ["rules.ckptmap", ".", "{out}", "--like", "."],
        ["rules.ckptmap", "model.safetensors", "{out}.bin", "--to-bin"],
    ],
    "export": [["rules.ckptmap", "--to", "python", "."], ["rules.ckptmap", "--to", "transformers", "."]],
    "check": [["rules.ckptmap", "."]],
    "fmt": [["rules.ckptmap"]],
    "completion": [["bash"]],
}
NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4)
    def forward(self, x):
        return self.a(x)
build = Net
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint beside Python files with the names of libraries, each of which leaves a note when it runs."""
    made = tmp_path_factory.mktemp("downloaded") / "repo"
    shutil.copytree(Path(__file__).parents[2] / "fixtures/roberta-cls", made)
    for name in LIBRARIES:
        (made / f"{name}.py").write_text(f"open({str(made.parent / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    (made / "rules.ckptmap").write_text(RULES)
    elsewhere = made.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "net.py").write_text(NET)
    (elsewhere / "same.ckptmap").write_text("** <-> **\n")
    return made


def run(folder: Path, start: list[str], words: list[str]) -> subprocess.CompletedProcess[str]:
    given = {
        "other": str(Path(__file__).parents[2] / "fixtures/roberta-mlm"),
        "elsewhere": str(folder.parent / "elsewhere"),
        "out": str(folder.parent / "out"),
    }
    shutil.rmtree(folder.parent / "out", ignore_errors=True)
    (folder.parent / "out.bin").unlink(missing_ok=True)
    environment = {**os.environ, "CKPTMAP_CACHE": str(folder.parent / "cache")}
    argv = [*start, *(word.format(**given) for word in words)]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)


def command() -> list[str]:
    return [str(Path(sys.executable).with_name("ckptmap"))]


def test_each_verb_is_tried() -> None:
    assert set(COMMANDS) == set(VERBS)


@pytest.mark.parametrize(
    ("verb", "words"), [(verb, words) for verb, all_words in COMMANDS.items() for words in all_words], ids=str
)
def test_no_file_beside_a_checkpoint_is_imported(folder: Path, verb: str, words: list[str]) -> None:
    done = run(folder, command(), [verb, *words])
    assert "fault of ckptmap" not in done.stderr
    assert done.returncode in (0, 1), done.stderr
    assert not (folder.parent / "ran").exists(), (folder.parent / "ran").read_text()


def test_started_as_a_module_ckptmap_imports_nothing_from_there_either(folder: Path) -> None:
    """What Python itself imports before it comes to ckptmap is beyond it; `json` and `re` are not among that."""
    beyond = [name for name in ("ckptmap", "typing", "re", "copy", "inspect", "ast", "logging") if name in LIBRARIES]
    aside = folder.parent / "aside"
    aside.mkdir()
    for name in beyond:
        shutil.move(folder / f"{name}.py", aside)
    try:
        done = run(folder, [sys.executable, "-m", "ckptmap"], ["diff", ".", "{other}", "--no-cache"])
        assert done.returncode == 1, done.stderr
        assert not (folder.parent / "ran").exists(), (folder.parent / "ran").read_text()
    finally:
        for name in beyond:
            shutil.move(aside / f"{name}.py", folder)


def test_a_module_of_the_users_own_is_found_in_the_current_folder_after_the_libraries(tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "torch.py").write_text("open('ran', 'w')\n")
    done = subprocess.run(
        [*command(), "remap", "my_net:build", "my_net:build"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "Net" in done.stdout or "my_net" in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("section", [None, "text_config"])
def test_a_config_does_not_choose_the_code_that_runs(tmp_path: Path, section: str | None) -> None:
    from ckptmap.heads.library import class_config, model_class

    module = "transformers.models.llava.modeling_llava" if section else "transformers.models.llama.modeling_llama"
    cls = model_class(module, "LlavaForConditionalGeneration" if section else "LlamaForCausalLM")
    asked = {"_attn_implementation": "some-org/kernel", "attn_implementation": "some-org/kernel", "model_type": "llama"}
    config = {"model_type": "llava", section: asked} if section else asked
    made = class_config(cls, config, {})
    parts = [made, *(getattr(made, name) for name in made.sub_configs)]
    assert {part._attn_implementation for part in parts} == {"eager"}
