"""Hooks for building the site with mkdocs: add pages from elsewhere in the repository, and adapt links.

In the repository, a link leads to another file; here it becomes a link to that file's page. A link to a file that is
not a page is replaced by its text.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from website import reference  # noqa: E402
from wisesr_cli.cli.topics import FOLDER, TOPICS  # noqa: E402

# Pages whose text is a file outside docs/.
SOURCES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    **{f"topics/{name}.md": (FOLDER / f"{name}.md").relative_to(ROOT).as_posix() for name in TOPICS},
}
PAGE_OF = {source: page for page, source in SOURCES.items()}
LINK = re.compile(r"\[((?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
FOREIGN = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*\bhref="(?:https?:)?//"""
)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for page, source in SOURCES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page, write in reference.PAGES.items():
        files.append(File.generated(config, page, content=write()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make links between files lead to pages."""
    pages = {file.src_uri for file in files}
    return relinked(markdown, page.file.src_uri, pages)


def relinked(markdown: str, page: str, pages: set[str]) -> str:
    """Return the Markdown of a page with links between files replaced by links between pages."""
    if page in reference.PAGES:
        return markdown
    folder = posixpath.dirname(SOURCES.get(page, f"docs/{page}"))

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target or target.startswith(("http:", "https:", "mailto:")):
            return match[0]
        file = posixpath.normpath(posixpath.join(folder, target))
        found = PAGE_OF.get(file, file.removeprefix("docs/") if file.startswith("docs/") else "")
        if found not in pages:
            if not (ROOT / file).exists():
                raise PluginError(f"{page}: links to {target}, which is not there")
            return text
        return f"[{text}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if number % 2 else LINK.sub(replace, part) for number, part in enumerate(parts))


def on_post_build(config: Any) -> None:
    """Raise an error for a site that would load anything from elsewhere."""
    site = Path(config["site_dir"])
    for path in sorted(site.rglob("*.html")):
        if found := FOREIGN.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.relative_to(site)} loads something from elsewhere: {found[0]}")
