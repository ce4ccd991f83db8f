"""Hooks of mkdocs: links from pages to files outside docs/ are checked here, and shown as the file's path, since a site of pages has no such files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """`[text](../src/…)` → `text` with the path as its title; a path that is not there ends the build."""
    docs = Path(config.docs_dir).resolve()

    def shown(found: re.Match[str]) -> str:
        text, target = found[1], (docs / page.file.src_uri).parent / found[2]
        path = target.resolve()
        if path.is_relative_to(docs):
            return found[0]
        if not path.exists():
            raise PluginError(f"docs/{page.file.src_uri}: {found[2]} is not there.")
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path.relative_to(docs.parent)})"
        return f'<span title="{path.relative_to(docs.parent)}">{text}</span>'

    return LINK.sub(shown, markdown)
