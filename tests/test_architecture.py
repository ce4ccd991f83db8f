"""The rules that keep the house standing: who may import whom, what never appears in the source, what every module says first."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pofx import catalog

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "pofx"
MODULES = sorted(SRC.rglob("*.py"))
MODELS = [p for p in MODULES if p.is_relative_to(SRC / "models") and p.name != "__init__.py"]
PARTS = {"adversarial/losses.py", "adversarial/networks.py"}  # beside one model, and of no other


def name(path: Path) -> str:
    return str(path.relative_to(SRC))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> set[str]:
    """Dotted names of all that a file of pofx imports, at its top or inside a function."""
    package = ("pofx", *path.relative_to(SRC).parent.parts)
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_imports_keep_the_contracts():
    """The layers of pyproject.toml, [tool.importlinter]."""
    script = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("import-linter is not installed beside this Python")
    done = subprocess.run([script, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["pofx", "pofx.catalog", "pofx.cli"])
def test_light_modules_do_not_import_torch(module: str):
    """`pofx --help` answers in under half a second because of this."""
    heavy = ("torch", "lightning", "datasets", "sklearn", "scipy", "matplotlib", "pandas", "pyarrow")
    code = f"import sys, {module}; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"importing {module} also imports {done.stdout.strip()}"


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_no_model_file_imports_another(path: Path):
    """One paper = one file; what two of them share moves to nn/. A model may lie in several files; then the others hold no model."""
    others = {".".join(("pofx", *p.relative_to(SRC).with_suffix("").parts)) for p in MODELS if p != path}
    parts = {f"pofx.models.{part.removesuffix('.py').replace('/', '.')}" for part in PARTS}
    assert not imported(path) & others - (parts if path.parent.name == "adversarial" else set())


def test_a_part_of_a_model_is_no_model():
    modules = {entry.module for entry in catalog.entries().values()}
    for part in PARTS:
        assert f"pofx.models.{part.removesuffix('.py').replace('/', '.')}" not in modules


PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def forbidden(path: Path) -> list[str]:
    """Lines of a file that do what pofx never does: unpickle, evaluate text, or swallow every error."""
    found = []
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=names) if any(a.name.split(".")[0] in PICKLES for a in names):
                what = "pickle"
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in PICKLES:
                if {alias.name for alias in names} == {"UnpicklingError"}:
                    continue  # what torch.load(weights_only=True) raises when it refuses a file
                what = "pickle"
            case ast.keyword(arg="allow_pickle", value=value) if not (isinstance(value, ast.Constant) and value.value is False):
                what = "allow_pickle"
            case ast.keyword(arg="weights_only", value=value) if not (isinstance(value, ast.Constant) and value.value is True):
                what = "weights_only"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords) if "weights_only" not in {
                k.arg for k in keywords
            }:
                what = "torch.load without weights_only=True"
            case ast.Call(func=ast.Name(id="eval" | "exec")):
                what = "eval"
            case ast.ExceptHandler(type=None):
                what = "bare except"
            case ast.ExceptHandler(type=type_) if type_ is not None and {"Exception", "BaseException"} & {
                n.id for n in ast.walk(type_) if isinstance(n, ast.Name)
            }:
                # To clean up and raise again hides nothing.
                if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None:
                    continue
                what = "except Exception"
            case _:
                continue
        found.append(f"{name(path)}:{getattr(node, 'lineno', 0)}: {what}")
    return found


# The one place where an unforeseen error ends: main() of the command line turns it into a line and exit code 1 (a traceback with --debug).
LAST_RESORT = {"cli/__init__.py", "cli/main.py", "cli/app.py"}


def test_nothing_is_unpickled_and_no_error_is_swallowed():
    found = [line for path in MODULES for line in forbidden(path)]
    last = [line for line in found if line.endswith(": except Exception") and line.split(":")[0] in LAST_RESORT]
    assert len(last) <= 1, f"one last resort is enough: {last}"
    assert [line for line in found if line not in last] == []


def test_the_search_for_forbidden_things_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "SRC", tmp_path)
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import pickle\nfrom joblib import load\nnp.load(f, allow_pickle=True)\ntorch.load(f, weights_only=False)\ntorch.load(f)\neval('1')\n"
        "try:\n    pass\nexcept Exception:\n    pass\ntry:\n    pass\nexcept:\n    pass\ntry:\n    pass\nexcept (OSError, BaseException):\n    raise\n"
        "torch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\n"
    )
    assert sorted(int(line.split(":")[1]) for line in forbidden(bad)) == [1, 2, 3, 4, 5, 6, 9, 13]


def tracked() -> list[Path]:
    """What a commit would hold: tracked files and new ones that git does not ignore; all of the tree where there is no git."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [p for line in done.stdout.splitlines() if (p := ROOT / line).is_file()]


def test_no_file_names_a_package_registry():
    """Which index serves packages is the business of whoever installs: no host of one in requirements, locks or settings."""
    hosts = re.compile(
        r"(files\.pythonhosted|pypi|test\.pypi|download\.pytorch|anaconda|npmjs|conda-forge)\.(org|com)|--(extra-)?index-url|find-links|/simple/",
        re.I,
    )
    found = []
    for path in tracked():
        if path == Path(__file__).resolve() or path.suffix in {".png", ".npz", ".gz", ".safetensors", ".parquet", ".jpg"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if hosts.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_constraints_pin_every_dependency_exactly():
    import tomllib

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.!]+", line), f"not an exact pin without a build suffix: {line}"
            pin, version = line.split("==")
            pins[re.sub(r"[-_.]+", "-", pin).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", r)[0]).lower() for r in wanted}  # pyright: ignore[reportOptionalSubscript]
    assert names - set(pins) == set()
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_opens_with_its_idea(path: Path):
    doc = ast.get_docstring(tree(path))
    assert doc, f"{name(path)} needs an opening docstring"
    assert doc.splitlines()[0].strip().endswith((".", ":", "!", "?", ")")) or len(doc.splitlines()) > 1, (
        f"{name(path)}: a sentence, please: {doc!r}"
    )


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_all_is_sorted(path: Path):
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            value = getattr(node, "value", None)
            if isinstance(value, ast.List | ast.Tuple):
                names = [str(e.value) for e in value.elts if isinstance(e, ast.Constant)]
                assert names == sorted(names)


def test_the_package_says_what_is_public():
    import pofx

    assert list(pofx.__all__) == sorted(pofx.__all__)
    assert set(pofx.__all__) <= set(dir(pofx))
    for public in pofx.__all__:
        assert getattr(pofx, public) is not None


def test_documents_name_real_files():
    """Every path under src/, tests/ or docs/ that a document writes exists, but for the examples of what a contributor will add."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    missing = []
    for document in documents:
        for path in re.findall(r"(?<![\w/.])((?:src/pofx|tests|docs|examples|recipes)/[\w./-]*\w)", document.read_text(encoding="utf-8")):
            if "my_" not in path and not (ROOT / path).exists():
                missing.append(f"{document.relative_to(ROOT)}: {path}")
    assert missing == []
