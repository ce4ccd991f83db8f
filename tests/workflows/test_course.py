"""The course: every answer holds, its numbers are computed now, and its commands are verbs that there are."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import pytest

from pofx.cli import VERBS, main
from pofx.errors import InputError
from pofx.workflows import _course_checks as checks
from pofx.workflows.course import ENTRIES, HEADS, Answered, course, render


@pytest.fixture(scope="module")
def answered() -> dict[str, Answered]:
    return {a.entry.key: a for a in course()}


@pytest.mark.parametrize("key", [e.key for e in ENTRIES])
def test_every_answer_holds(answered: dict[str, Answered], key: str) -> None:
    found = answered[key].finding
    assert found.holds, found.said
    assert found.numbers and found.said


def test_numbers_are_those_of_closed_forms(answered: dict[str, Answered]) -> None:
    numbers = {key: dict(a.finding.numbers) for key, a in answered.items()}
    assert numbers["parameters"]["numbers that an FVBN of 9 pixels uses"] == 45
    assert numbers["squared-error"]["difference"] == pytest.approx(4.5 * math.log(math.pi), abs=1e-9)
    assert numbers["optimum"]["V* + log 4 where q is beside p"] > 0
    assert numbers["jacobian"]["largest |J| outside of the past"] == 0
    assert numbers["latent"]["bound lost when turned"] > 0.1
    bound = numbers["bound"]
    assert bound["log p(x), nats"] == pytest.approx(bound["L"] + bound["KL(q ‖ p(z|x))"], abs=1e-6)


def test_a_check_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Least squares with another constant would not hold, and is not said to."""
    from pofx.tasks import squared_error as task

    monkeypatch.setattr(task.math, "log", lambda v: 0.0)
    broken = checks.least_squares()
    monkeypatch.undo()
    assert not broken.holds


def test_commands_name_verbs_that_exist_and_keys_are_unique() -> None:
    assert len({e.key for e in ENTRIES}) == len(ENTRIES) and {e.kind for e in ENTRIES} == set(HEADS)
    for e in ENTRIES:
        words = shlex.split(e.command)
        assert words[0] == "pofx" and words[1] in VERBS
        if words[1] == "train":  # its flags fit the model
            assert main([*(w if w != "mnist:threshold" else "digits" for w in words[1:]), "--levels", "2", "--dry-run"]) == 0
        else:
            assert main([words[1], "--help"]) == 0


def test_the_page_has_every_entry_and_its_figure(answered: dict[str, Answered]) -> None:
    text = render(list(answered.values()))
    assert text.count("<svg") == sum(e.figure is not None for e in ENTRIES) and text.count("Computed") == len(ENTRIES)
    assert "It does not hold" not in text


def test_the_verb_lists_answers_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["course", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["entries"]) == len(ENTRIES)
    assert main(["course", "mixture", "--json", "-o", str(tmp_path / "m.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"] and found["numbers"]["largest |Σ − 1|"] < 1e-12 and (tmp_path / "m.png").stat().st_size > 10_000
    assert main(["course"]) == 0
    assert "parameters" in capsys.readouterr().out


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for key, out, expected in (
        ("bond", None, "Did you mean 'bound'"),
        ("all", tmp_path / "all.png", "no one figure"),
        ("implicit", tmp_path / "x.png", "no one figure"),
        ("bound", tmp_path / "x.txt", "ending"),
    ):
        with pytest.raises(InputError, match=expected):
            course(key, out)
