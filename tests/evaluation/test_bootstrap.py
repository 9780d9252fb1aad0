import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import bootstrap
from t2ireid_plugin.evaluation.bootstrap import (
    Difference,
    format_interval,
    intervals,
    paired_difference,
)
from t2ireid_plugin.evaluation.result import RetrievalResult


def result_of(pids, AP, first_rank=1, INP=0.5):
    columns = (np.broadcast_to(column, len(pids)) for column in (first_rank, AP, INP))
    return RetrievalResult(*columns, np.asarray(pids))


def random_results(seed, queries=40, people=8, count=2):
    """Results of some models on the same queries."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, people, queries) * 7 - 11
    figures = ((rng.integers(1, 15, queries), *rng.uniform(0.01, 1, (2, queries))) for _ in range(count))
    return [RetrievalResult(ranks.astype(np.int32), AP, INP, pids) for ranks, AP, INP in figures]


def naive_samples(result, samples, seed, ranks=(1, 5, 10)):
    """The metrics of each sample, by loops over drawn identities and their queries; same draws as the package's."""
    rng = np.random.default_rng(seed)
    people = sorted(set(result.pids.tolist()))
    means = []
    for _ in range(samples):
        drawn = []
        for number in rng.integers(len(people), size=len(people)):
            drawn += [i for i, pid in enumerate(result.pids) if pid == people[number]]
        hits = [sum(result.first_rank[i] <= k for i in drawn) for k in ranks]
        sums = [*hits, sum(result.AP[i] for i in drawn), sum(result.INP[i] for i in drawn)]
        means.append([total / len(drawn) for total in sums])
    return np.array(means)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 8), st.integers(1, 40))
def test_intervals_equal_a_loop_over_the_drawn_queries(seed, queries, people, samples):
    result, _ = random_results(seed, queries, people)
    ends = intervals(result, samples=samples, seed=seed)
    expected = np.quantile(naive_samples(result, samples, seed), [0.025, 0.975], axis=0)
    assert list(ends) == ["R@1", "R@5", "R@10", "mAP", "mINP"]
    np.testing.assert_allclose(np.array(list(ends.values())), expected.T, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 8), st.integers(1, 40))
def test_differences_equal_two_loops_with_the_same_draws(seed, queries, people, samples):
    a, b = random_results(seed, queries, people)
    ranks = (2, 7, 20)
    differences = paired_difference([a], [b], ranks=ranks, samples=samples, seed=seed)
    assert list(differences) == ["R@2", "R@7", "R@20", "mAP", "mINP"]
    by_loop = [naive_samples(result, samples, seed, ranks) for result in (a, b)]
    ends = np.quantile(by_loop[1] - by_loop[0], [0.025, 0.975], axis=0)
    np.testing.assert_allclose([[row.low, row.high] for row in differences.values()], ends.T, atol=1e-12)
    assert differences["mAP"].a == pytest.approx(a.AP.mean())
    assert differences["mAP"].b == pytest.approx(b.AP.mean())
    assert differences["R@7"].value == pytest.approx((b.first_rank <= 7).mean() - (a.first_rank <= 7).mean())
    difference = (by_loop[1] - by_loop[0])[:, 3]
    other = difference <= 0 if differences["mAP"].value > 0 else difference >= 0
    assert differences["mAP"].opposite == pytest.approx(other.mean())


@given(st.integers(0, 10**6))
def test_intervals_contain_the_metric(seed):
    result, _ = random_results(seed)
    wide = intervals(result, samples=400)
    for name, value in (("R@5", (result.first_rank <= 5).mean()), ("mAP", result.AP.mean())):
        assert 0 <= wide[name][0] <= value <= wide[name][1] <= 1


def test_a_model_does_not_differ_from_itself():
    result, _ = random_results(0)
    for row in paired_difference([result], [result], samples=100).values():
        assert (row.value, row.low, row.high, row.opposite) == (0.0, 0.0, 0.0, 1.0)
        assert not row.excludes_zero


def simulate(rng, people=60, shift=0.0):
    """Two models on people who are more or less easy for both and have unequal numbers of captions."""
    counts = rng.integers(1, 7, people)
    pids = np.repeat(np.arange(people), counts)
    easy = rng.normal(0, 0.1, people)[pids]
    both = [0.5 + easy + rng.normal(0, 0.05, len(pids)) + by for by in (0.0, shift)]
    return [result_of(pids, figure, np.where(figure > 0.5, 1, 20), figure) for figure in both]


@pytest.mark.slow
def test_coverage_of_a_known_truth():
    """Mean AP of the simulated population is 0.5 and R@1 one half; the paired difference of mAP is 0.01."""
    rng = np.random.default_rng(7)
    covered = []
    for seed in range(300):
        a, b = simulate(rng, shift=0.01)
        ends = intervals(a, samples=400, seed=seed)
        difference = paired_difference([a], [b], samples=400, seed=seed)["mAP"]
        cases = [(0.5, *ends["mAP"]), (0.5, *ends["R@1"]), (0.01, difference.low, difference.high)]
        covered.append([low <= truth <= high for truth, low, high in cases])
    for share in np.mean(covered, axis=0):
        assert 0.90 <= share <= 0.99


def test_pairing_is_narrower_where_models_share_difficulty():
    a, b = simulate(np.random.default_rng(0), shift=0.01)
    paired = paired_difference([a], [b])["mAP"]
    unpaired = [intervals(result, seed=seed)["mAP"] for seed, result in enumerate((a, b))]
    assert paired.high - paired.low < 0.5 * min(high - low for low, high in unpaired)


@pytest.mark.slow
def test_few_identities_cover_too_little_as_documented():
    rng = np.random.default_rng(0)
    for people, expected in ((10, 0.90), (bootstrap.FEW, 0.93)):
        covered = []
        for seed in range(500):
            low, high = intervals(result_of(np.arange(people), rng.normal(0.5, 0.1, people)), samples=200, seed=seed)[
                "mAP"
            ]
            covered.append(low <= 0.5 <= high)
        assert np.mean(covered) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(changed, message):
    a, b = random_results(0)
    with pytest.raises(DataError, match=message):
        intervals(a, **changed)
    with pytest.raises(DataError, match=message):
        paired_difference([a], [b], **changed)


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_interval_ends_belong_to_it(low, high, excluded):
    assert Difference(0.5, 0.6, low, high, 0.0).excludes_zero is excluded


def test_format_interval():
    assert format_interval(0.551, 0.539, 1.0) == "55.10 [53.90, 100.00]"
    assert format_interval(0.012, -0.001, 0.025, signed=True) == "+1.20 [-0.10, +2.50]"
    assert format_interval(-1e-9, -1e-9, 0.0, signed=True) == "+0.00 [+0.00, +0.00]"
    assert format_interval(0.551, 0.539, 1.0, digits=1) == "55.1 [53.9, 100.0]"


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_means_over_seeds(seed, seeds):
    results = random_results(seed, 20, 5, 2 * seeds)
    a, b = results[:seeds], results[seeds:]
    differences = paired_difference(a, b, samples=20)
    assert differences["mAP"].a == pytest.approx(np.mean([result.AP.mean() for result in a]))
    assert differences["R@5"].b == pytest.approx(np.mean([(result.first_rank <= 5).mean() for result in b]))


def test_seeds_that_disagree_widen_the_interval():
    """People that all gain 0.3 with one seed and lose 0.3 with the other have no variance except between seeds."""
    flat, up, down = (result_of(np.arange(50), AP) for AP in (0.5, 0.8, 0.2))
    same, apart = (paired_difference([flat] * 2, b)["mAP"] for b in ([up, up], [up, down]))
    assert (same.low, same.high) == (pytest.approx(0.3), pytest.approx(0.3))
    # Of two seeds drawn twice, a quarter of the samples has only the first, a quarter only the second.
    assert (apart.low, apart.high) == (pytest.approx(-0.3), pytest.approx(0.3))
    assert apart.value == pytest.approx(0)
