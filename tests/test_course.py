"""docs/course/: code that runs as it stands, figures that are current, links that lead somewhere; and docs/ as a site."""

from __future__ import annotations

import doctest
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COURSE = ROOT / "docs" / "course"
PAGES = sorted(path.stem for path in COURSE.glob("*.md"))
LECTURES = [name for name in PAGES if name != "index"]


def text(name: str) -> str:
    return (COURSE / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LECTURES)
def test_the_code_of_a_page_runs_as_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testfile(str(COURSE / f"{name}.md"), module_relative=False, optionflags=options, encoding="utf-8")
    assert found.attempted > 2
    assert found.failed == 0


@pytest.mark.parametrize("name", LECTURES)
def test_a_page_has_figure_file_and_paper(name: str) -> None:
    page = text(name)
    figures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert figures
    assert all((COURSE / figure).is_file() for figure in figures)
    files = re.findall(r"\]\((\.\./\.\./src/[^)#]+)\)", page)
    assert files
    assert all((COURSE / file).is_file() for file in files)
    assert "*Read*: " in page


def test_the_course_lists_its_pages_in_order() -> None:
    listed = re.findall(r"\((\w+)\.md\)", text("index"))
    assert sorted(listed) == LECTURES
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.findall(r"course/(\w+)\.md", site) == ["index", *listed]


def test_figures_are_current(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "docs" / "course.py"))["draw"](tmp_path)
    for path in tmp_path.iterdir():
        drawn, kept = (
            np.asarray(Image.open(at).convert("RGB")).astype(int) for at in (path, ROOT / "docs" / "pictures" / "course" / path.name)
        )
        assert drawn.shape == kept.shape, "run `make figures`"
        assert np.abs(drawn - kept).mean() < 1, "run `make figures`"


def test_the_site_builds_without_a_warning_and_asks_nothing_of_another_host(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    for path in pages:
        page = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"?https?:", page)
        assert not re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preload)[^>]+href=\"?https?:", page)
