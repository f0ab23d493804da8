"""Links between the project's own pages lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in (ROOT, ROOT / "colabs", ROOT / "docs", ROOT / "experiments")
    for page in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """The page with its code left out, its lines kept."""
    prose = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    return re.sub(r"`[^`\n]*`", "", prose)


def anchors(text: str) -> set[str]:
    """The fragments that a page's headings can be reached by: lower case, words joined by hyphens, no punctuation."""
    headings = re.findall(r"^#{1,6}\s+(.*?)\s*#*$", FENCED.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> list[str]:
    """The page's local links that name no file, folder or heading, as `line: target`."""
    found = []
    for number, line in enumerate(without_code(text).split("\n"), start=1):
        targets = re.findall(r"\]\(\s*<?([^)\s>]+)[^)]*\)", line) + re.findall(r"^\[[^\]]+\]:\s*(\S+)", line)
        for target in targets + re.findall(r'(?:src|href)="([^"]+)"', line):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            name, _, fragment = target.partition("#")
            goal = page.parent / name if name else page
            if not goal.exists():
                found.append(f"{number}: {target}")
            elif fragment and goal.suffix == ".md":
                goal_text = text if goal == page else goal.read_text(encoding="utf-8")
                if fragment not in anchors(goal_text):
                    found.append(f"{number}: {target}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {page.name for page in PAGES}


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# The first, `second` part\n", encoding="utf-8")
    page = tmp_path / "page.md"
    text = """# Here
[ok](there.md) [ok](#here) [ok](there.md#the-first-second-part) [ok](https://example.org/x) ![ok](there.md "title")
[no](gone.md) and ![no](<figures/x.png>)
`[code](gone.md)`
```
[code](gone.md)
```
[no](there.md#third) [no](#nowhere)
[ref]: gone.md
<img src="gone.png">
"""
    page.write_text(text, encoding="utf-8")
    assert dead_links(page, text) == [
        "3: gone.md",
        "3: figures/x.png",
        "8: there.md#third",
        "8: #nowhere",
        "9: gone.md",
        "10: gone.png",
    ]
