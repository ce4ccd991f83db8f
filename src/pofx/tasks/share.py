"""Give a run away and take one: to a folder or to the Hugging Face Hub, with a model card. Only JSON, safetensors and pictures travel."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pofx.errors import InputError, RunError
from pofx.tasks._files import write_text, writing

NEEDED = ("model.json", "model.safetensors")
OPTIONAL = ("metrics.csv", "samples.png", "report.html", "README.md")
PATTERNS = (*NEEDED, *OPTIONAL, "directions/*.json")  # attributes that were learned (`pofx edit`)

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


class Hub(Protocol):
    """What we use of `huggingface_hub.HfApi`; tests give a fake one."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...
    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str) -> Any: ...
    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str: ...


@dataclass(frozen=True)
class Shared:
    """Where a run went to or came from, and the files that travelled."""

    source: str
    target: str
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "target": self.target, "files": list(self.files)}


def hub_id(place: str) -> str | None:
    """The Hub id in "hf:owner/name" or "owner/name" (where no such folder exists), else None.

    >>> hub_id("hf:ada/digits"), hub_id("./digits")
    ('ada/digits', None)
    """
    if place.startswith("hf:"):
        name = place.removeprefix("hf:")
        if not _HUB_ID.fullmatch(name):
            raise InputError(f"{place!r} is no Hub id; it looks like hf:owner/name.")
        return name
    path = Path(place)
    return place if _HUB_ID.fullmatch(place) and not path.exists() and not path.parent.exists() else None


def _check_run(path: Path) -> dict[str, Any]:
    missing = [name for name in NEEDED if not (path / name).is_file()]
    if missing:
        found = "it does not exist" if not path.exists() else f"{', '.join(missing)} is missing"
        raise InputError(f"{path} is no finished run: {found}. Train one with: pofx train pixelcnn digits --out {path}")
    try:
        return json.loads((path / "model.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path / 'model.json'} is damaged ({error}). Copy the run again, or train it again.") from error


def card(meta: dict[str, Any], name: str) -> str:
    """A model card (README.md with the Hub's YAML head) from model.json."""
    space, data, metrics = meta.get("space") or {}, meta.get("data") or {}, meta.get("metrics") or {}
    training, given = meta.get("training") or {}, meta.get("given")
    spec = data.get("spec") or {}
    heading = data.get("heading") or data.get("name") or (spec.get("spec") if isinstance(spec, dict) else spec) or "images"
    transforms = ", ".join(data.get("transforms") or ()) or "none"
    size = f"{space.get('channels')}×{space.get('height')}×{space.get('width')}, {space.get('levels')} levels"
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items() if isinstance(value, int | float))
    arguments = json.dumps(meta.get("arguments") or {}, ensure_ascii=False)
    steps = f"{training['steps']} steps" if training.get("steps") else "see model.json"
    return f"""---
library_name: pofx
tags: [pofx, generative-model, images, {meta.get("model", "model")}]
pipeline_tag: unconditional-image-generation
---

# {name}

`{meta.get("class", meta.get("model"))}` {"p(x)" if not given else f"p(x | {given.get('type')})"} of images, made with pofx {meta.get("pofx", "")}.

- **Images**: {size}
- **Data**: {heading}; transforms: {transforms}
- **Training**: {steps}, seed {training.get("seed", 0)}
- **Arguments**: `{arguments}`

```python
import pofx
model = pofx.load("{name}")
model.sample(16, seed=0)
```

| measure | value |
|---|---|
{rows or "| | not measured |"}

Likelihoods are probability *mass* of the integer pixels, after the transforms above. A bound is not a likelihood, and numbers after different
transforms do not compare. The weights are safetensors and the configuration is JSON: loading runs no code of this repository.
"""


def _hub(hub: Hub | None) -> Hub:
    if hub is not None:
        return hub
    from huggingface_hub import HfApi

    return HfApi()


def push(run: str | Path, to: str, *, private: bool = True, hub: Hub | None = None) -> Shared:
    """Copy a run to a folder, or upload it to the Hub as hf:owner/name, with a model card.

    Args:
        run: a run folder; its README.md is written (kept, where one exists that is not ours).
        to: a folder, or "hf:owner/name".
        private: the Hub repository, when it is made.

    Raises:
        InputError: no finished run; a folder that holds something else.
        RunError: the Hub cannot be reached or refuses.
    """
    run = Path(run)
    meta = _check_run(run)
    repo = hub_id(str(to))
    name = repo or Path(to).name
    readme = run / "README.md"
    if not readme.exists() or "library_name: pofx" in readme.read_text(encoding="utf-8"):
        write_text(readme, card(meta, name))
    files = _travelling(run)
    if repo is None:
        target = Path(to)
        if target.resolve() == run.resolve():
            raise InputError(f"{run} and {to} are the same folder; choose another place.")
        if target.is_dir() and any(target.iterdir()) and not (target / "model.json").exists():
            raise InputError(f"{target} holds other files and no run; choose a new folder.")
        _copy(run, target, files)
        return Shared(str(run), str(target), files)
    api = _hub(hub)
    with _hub_errors(repo, "push to"):
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(run),
            allow_patterns=list(files),
            commit_message=f"pofx {meta.get('pofx', '')}: {meta.get('model')}",
        )
    return Shared(str(run), f"hf:{repo}", files)


def pull(source: str, out: str | Path, *, revision: str | None = None, hub: Hub | None = None) -> Shared:
    """Copy a run from a folder or the Hub to the folder `out`. Only JSON, safetensors, CSV, pictures and the card are taken.

    Raises:
        InputError: there is no run; `out` holds something else.
        RunError: the Hub cannot be reached or refuses.
    """
    target = Path(out)
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; choose a new folder with --out.")
    repo = hub_id(str(source))
    if repo is None:
        path = Path(source)
    else:
        api = _hub(hub)
        with _hub_errors(repo, "pull from"):
            path = Path(api.snapshot_download(repo, revision=revision, allow_patterns=list(PATTERNS)))
    _check_run(path)
    files = _travelling(path)
    _copy(path, target, files)
    return Shared(str(source), str(target), files)


def _travelling(run: Path) -> tuple[str, ...]:
    """The files of a run that are shared, in the order of PATTERNS."""
    return tuple(path.relative_to(run).as_posix() for pattern in PATTERNS for path in sorted(run.glob(pattern)) if path.is_file())


def _copy(source: Path, target: Path, files: tuple[str, ...]) -> None:
    # model.json goes last: what has none is no run yet
    for name in sorted(files, key=lambda f: f == "model.json"):
        with writing(target / name) as temporary:
            shutil.copyfile(source / name, temporary)


class _hub_errors:
    """Errors of the Hub and the network, as one line."""

    def __init__(self, repo: str, what: str) -> None:
        self.repo, self.what = repo, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError

        if isinstance(error, RepositoryNotFoundError):
            raise InputError(
                f"There is no {self.repo} on the Hub, or it is private. Check the name, or log in with: hf auth login"
            ) from error
        if isinstance(error, HFValidationError):
            raise InputError(f"{self.repo!r} is no Hub id: {str(error).splitlines()[0]}") from error
        if isinstance(error, HfHubHTTPError | LocalTokenNotFoundError | OSError) or type(error).__module__.partition(".")[0].startswith(
            "httpx"
        ):
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise RunError(f"Could not {self.what} hf:{self.repo}: {line}. Check the network, or log in with: hf auth login") from error
