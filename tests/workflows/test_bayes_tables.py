"""Bayes' rule on 2×2: every cell agrees from both sides, and all sums are one."""

from __future__ import annotations

import pytest
import torch

from pofx.errors import InputError
from pofx.workflows.bayes_tables import bayes_tables, tables_html


@pytest.mark.parametrize("prior", [(0.5, 0.5), (0.01, 0.99)])
def test_every_cell_agrees_from_both_sides(prior: tuple[float, float]) -> None:
    found = bayes_tables(prior)
    assert found.x.shape == (16, 1, 2, 2) and len(found.x.flatten(1).unique(dim=0)) == 16
    one = torch.ones(2, dtype=torch.double)
    torch.testing.assert_close(found.p_x_given_y.sum(0), one, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.p_y_given_x.sum(1), torch.ones(16, dtype=torch.double), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.joint.sum(0), found.p_y, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.p_x_given_y, found.p_y_given_x * found.p_x[:, None] / found.p_y, rtol=0, atol=1e-12)
    assert found.off < 1e-12 and abs(float(found.joint.sum()) - 1) < 1e-12
    assert found.p_y.tolist() == pytest.approx(prior, abs=1e-12)


def test_what_was_learned_is_there_and_the_prior_matters() -> None:
    even, skewed = bayes_tables(), bayes_tables((0.01, 0.99))
    above, blank = int("1100", 2), 0
    assert float(even.p_y_given_x[above, 0]) > 0.9 > float(skewed.p_y_given_x[above, 0])
    assert float(skewed.p_y_given_x[blank, 1]) > float(even.p_y_given_x[blank, 1])
    assert "x = 1100, y = 0" in even.cell(above, 0) and tables_html(even).count("<tr>") == 18
    with pytest.raises(InputError):
        bayes_tables((0.5, 0.6))
