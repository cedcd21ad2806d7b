"""The rules as JSON: the twin of the text, for programs."""

from __future__ import annotations

import json

from ckptmap.errors import ExportError
from ckptmap.printable import json_text
from ckptmap.rules.rules import Rules


def export(rules: Rules) -> str:
    """The JSON form, once it has been read back.

    Raises:
        ExportError: It does not say the same.
    """
    text = json_text(json.dumps(rules.to_json(), indent=2, ensure_ascii=False)) + "\n"
    if Rules.from_json(json.loads(text)) != rules:
        raise ExportError("json: the rules read back from JSON are not the same. Please report it.")
    return text
