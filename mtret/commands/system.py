"""`mtret doctor`: the machine."""

import json
from dataclasses import asdict

from mtret.commands.common import Flags, console, next_line


def define_doctor(values: Flags) -> None:
    values.switch("json", "one JSON object, in place of lines to read")


STYLES = {"ok": "green", "note": "yellow", "missing": "bold red"}


def doctor(values: Flags) -> int:
    """0 where training works, 1 otherwise."""
    from mtret.runs.doctor import diagnose, ready, verdict

    found = diagnose()
    code = 0 if ready(found) else 1
    if values["json"].value:
        listed = [asdict(finding) for finding in found]
        print(json.dumps({"ready": code == 0, "verdict": verdict(found), "parts": listed}, indent=2))
        return code
    from rich.text import Text

    page, width = console(), max(len(finding.part) for finding in found)
    for finding in found:
        line = Text(f"{finding.part:<{width}}  ").append(f"{finding.state:<7}", STYLES[finding.state])
        line.append(f"  {finding.words}{f': {finding.remedy}' if finding.remedy else ''}")
        page.print(line, soft_wrap=True, highlight=False)
    print(verdict(found))
    if code == 0:
        without = any(finding.part == "minilm" and finding.state != "ok" for finding in found)
        source = ["--config.model.source=FOLDER"] if without else []
        print(next_line("train", "--suite=enterprise", "--workdir=runs/first", *source))
    return code
