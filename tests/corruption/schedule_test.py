"""Schedules: end points, derivatives, weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx.corruption import schedule as schedule_lib

_EPS = (0.0, 1e-4, 0.03)
_PLAIN = [("linear", {}), ("cosine", {}),
          *(("polynomial", {"power": p}) for p in (0.5, 1.0, 2.0, 3.0))]
ALL = [pytest.param(schedule_lib.SCHEDULES[name](eps=eps, **fields),
                    id=f"{name}{fields.get('power', '')}-{eps}")
       for name, fields in _PLAIN for eps in _EPS]


@pytest.mark.parametrize("schedule", ALL)
def test_alpha_falls_from_one_minus_eps_to_exactly_zero(schedule):
  assert float(schedule.alpha(jnp.float32(1))) == 0
  np.testing.assert_allclose(schedule.alpha(jnp.float32(0)), 1 - schedule.eps, rtol=1e-6)
  t = jnp.linspace(0, 1, 1001)
  assert np.all(np.diff(schedule.alpha(t)) <= 0) and np.all(np.diff(schedule.mask_prob(t)) > 0)
  np.testing.assert_allclose(schedule.alpha(t) + schedule.mask_prob(t), 1, rtol=1e-6)


@pytest.mark.parametrize("schedule", ALL)
def test_dalpha_is_the_derivative_of_alpha(schedule):
  t = jnp.linspace(0.003, 0.997, 301)
  np.testing.assert_allclose(schedule.dalpha(t), jax.vmap(jax.grad(schedule.alpha))(t),
                             rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ALL)
def test_weight_is_the_derivative_of_log_mask_prob(schedule):
  t = jnp.linspace(0.003, 0.997, 301)
  log_mask_prob = lambda t: jnp.log(schedule.mask_prob(t))  # 1 - alpha, without cancellation
  np.testing.assert_allclose(schedule.weight(t), jax.vmap(jax.grad(log_mask_prob))(t),
                             rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", ALL)
def test_weight_is_finite_and_not_negative_at_every_time_that_is_drawn(schedule):
  t = jnp.concatenate([2.0 ** -jnp.arange(33.0), jnp.linspace(1e-3, 1, 500)])
  weight = np.asarray(jax.jit(schedule.weight)(t))
  assert np.all(np.isfinite(weight)) and np.all(weight >= 0)


def test_weight_is_finite_where_the_mask_probability_underflows():
  schedule = schedule_lib.Polynomial(eps=0.0, power=12.0)
  assert np.all(np.isfinite(schedule.weight(2.0 ** -jnp.arange(33.0))))


def test_linear_weight_is_one_over_t_and_polynomial_weight_power_over_t():
  t = jnp.linspace(0.01, 1, 50)
  np.testing.assert_allclose(schedule_lib.Linear(eps=0.0).weight(t), 1 / t, rtol=1e-6)
  np.testing.assert_allclose(schedule_lib.Polynomial(eps=0.0, power=3.0).weight(t), 3 / t,
                             rtol=1e-5)


def test_cosine_weight_is_the_tangent_of_md4():
  t = jnp.linspace(0.01, 0.99, 50)
  np.testing.assert_allclose(schedule_lib.Cosine(eps=0.0).weight(t),
                             np.pi / 2 * np.tan(np.pi / 2 * (1 - t)), rtol=1e-4)


@pytest.mark.parametrize("schedule", ALL)
def test_time_is_the_inverse_of_the_mask_probability(schedule):
  t = jnp.linspace(0.02, 1, 99)
  np.testing.assert_allclose(schedule.time(schedule.mask_prob(t)), t, rtol=2e-3)
  mask_prob = jnp.linspace(schedule.eps, 1, 99)
  np.testing.assert_allclose(schedule.mask_prob(schedule.time(mask_prob)), mask_prob, atol=2e-6)
  ends = schedule.time(jnp.array([0.0, schedule.eps / 2, 1.0, 1.0 + 1e-6]))
  np.testing.assert_allclose(ends, [0, 0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("schedule", ALL)
def test_mean_mask_prob_is_the_integral_and_is_known_while_tracing(schedule):
  nodes, weights = np.polynomial.legendre.leggauss(200)
  u = (nodes + 1) / 2
  wanted = weights / 2 * 4 * u ** 3 @ np.asarray(schedule.mask_prob(u ** 4))
  found = []
  jax.jit(lambda x: found.append(schedule.mean_mask_prob) or x)(0.0)
  assert isinstance(found[0], float)
  np.testing.assert_allclose(found[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("make", [
    lambda: schedule_lib.Linear(eps=0.5), lambda: schedule_lib.Cosine(eps=-1e-3),
    lambda: schedule_lib.Polynomial(power=0.0)])
def test_values_without_meaning_are_refused(make):
  with pytest.raises(ValueError, match="schedule.eps|power"):
    make()
