"""Tiny runs made by the command line itself, once per session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pofx.cli import main


@pytest.fixture(scope="session")
def runs(tiny: Callable[[str], Path]) -> Path:
    """A folder with a pixelcnn, one of p(x | label), a vae and a gan."""
    for name in ("label", "vae", "gan"):
        tiny(name)
    return tiny("pixelcnn").parent


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a verb with --json; exactly one JSON object must be on stdout."""

    def run(*tokens: object) -> dict[str, Any]:
        capsys.readouterr()
        code = main([*map(str, tokens), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        assert out.count("\n") == 1
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return answer

    return run


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb that must exit 2 with one to three lines on stderr and nothing on stdout; returns the lines."""

    def run(*tokens: object, code: int = 2) -> str:
        capsys.readouterr()
        assert main([*map(str, tokens)]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert 1 <= err.strip().count("\n") + 1 <= 3, err
        assert "Traceback" not in err
        return err

    return run
