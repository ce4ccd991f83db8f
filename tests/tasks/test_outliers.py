"""Guarantees: exact by enumeration, and by simulation; statistics and maps: closed forms and sums."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import Coins, Toy

from pofx import catalog
from pofx.errors import CapabilityError, InputError, RunError
from pofx.model import Autoregressive, ExactLikelihood, Score
from pofx.models.autoregressive.made import MADE
from pofx.models.autoregressive.pixelcnn import PixelCNN
from pofx.models.autoregressive.pixelcnn_pp import PixelCNNpp
from pofx.models.variational.vae import VAE
from pofx.space import ImageSpace
from pofx.tasks import _oddness
from pofx.tasks._codec import codec_bits
from pofx.tasks._conformal import (
    benjamini_hochberg,
    conformal_p_values,
    drift,
    needed,
    online_p_values,
    rank,
    rate95,
)
from pofx.tasks._reference import Reference
from pofx.tasks._statistics import STATISTICS, Known, Table, chosen, likelihood_regret, measure, predictive, refer, smooth
from pofx.tasks._tiles import Tiles, starts
from pofx.tasks.bulk import as_images
from pofx.tasks.heat_maps import bit_maps, heat_maps, restored
from pofx.tasks.outliers import judge, outliers, verdicts

SPACE = ImageSpace(1, 8, 8, levels=2)
LN2 = math.log(2)


class Nan(Toy, ExactLikelihood):
    def log_prob(self, x: Tensor, given: Any = None) -> Tensor:
        return torch.where(x.flatten(1).all(1).bool(), torch.nan, -1.0)


def coins(n: int, p: float = 0.25, seed: int = 0, space: ImageSpace = SPACE) -> Tensor:
    return (torch.rand(n, *space.shape, generator=torch.Generator().manual_seed(seed)) < p).to(torch.uint8)


# p-values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 5])
def test_conformal_p_values_are_exactly_uniform(n: int) -> None:
    """Over all orders of n + 1 different scores, each p-value k/(n+1) comes equally often."""
    counts: dict[float, int] = {}
    for order in itertools.permutations(range(n + 1)):
        p = float(conformal_p_values(torch.tensor([order[0]]), torch.tensor(order[1:])))
        counts[p] = counts.get(p, 0) + 1
    assert sorted(counts) == pytest.approx([k / (n + 1) for k in range(1, n + 2)])
    assert set(counts.values()) == {math.factorial(n)}


@given(st.lists(st.integers(0, 4), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_conformal_p_values_with_ties_are_never_too_small(scores: list[int]) -> None:
    """P(p ≤ k/(n+1)) ≤ k/(n+1) over which of the exchangeable images is the new one."""
    n = len(scores) - 1
    ps = [float(conformal_p_values(torch.tensor([scores[i]]), torch.tensor(scores[:i] + scores[i + 1 :]))) for i in range(n + 1)]
    for k in range(1, n + 2):
        assert sum(p <= k / (n + 1) + 1e-12 for p in ps) <= k


@pytest.mark.parametrize("guarantee", ["marginal", "calibration"])
def test_ranks_are_those_of_the_beta_distribution(guarantee: Any) -> None:
    from scipy.stats import beta, binom

    for alpha, marginal, calibration in ((0.05, 19, 59), (0.01, 99, 299), (0.001, 999, 2995)):
        fewest = {"marginal": marginal, "calibration": calibration}[guarantee]
        assert needed(alpha, guarantee) == fewest
        assert rank(alpha, fewest, guarantee) == 1
        with pytest.raises(InputError, match=f"It takes {fewest} of them"):
            rank(alpha, fewest - 1, guarantee)
        assert 1 - 0.05 ** (1 / calibration) <= alpha < 1 - 0.05 ** (1 / (calibration - 1))
    for n in (100, 500, 2000):
        k = rank(0.05, n, guarantee)
        if guarantee == "marginal":
            assert k == math.floor(0.05 * (n + 1))
        else:  # the same, said by the binomial distribution: P(Beta(k, n+1−k) > α) = P(Bin(n, α) < k)
            assert binom.cdf(k - 1, n, 0.05) <= 0.05 < binom.cdf(k, n, 0.05)
        assert rate95(k, n) == pytest.approx(beta.ppf(0.95, k, n + 1 - k))


def test_an_alpha_that_cannot_be_guaranteed_says_what_can() -> None:
    with pytest.raises(InputError, match="use --alpha 0.049 or more, or --guarantee marginal"):
        rank(0.02, 60, "calibration")
    for alpha in (0, 1, -1, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            rank(alpha, 100)
    x = coins(30)
    with pytest.raises(InputError, match="It takes 99 of them"):
        outliers(Coins(SPACE), x, calib=x, center=x, alpha=0.01)


def test_the_guarantee_of_one_calibration_set_holds_for_nineteen_of_twenty() -> None:
    """Uniform scores: the share flagged is 1 − threshold, exactly."""
    g, alpha, n = torch.Generator().manual_seed(0), 0.05, 200
    rates = [1 - verdicts([""], torch.zeros(1), torch.rand(n, generator=g, dtype=torch.double), alpha=alpha, guarantee=kind).threshold
             for kind in ("marginal", "calibration") for _ in range(400)]  # fmt: skip
    marginal, calibration = torch.tensor(rates).reshape(2, 400)
    assert float(marginal.mean()) == pytest.approx(10 / 201, abs=0.003)  # k/(n+1)
    assert 0.4 < float((marginal > alpha).double().mean()) < 0.6  # on average, and for half of the sets more
    assert float((calibration > alpha).double().mean()) < 0.05 + 0.03


def test_benjamini_hochberg_by_hand() -> None:
    """Table of Benjamini and Hochberg 1995, §4.1: 15 p-values, q = .05, four rejections."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    found = benjamini_hochberg(torch.tensor(p, dtype=torch.double)[order], 0.05)
    assert found.sum() == 4 and (order[found] < 4).all()
    assert not benjamini_hochberg(torch.tensor([0.04, 0.5]), 0.05).any()
    assert benjamini_hochberg(torch.tensor([0.04, 0.05], dtype=torch.double), 0.05).all()  # the larger one carries the smaller


def test_false_discoveries_keep_to_q() -> None:
    """80 normal images and 20 odd ones, of which some are found; all share their calibration images."""
    g, shares = torch.Generator().manual_seed(0), []
    for _ in range(200):
        score = torch.randn(100, generator=g)
        score[80:] += 4
        found = benjamini_hochberg(conformal_p_values(score, torch.randn(200, generator=g)), 0.2)
        shares.append(float(found[:80].sum()) / max(1, int(found.sum())))
    assert 0.05 < sum(shares) / len(shares) < 0.2


# Streams ----------------------------------------------------------------------------------------------------------------


def test_p_values_of_a_stream_are_uniform_whatever_the_ties() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.cat(
        [online_p_values(torch.randint(0, 3, (40,), generator=g), torch.randint(0, 3, (20,), generator=g), seed=i) for i in range(50)]
    )
    from scipy.stats import kstest

    assert kstest(p.numpy(), "uniform").pvalue > 0.01
    lag = torch.corrcoef(torch.stack([p[:-1], p[1:]]))[0, 1]
    assert abs(float(lag)) < 3 / math.sqrt(len(p))


def test_a_martingale_seldom_alarms_in_a_normal_stream_and_soon_in_a_changed_one() -> None:
    g, alarms = torch.Generator().manual_seed(0), 0
    for i in range(60):
        x = torch.rand(160, generator=g)
        alarms += drift(x[60:], x[:60], alpha=0.1, seed=i).alarm is not None
    assert alarms <= 60 * 0.1 + 3 * math.sqrt(60 * 0.1 * 0.9)
    x = torch.randn(300, generator=g)
    seen = drift(torch.cat([x[100:200], x[200:] + 2]), x[:100], alpha=0.01)
    assert seen.alarm is not None and 100 <= seen.alarm < 140
    assert drift(x[100:], x[:100], alpha=0.01).log10_capital.shape == (200,)


def test_bets_of_the_martingale_are_fair() -> None:
    from pofx.tasks._conformal import _bets

    # By the midpoint rule in √√p, where the steepest bet is flat
    u = (torch.arange(100_000, dtype=torch.double) + 0.5) / 100_000
    assert torch.allclose((_bets(u**4) * 4 * u**3).mean(1), torch.ones(5, dtype=torch.double), atol=1e-6)


# Statistics -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MADE, PixelCNN, PixelCNNpp])
def test_what_was_expected_of_each_pixel_is_what_steps_say(model: Any) -> None:
    for space in (ImageSpace(2, 3, 4, levels=5), ImageSpace(3, 4, 4, levels=2)):
        torch.manual_seed(0)
        made = model.small(space).double()
        x = torch.randint(0, space.levels, (2, *space.shape), dtype=torch.uint8)
        with torch.inference_mode():
            one, steps = made.predictive(x, None), Autoregressive.predictive(made, x, None)
        for a, b in zip((one.log_prob, one.entropy, one.variance), (steps.log_prob, steps.entropy, steps.variance), strict=True):
            assert torch.allclose(a, b, atol=1e-12)


def test_statistics_of_coins_in_closed_form() -> None:
    model, x = Coins(SPACE), coins(7)
    s0, s1 = -math.log(0.75), -math.log(0.25)
    h = 0.75 * s0 + 0.25 * s1
    v = 0.75 * s0**2 + 0.25 * s1**2 - h**2
    table = measure(model, x, ["bits_per_dim", "over_codec", "surprise_z", "surprise_spread", "max_surprise"], Known())
    s = torch.tensor([s0, s1], dtype=torch.double)[x.long()].flatten(1)
    assert torch.allclose(table.column("bits_per_dim"), s.mean(1) / LN2)
    assert torch.allclose(table.column("over_codec"), s.mean(1) / LN2 - codec_bits(x, SPACE) / 64)
    assert torch.allclose(table.column("surprise_z"), (s - h).sum(1) / math.sqrt(64 * v))
    assert torch.allclose(table.column("surprise_spread"), (s - h).square().sum(1) / (64 * v))
    mean = smooth((s - h).reshape(7, 1, 8, 8) / LN2)
    assert torch.allclose(mean[0, 0, 3, 4], ((s[0] - h) / LN2).reshape(8, 8)[2:5, 3:6].mean())
    assert torch.allclose(table.column("max_surprise"), mean.flatten(1).amax(1))


def test_the_parts_of_a_bound_add_up_and_regret_is_never_negative() -> None:
    torch.manual_seed(0)
    model, x = VAE.small(ImageSpace(1, 8, 8, levels=4)).double(), torch.randint(0, 4, (5, 1, 8, 8), dtype=torch.uint8)
    table = measure(model, x, ["bits_per_dim", "reconstruction", "kl"], Known())
    assert torch.allclose(table.column("reconstruction") + table.column("kl"), table.column("bits_per_dim"))
    regret = likelihood_regret(model.eval(), x, None, steps=10)
    assert (regret >= 0).all() and (regret > 0).any()


def test_all_cheap_statistics_are_there_for_what_a_model_can_tell() -> None:
    train = torch.randint(0, 4, (30, 1, 8, 8), dtype=torch.uint8)
    space = ImageSpace(1, 8, 8, levels=4)
    for model in (MADE.small(space), VAE.small(space)):
        told = refer(model, train, Known())
        names = chosen(model, told)
        assert {"bits_per_dim", "over_codec", "surprise_z", "max_surprise", "pixels_distance"} <= set(names)
        assert ("kl" in names) == isinstance(model, VAE)
        assert not {"regret", "inversion_error", "features_distance"} & set(names)
        assert measure(model, train, names, told).values.isfinite().all()
    with pytest.raises(CapabilityError, match="kl: that needs LatentVariable"):
        chosen(MADE.small(space), Known(), ["kl"])
    with pytest.raises(CapabilityError, match="nothing that tells odd images"):
        chosen(Toy(SPACE), Known())
    with pytest.raises(RunError, match="'2'"):
        measure(Nan(SPACE), torch.cat([coins(2), torch.ones(1, 1, 8, 8, dtype=torch.uint8)]), ["bits_per_dim"], Known())
    assert all(statistic.wants for statistic in STATISTICS.values())


def test_a_codec_that_can_be_undone_costs_what_counting_says() -> None:
    """Two pixels of two levels by hand: the first residual is coded in the class of activity 0, with 1/2 for each value."""
    space = ImageSpace(1, 1, 2, levels=2)
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.uint8).reshape(4, 1, 1, 2)
    bits = codec_bits(x, space)
    assert float(bits[0]) == pytest.approx(1 + math.log2(4 / 3))  # 1/2, then (1 + 1/2)/2
    assert float((2**-bits).sum()) == pytest.approx(1)  # Kraft: the lengths are those of a code
    every = torch.tensor(list(itertools.product(range(3), repeat=6)), dtype=torch.uint8).reshape(-1, 1, 2, 3)
    assert float((2 ** -codec_bits(every, ImageSpace(1, 2, 3, levels=3))).sum()) == pytest.approx(1)


def test_distances_from_training_images() -> None:
    g = torch.Generator().manual_seed(0)
    flat = torch.randn(200, 2, generator=g, dtype=torch.double) @ torch.randn(2, 10, generator=g, dtype=torch.double)
    told = Reference.fit(flat)
    near, off = told.measure(flat[:5]), told.measure(flat[:5] + 3 * torch.randn(5, 10, generator=g, dtype=torch.double))
    assert near[:, 0].max() < 0.01 < 1e6 < off[:, 0].min()  # 200 images lie in a plane
    assert told.axes.shape == (10, 2)
    assert torch.allclose(told.measure(flat)[:, 2].mean(), torch.tensor(1.0, dtype=torch.double))
    few = Reference.fit(flat[:3].repeat(1, 5))  # fewer images than numbers
    assert few.axes.shape[1] <= 2 and few.measure(flat[:3].repeat(1, 5)).isfinite().all()


# One score --------------------------------------------------------------------------------------------------------------


def toy_table(values: Tensor) -> Table:
    return Table(("bits_per_dim", "over_codec", "pixels_residual", "pixels_distance"), values, [])


def test_the_score_is_two_sided_and_one_voice_a_group() -> None:
    normal = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    odd, normal_names = _oddness.fit(toy_table(normal)), toy_table(normal).names
    assert odd.names == ("likelihood", "pixels") and [d.names for d in odd.groups] == [normal_names[:2], normal_names[2:]]
    assert {d.names for d in odd.choices} == {(a, b) for a in normal_names[:2] for b in normal_names[2:]}
    eye = 6 * torch.eye(4, dtype=torch.double)
    middle = float(odd(toy_table(normal)).median())
    for sign in (1, -1):
        assert (odd(toy_table(sign * eye)) > middle + 3).all()
    far = odd(toy_table(torch.tensor([[10.0], [100.0], [1e6]], dtype=torch.double) * torch.ones(1, 4, dtype=torch.double)))
    assert far.isfinite().all() and (far.diff() > 0).all()
    with pytest.raises(InputError, match="at least 5"):
        _oddness.fit(toy_table(normal[:4]))
    constant = normal.clone()
    constant[:, 1] = 7.0
    assert _oddness.fit(toy_table(constant))(toy_table(constant)).isfinite().all()
    alone = _oddness.fit(Table(("pixels_distance",), normal[:, :1], []))  # only large ones are odd
    assert torch.equal(alone(Table(("pixels_distance",), normal[:, :1], [])), normal[:, 0])


def test_evidence_that_never_varies_drowns_nothing() -> None:
    values = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    values[:, 2:] = 7.0
    score = _oddness.fit(toy_table(values))(toy_table(values))
    assert score.abs().max() < 100 and len(score.unique()) == 200


def test_kernels_are_of_all_places_and_choices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_oddness, "POINTS", 100)
    monkeypatch.setattr(_oddness, "CHOICES", 3)
    values = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    values[1::2] += 50  # tiles of an image lie side by side
    odd = _oddness.fit(toy_table(values))
    assert len(odd.choices) == 3 and all(len(d.points) == 100 for d in odd.groups)
    score = odd(toy_table(values))
    assert abs(float(score[::2].mean() - score[1::2].mean())) < 0.5


def test_known_outliers_choose_what_counts() -> None:
    g = torch.Generator().manual_seed(0)
    normal, known = torch.randn(200, 4, generator=g, dtype=torch.double), torch.randn(30, 4, generator=g, dtype=torch.double)
    known[:, 2:] += 2
    table = toy_table(normal)
    picked, tried = _oddness.choose(_oddness.fit(table), table, toy_table(known))
    assert picked.names == ("pixels",) and not picked.choices
    assert set(tried) == {"likelihood+pixels", "likelihood", "pixels"} and tried["pixels"] == max(tried.values())


def test_too_cheap_and_too_dear_are_both_odd(tmp_path: Path) -> None:
    x = torch.cat([coins(200, seed=9), coins(20, 0.6, seed=10), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)])
    result = outliers(
        Coins(SPACE), x, calib=coins(100, seed=2), center=coins(60, seed=3), train=coins(200, seed=4), alpha=0.05, out=tmp_path / "odd"
    )
    assert result.outlier[200:220].all()
    assert result.outlier[220]
    assert float(result.outlier[:200].double().mean()) < 0.15
    rows = pq.read_table(tmp_path / "odd" / "scores.parquet")
    assert rows.column_names[:5] == ["id", "score", "p_value", "outlier", "rank"]
    assert rows["p_value"].to_pylist() == result.p_value.tolist()
    odder = result.score.argsort()
    assert (result.p_value[odder].diff() <= 0).all()
    assert result.rank[result.oddest].tolist() == list(range(1, 222))
    assert torch.equal(result.outlier, result.score > result.threshold)
    json.dumps(result.to_json(), allow_nan=False)
    assert "5 % of images like the calibration images are flagged" in result.promise
    with pytest.raises(CapabilityError, match="nothing that tells odd images"):
        outliers(Toy(SPACE), x, calib=x, center=x, alpha=0.1)


def test_scores_that_are_no_number_are_refused() -> None:
    good = torch.arange(30.0)
    for score, calibration in ((torch.tensor([1.0, math.nan]), good), (good, torch.cat([good, torch.tensor([math.nan])]))):
        with pytest.raises(InputError, match=r"1 of .* are NaN"):
            verdicts(["a"] * len(score), score, calibration, alpha=0.05)
    assert verdicts(["a"], torch.tensor([math.inf]), good, alpha=0.05).outlier.all()


def test_an_alpha_of_nearly_one_or_at_the_edge_has_a_rank() -> None:
    assert rank(1 - 1e-12, 1) == 1 and rank(1 - 1e-12, 30, "calibration") == 30
    for n in range(1, 400):
        assert rank(1 / (n + 1), n) == 1 and rank(1 - 0.05 ** (1 / n), n, "calibration") == 1


def test_false_alarms_keep_to_alpha() -> None:
    """Mean over many calibration sets, α = 0.1, n = 19; of costs alone, and of all statistics together."""
    names = ["bits_per_dim", "surprise_z", "max_surprise", "over_codec"]
    table = measure(Coins(SPACE), coins(40 * 60 + 50, seed=3), names, Known())
    odd = _oddness.fit(Table(table.names, table.values[-50:], []))
    score = odd(Table(table.names, table.values[:-50], []))
    cost = table.column("bits_per_dim") * 64 * LN2
    for by in ("all", "costs"):
        rates = []
        for i in range(40):
            at = slice(60 * i, 60 * i + 60)
            if by == "all":
                found = verdicts([""] * 41, score[at][19:], score[at][:19], alpha=0.1)
            else:
                one = [Score(cost[at][a:b], "exact", 64) for a, b in ((0, 19), (19, 30), (30, 60))]
                found = judge([""] * 30, one[2], one[0], one[1], alpha=0.1)
            rates.append(float(found.outlier.double().mean()))
        assert sum(rates) / len(rates) < 0.1 + 0.03


# Where ------------------------------------------------------------------------------------------------------------------


def test_maps_add_up_to_the_cost_less_what_was_expected() -> None:
    torch.manual_seed(0)
    space = ImageSpace(3, 5, 4, levels=6)
    x = torch.randint(0, 6, (4, *space.shape), dtype=torch.uint8)
    model = PixelCNN.small(space).double()
    seen = predictive(model.eval(), x, None)
    with torch.inference_mode():
        cost = -model.log_prob(x)
    expected = (cost - seen.entropy.flatten(1).sum(1)) / LN2
    maps = bit_maps(model, x)
    assert maps.shape == (4, 1, 5, 4)
    assert torch.allclose(maps.flatten(1).sum(1).double(), expected, atol=1e-4)
    assert torch.equal(bit_maps(model, x, background=model), torch.zeros(4, 1, 5, 4))
    vae = VAE.small(space).double()
    z = vae.eval().encode(x)
    pixels = vae.decode(z)
    excess = (-pixels.log_prob(x) - pixels.surprise(x)[0]).sum(1, keepdim=True) / LN2
    assert torch.allclose(bit_maps(vae, x).double(), excess, atol=1e-5)


def test_few_normal_images_have_any_lit_pixel() -> None:
    """Coins, α = 0.2: the mean over calibration sets; and a patch of ones lights up where it is."""
    maps = smooth(bit_maps(Coins(SPACE), coins(30 * 40, seed=5))).flatten(1).amax(1)
    rates = []
    for i in range(30):
        part = maps[40 * i : 40 * i + 40]
        threshold = part[:24].sort(descending=True).values[rank(0.2, 24) - 1]
        rates.append(float((part[24:] > threshold).double().mean()))
    assert sum(rates) / 30 < 0.2 + 0.03
    x = coins(2, seed=6)
    x[0, 0, 2:6, 2:6] = 1
    found = heat_maps(Coins(SPACE), x, calib=coins(99, seed=7), alpha=0.05)
    assert found.lit[0, 0, 3:5, 3:5].all() and not found.lit[0, 0, :, 7].any()
    assert (found.threshold, found.alpha) == (pytest.approx(found.threshold), 0.05)
    again = restored(Coins(SPACE), x, found.lit)
    assert torch.equal(again[~found.lit], x[~found.lit]) and again[0, 0, 2:6, 2:6].sum() < 16
    assert not heat_maps(Coins(SPACE), x).lit.any()
    for name in ("gan", "autoencoder"):
        with pytest.raises(CapabilityError, match=r"nothing of single pixels\. .*pofx train vae"):
            heat_maps(catalog.get(name).small(SPACE), x)


# Tiles ------------------------------------------------------------------------------------------------------------------


def test_tiles_cover_a_photograph_and_are_stitched_to_it() -> None:
    assert starts(8, 8, 4) == [0] and starts(13, 8, 4) == [0, 4, 5]
    x = torch.arange(2 * 13 * 10, dtype=torch.int64).reshape(2, 1, 13, 10).remainder(251).to(torch.uint8)
    tiles = Tiles(as_images(x), ImageSpace(1, 8, 8), (13, 10), 4)
    assert tiles.each == 6 and len(tiles) == 12
    every = tiles.take(torch.arange(12))[0]
    assert torch.equal(tiles.stitch(every.float()), x.float())  # each pixel at its place, the mean of equal ones
    assert torch.equal(tiles.take(torch.tensor([7]))[0][0], x[1, :, 0:8, 2:10])
    assert tiles.oddest(torch.arange(12.0)).tolist() == [5.0, 11.0]
    for stride, size, words in ((9, (13, 10), "left out"), (0, (13, 10), "left out"), (4, (6, 10), "smaller than a tile")):
        with pytest.raises(InputError, match=words):
            Tiles(as_images(x), ImageSpace(1, 8, 8), size, stride)


def test_the_guarantee_of_tiles_is_of_images() -> None:
    space = ImageSpace(1, 8, 16, levels=2)

    def photos(n: int, seed: int) -> Tiles:
        return Tiles(as_images(coins(n, seed=seed, space=space)), SPACE, (8, 16), 8)

    with pytest.raises(InputError, match="It takes 19"):  # of photographs: 36 tiles are not enough
        outliers(Coins(SPACE), photos(4, 1), calib=photos(18, 2), center=coins(50, seed=3))
    with pytest.raises(InputError, match="2 tiles and a calibration image 1"):
        outliers(Coins(SPACE), photos(4, 1), calib=coins(40, seed=2), center=coins(50, seed=3))
    found = outliers(Coins(SPACE), photos(200, 1), calib=photos(99, 2), center=coins(50, seed=3), alpha=0.1)
    assert len(found.ids) == 200 and found.tiles == 2 and len(found.calibration) == 99
    assert 0.02 < float(found.outlier.double().mean()) < 0.2
    assert found.statistics["bits_per_dim"].shape == (200,)
