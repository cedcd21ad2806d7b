"""Whatever stands in names, comments, configs and arguments, a terminal shows it and obeys nothing of it."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from ckptmap.__main__ import main
from ckptmap.cli.main import VERBS
from ckptmap.printable import printable
from ckptmap.report.document import Document, Section
from ckptmap.report.markdown import as_markdown, fenced

PACKAGE = Path(__file__).parents[2] / "ckptmap"

IN_NAMES = "\x1b]0;owned\x07\x9b31m\x9d\x7f\x08\u202egpj\u2066\u2069\u200e\u200f\u061c\u200b\u200d\ufeff\U000e0041"
"""What names of rule files may hold, too: a title, colours, text turned round, text unseen."""
HOSTILE = f"{IN_NAMES}\u2028\u2029\x85\r\x0b"
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
LINE = f"line\nckptmap: all is well{HOSTILE}"
NAMES = (f"enc.{IN_NAMES}.weight", "enc.plain.weight", LINE, "`<b>x</b>`\\|[a](https://e.x)")
CONFIG = {"model_type": "bert", "architectures": [HOSTILE], "_name_or_path": HOSTILE, "num_hidden_layers": 1}

A, B, C = "a.safetensors", "b.safetensors", "c.safetensors"
CASES = {
    "inspect": [[A], [A, "-q"], [A, "--values", "--digest", "--all"], [A, "--include", HOSTILE], ["model"]],
    "diff": [[A, B], [A, B, "-q"], [A, B, "--values"], [A, B, "--prefix", HOSTILE], [A, "model"], [A, f"#{HOSTILE}"]],
    "heads": [
        ["model"],
        ["model", "-q"],
        ["model", "--class", HOSTILE],
        ["model", "--set", HOSTILE],
        ["model", "--check"],
    ],
    "remap": [[C, "d.safetensors", "--why"], [A, B], [C, B, "--pin", HOSTILE], [C, B, "--left-arg", HOSTILE]],
    "verify": [["wrong.ckptmap", A, B], ["names.ckptmap", C, B], ["names.ckptmap", C, f"{HOSTILE}.py:{HOSTILE}"]],
    "convert": [
        ["names.ckptmap", C, "out.safetensors", "--force"],
        ["names.ckptmap", A, "out.safetensors", "--force", "--partial"],
        ["names.ckptmap", A, "out.safetensors", "--force"],
        ["names.ckptmap", C, f"{HOSTILE}.safetensors", "--force"],
        ["wrong.ckptmap", C, "out.safetensors", "--force"],
        ["--undo", HOSTILE],
    ],
    "export": [
        ["names.ckptmap", C, "--to", "json"],
        ["names.ckptmap", C, "--to", "python"],
        ["wrong.ckptmap", "--to", "json"],
    ],
    "check": [
        ["names.ckptmap"],
        ["names.ckptmap", C],
        ["names.ckptmap", A, B],
        ["wrong.ckptmap"],
        ["names.ckptmap", "--size", HOSTILE],
    ],
    "fmt": [["names.ckptmap", "--check"], ["wrong.ckptmap"]],
    "completion": [["bash"]],
}
"""For each verb, words that bring hostile text to everything it prints."""
WITH_FORMATS = ("inspect", "diff", "heads", "remap", "verify", "check")


def cases(verb: str) -> list[list[str]]:
    formats = ("table", "json", "markdown") if verb in WITH_FORMATS else ("",)
    mistyped = [[HOSTILE], [HOSTILE] * 3, [f"--{HOSTILE}", HOSTILE, HOSTILE, HOSTILE]]
    return [
        [verb, *words, *(("--format", form) if form else ())] for words in [*CASES[verb], *mistyped] for form in formats
    ]


def write(path: Path, names: tuple[str, ...], **metadata: str) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    for at, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [2], "data_offsets": [8 * at, 8 * at + 8]}
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    values = struct.pack(f"<{2 * len(names)}f", *range(2 * len(names)))
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / A, NAMES, note=HOSTILE)
    write(tmp_path / B, (*NAMES[1:], f"dec.{HOSTILE}"))
    write(tmp_path / C, NAMES[:2])
    write(tmp_path / "d.safetensors", tuple(f"x.{name}" for name in NAMES[:2]))
    write(tmp_path / "model" / "model.safetensors", NAMES, note=HOSTILE)
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    good = f"ckptmap 1\nleft: {HOSTILE}\nenc.**   <-> x.{IN_NAMES}.** # {HOSTILE}\n"
    (tmp_path / "names.ckptmap").write_text(good, newline="")
    (tmp_path / "wrong.ckptmap").write_text(
        f"ckptmap 1\n{HOSTILE} <- x\nsize {HOSTILE}\na.{{ <-> {HOSTILE}\n", newline=""
    )
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_prints_what_a_terminal_would_obey(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in cases(verb):
        code = main(words)
        out, err = capsys.readouterr()
        assert not OBEYED.search(out + err), words
        assert code in (0, 1, 2), words
        assert "fault of ckptmap" not in err, words
        assert not any(line.startswith("ckptmap: all is well") for line in (out + err).splitlines()), words
        if words[-1] == "json" and code < 2 and "-q" not in words:
            json.loads(out)


def test_every_verb_has_cases() -> None:
    assert set(CASES) == set(VERBS)


def test_json_gives_back_the_same_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", A, "--format", "json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert tuple(one["name"] for one in fields["tensors"]) == NAMES
    assert fields["metadata"] == {"note": HOSTILE}


def test_rules_in_a_file_are_exact_and_on_a_screen_a_sentence_says_that_they_are_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [C, "d.safetensors"]
    main(["remap", *sides])
    out, err = capsys.readouterr()
    assert f"enc.{printable(IN_NAMES)}.weight" in out
    assert "-o FILE writes them as they are" in err
    main(["remap", *sides, "-o", "found.ckptmap"])
    assert f"enc.{IN_NAMES}.weight" in (folder / "found.ckptmap").read_text()
    assert main(["convert", "found.ckptmap", C, "out.safetensors"]) == 0


def test_the_name_of_a_file_adds_no_rule(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x\nevil <-> y", "evil <-> y"):
        write(folder / name, NAMES[:2])
        main(["remap", name, "d.safetensors", "-o", "found.ckptmap"])
        rules = [line for line in (folder / "found.ckptmap").read_text().splitlines() if "<->" in line]
        assert all(line.startswith("enc.") for line in rules)
        assert len(rules) == 2


def test_what_is_escaped_is_what_unicode_calls_invisible() -> None:
    shown_arabic = {
        "\u0600",
        "\u0601",
        "\u0602",
        "\u0603",
        "\u0604",
        "\u0605",
        "\u06dd",
        "\u070f",
        "\u0890",
        "\u0891",
        "\u08e2",
    }
    shown_elsewhere = range(0x110BD, 0x13500)  # Kaithi numbers, hieroglyphs that stand together
    for code in range(0x110000):
        character = chr(code)
        unseen = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        if unseen and character not in shown_arabic and code not in shown_elsewhere:
            assert printable(character).isascii(), hex(code)
        elif printable(character) != character:  # fillers, variation selectors, and tags that have no name yet
            assert unicodedata.category(character) in ("Cn", "Lo", "Mn", "Cc"), hex(code)
    assert printable("äπ漢字😀 \\x1b") == "äπ漢字😀 \\x1b"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "utf-16"])
def test_json_says_the_same_in_every_encoding(encoding: str, folder: Path) -> None:
    text = "".join(map(chr, range(0x20, 0x3000))) + "\U000e0041😀"
    write(folder / A, (text,))
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    argv = [sys.executable, "-m", "ckptmap", "inspect", A, "--format", "json"]
    printed = subprocess.run(argv, env=environment, capture_output=True).stdout.decode(encoding)
    assert not OBEYED.search(printed)
    assert [one["name"] for one in json.loads(printed)["tensors"]] == [text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# heading", "\\# heading"),
        ("1. list", "1\\. list"),
        ("_emphasis_ of self_attn", "\\_emphasis\\_ of self_attn"),
        ("<img src=x>&copy;", "&lt;img src=x>&amp;copy;"),
        ("![a](b)", "![a\\](b)"),
        ("[a]: b", "[a\\]: b"),
        ("https://e.x www.e.x", "https:\\//e.x www\\.e.x"),
        ("@somebody org/name@main", "@<!-- -->somebody org/name@main"),
        ("~~gone~~ $x$ a|b `c`", "\\~\\~gone\\~\\~ \\$x\\$ a\\|b \\`c\\`"),
    ],
)
def test_markdown_shows_text_and_makes_nothing_of_it(text: str, shown: str) -> None:
    assert as_markdown(Document(closing=(text,))) == shown


def test_markdown_code_cannot_be_left() -> None:
    section = Section("", (("a\\|b", "c"), ("``|", "c")), ("name", "what"))
    *_, first, second = as_markdown(Document((), (section,))).splitlines()
    assert first == "| <code>a\\\\\\|b</code> | c |"
    assert second == "| ``` ``\\| ``` | c |"
    assert fenced("a ```\n```\n# b") == "````\na ```\n```\n# b\n````"


def test_a_terminal_gets_colours_of_ours_alone(folder: Path) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "ckptmap", "diff", A, B]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "²", "LINES": "9" * 5000}
    process = subprocess.Popen(argv, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the terminal's end of file
            break
    process.wait()
    os.close(ours)
    text = output.decode().replace("\r\n", "\n")
    assert "\x1b[31m- enc" in text
    assert not OBEYED.search(re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_everything_is_printed_through_one_door() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() in ("printing.py", "heads/child.py"):  # a child's stdout is a pipe
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "sys.stdout.write", "sys.stderr.write"), (
                    f"{path}:{node.lineno}: {called}"
                )
