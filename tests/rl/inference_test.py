"""Transforms of calibrated rewards against golden numbers and closed forms."""

import numpy as np
import pytest

from mdx.rl import inference
from mdx.rl import rewards

U = inference.grid()
# Win rates of four answers (standard win rates) of densities of a divergence, solved once on a grid
# of 20,000 cells; columns: identity, logarithm, e^5u, e^10u, -e^-5u, -e^-10u, fixed point.
GOLDEN = {
    (0.25, "best_of"): (".730 .699", ".690 .690", ".786 .676", ".797 .648", ".649", ".611",
                        ".797 .647"),
    (0.5, "best_of"): (".800 .774", ".768 .768", ".857 .746", ".872 .712", ".723", ".686",
                       ".873 .702"),
    (1.0, "best_of"): (".877 .865", ".863 .863", ".919 .839", ".935 .801", ".835", ".810",
                       ".941 .774"),
    (2.0, "best_of"): (".952 .950", ".950 .950", ".964 .942", ".973 .915", ".945", ".938",
                       ".984 .856"),
    (0.25, "worst_of"): (".785", ".836", ".668", ".617", ".854 .676", ".856 .652", ".858 .659"),
    (0.5, "worst_of"): (".886", ".927", ".747", ".676", ".944 .754", ".948 .736", ".948 .734"),
    (1.0, "worst_of"): (".975", ".986", ".857", ".771", ".991 .857", ".993 .848", ".993 .839")}


def _densities(kl, procedure):
  exponential = lambda t: np.sign(t) * np.exp(t * U)
  phis = (U, np.log(U), *map(exponential, (5, 10, -5, -10)))
  return [*(inference.tilted(phi, kl) for phi in phis), inference.fixed_point(4, kl, procedure)]


@pytest.mark.parametrize("kl, procedure", GOLDEN)
def test_win_rates_of_transforms_at_equal_divergence_are_the_golden_ones(kl, procedure):
  for density, golden in zip(_densities(kl, procedure), GOLDEN[kl, procedure], strict=True):
    expected = [float(x) for x in golden.split()]
    found = [inference.win_rate(density, n, procedure) for n in (4, 1)][:len(expected)]
    assert inference.divergence(density) == pytest.approx(kl, abs=1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("procedure", inference.PROCEDURES)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_fixed_point_repeats_itself_and_no_neighbour_of_its_divergence_wins_more(
    num_samples, procedure):
  density = inference.fixed_point(num_samples, 0.5, procedure)
  own = inference.gain(density, num_samples, procedure)
  slope, offset = np.polyfit(own, np.log(density), 1)
  np.testing.assert_allclose(np.log(density), slope * own + offset, atol=1e-4)
  best = inference.win_rate(density, num_samples, procedure)
  for bump in (U ** 2, -U ** 2, np.sin(6 * U), np.exp(-50 * (U - 0.5) ** 2)):
    other = inference.tilted(np.log(density) + 0.05 * bump, 0.5)
    assert inference.win_rate(other, num_samples, procedure) <= best + 1e-6


def test_the_win_rate_of_the_base_is_a_half_and_the_gain_has_the_closed_form():
  base = np.ones_like(U)
  for num_samples in (1, 2, 5):
    factor = num_samples ** 2 / (2 * num_samples - 1)
    np.testing.assert_allclose(inference.gain(base, num_samples),
                               factor * U ** (2 * num_samples - 1), atol=2e-3)
    np.testing.assert_allclose(inference.gain(base, num_samples, "worst_of"),
                               factor * (1 - (1 - U) ** (2 * num_samples - 1)), atol=5e-3)
    for procedure in inference.PROCEDURES:
      assert inference.win_rate(base, num_samples, procedure) == pytest.approx(0.5, abs=1e-3)
  assert inference.divergence(base) == 0


def test_a_transform_has_mean_0_and_variance_1_and_keeps_the_order():
  for fields in (dict(transform="identity"), dict(transform="logarithm"),
                 dict(transform="exponential", exponent=-10.0), dict(transform="best_of"),
                 dict(transform="worst_of", num_samples=2, kl=0.1)):
    phi = inference.Inference(**fields)
    assert phi.values.mean() == pytest.approx(0, abs=1e-9) and phi.values.std() == pytest.approx(1)
    found = phi(np.array([[0.0, 0.2, 0.7, 1.0]]))
    assert found.dtype == np.float32 and np.all(np.diff(found) > 0)
  reward = np.array([[0.0, 1.0, 2.0, 2.0]], np.float32)
  facts = rewards.Facts(np.ones((1, 4)), 10, phi=inference.Inference(transform="exponential"))
  transformed = rewards.transform(("calibrated", "inference"), reward, facts)
  np.testing.assert_allclose(transformed, facts.phi(np.array([[1, 3, 6, 6]]) / 8), atol=1e-6)


@pytest.mark.parametrize("fields, message", [
    (dict(transform="cube"), "rollout.inference.transform is 'cube'; choose from identity"),
    (dict(num_samples=0), "rollout.inference.num_samples must be at least 1, got 0"),
    (dict(kl=0.0), r"rollout.inference.kl must lie in \(0, 4\], got 0"),
    (dict(exponent=0.0), "rollout.inference.exponent must not be 0"),
    (dict(exponent=500.0), r"rollout.inference.exponent must lie in \[-100, 100\]")])
def test_transforms_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message) as caught:
    inference.Inference(**fields)
  assert "\n" not in str(caught.value)
