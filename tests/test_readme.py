"""README.md says what the program says: its capability table is that of `pofx models`, and its commands and Python are real.

`.ci/run` runs the tour word for word with the wheel; here only what is quick. `make readme` writes the table anew (this file as a script).
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
POFX = [sys.executable, "-c", "import sys; from pofx.cli import main; sys.exit(main())"]


def between(name: str) -> str:
    """What stands between <!-- name --> and <!-- /name -->, each once."""
    found = re.findall(rf"^<!-- {name} -->\n(.*?)^<!-- /{name} -->$", README.read_text(encoding="utf-8"), re.S | re.M)
    assert len(found) == 1, f"README.md has {len(found)} blocks {name!r}"
    return found[0]


def code(name: str) -> str:
    """The fenced lines of a block, as `.ci/run` takes them."""
    lines, inside = [], False
    for line in between(name).splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside:
            lines.append(line)
    return "\n".join(lines)


def table() -> str:
    """The capability table in Markdown, from `pofx models --json`."""
    done = subprocess.run([*POFX, "models", "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    models = json.loads(done.stdout)["models"]
    from pofx.model import CAPABILITIES

    head = ["model", "family", *(f"`{c}`" for c in CAPABILITIES), "levels", "smallest", "`--given`"]
    rows = [
        [
            f"`{name}`",
            ", ".join(m["family"]),
            *("●" if c in m["capabilities"] else "" for c in CAPABILITIES),
            "{}–{}".format(*m["levels"]),
            "×".join(map(str, m["smallest"])),
            ", ".join(m["given"]) or "–",
        ]
        for name, m in models.items()
    ]
    align = ["---", "---", *(":-:" for _ in CAPABILITIES), "---", "---", "---"]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, align, *rows))


def numbers() -> str:
    """The table of measured numbers in Markdown, from results/demo.json."""
    found = json.loads((README.parent / "results" / "demo.json").read_text(encoding="utf-8"))
    signs = {"exact": "=", "lower bound": "≤", "estimate": "≈"}

    def cost(part: dict) -> str:
        return "–" if part["bits_per_dim"] is None else f"{signs[part['kind']]} {part['bits_per_dim']:.3f} ± {part['bits_per_dim_se']:.3f}"

    head = [
        "digits, 1×8×8, 17 levels",
        "train, bits/dim",
        "test, bits/dim",
        "Fréchet distance of samples",
        "precision / recall",
        "classes seen",
        "trained for",
    ]
    rows = []
    for name, r in found["results"].items():
        samples, run = r["samples"], found["training"][name]
        rows.append(
            [
                f"`{name}`",
                cost(r["splits"]["train"]),
                cost(r),
                f"{samples['frechet']:.0f} (real images: {samples['frechet_of_real_images']:.0f})",
                f"{samples['precision']:.2f} / {samples['recall']:.2f}",
                f"{samples['classes_covered']} of {len(samples['classes'])}",
                f"{run['minutes']:.1f} min, {run['threads']} thread{'s' * (run['threads'] > 1)}",
            ]
        )
    any_ = next(iter(found["results"].values()))
    cpu = next(iter(found["training"].values()))["hardware"]["processor"]
    measured = f"{any_['n']} test images, {any_['samples']['n']} samples; features: {any_['samples']['features']}"
    note = f"{measured}; one run each, seed 0, on {cpu}. A histogram per pixel gives 2.43 bits/dim."
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---", *["--:"] * 6], *rows)) + f"\n{note}\n"


def commands() -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in code("tour").splitlines()]


def test_capability_table_is_that_of_the_program():
    assert between("models") == table(), "run `make readme`"


def test_numbers_are_those_of_the_results():
    assert between("numbers") == numbers(), "run `make readme`"


def test_tour_is_made_of_verbs_that_exist():
    from pofx.cli import VERBS

    assert [c[0] for c in commands()] == ["pofx"] * len(commands())
    assert {"data", "train", "sample", "evaluate", "score", "outliers", "report"} <= {c[1] for c in commands()} <= set(VERBS)


@pytest.mark.parametrize("verb", sorted({c[1] for c in commands()}))
def test_flags_of_the_tour_exist(verb: str):
    done = subprocess.run([*POFX, verb, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for command in commands():
        if command[1] == verb:
            for flag in (token for token in command if re.match(r"--?[a-z]", token)):
                assert re.search(rf"(?<![\w-]){flag}(?![\w-])", done.stdout), f"{flag} is not in pofx {verb} --help"


def test_python_of_the_readme_names_what_exists():
    import pofx

    for node in ast.walk(ast.parse(code("python"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pofx":
            assert node.attr in pofx.__all__
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pofx.models":
            assert getattr(pofx.models, node.attr).__name__ == node.attr


def test_local_links_lead_somewhere():
    for document in [README, *README.parent.glob("*.md"), *README.parent.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


if __name__ == "__main__":
    for block, make in (("models", table), ("numbers", numbers)):
        text, old = README.read_text(encoding="utf-8"), between(block)
        README.write_text(
            text.replace(f"<!-- {block} -->\n{old}<!-- /{block} -->", f"<!-- {block} -->\n{make()}<!-- /{block} -->"), encoding="utf-8"
        )
