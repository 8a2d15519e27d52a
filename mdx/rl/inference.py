"""Transforms of calibrated rewards for a procedure at inference: best of N, worst of N.

Contents: PROCEDURES, TRANSFORMS, Inference, grid, win_rate, divergence, gain, tilted, fixed_point.

Convention: a calibrated reward u in [0, 1] is the share of the base model's answers that a reward
exceeds, so that u of the base model is uniform (without ties). A policy is described by the density
f of its u, float64 [M] at the midpoints of M equal cells; its cumulative distribution is F. RL with
the reward Phi(u) and the weight beta of the divergence from the base model has
f proportional to exp(Phi / beta). The rate at which the best of N answers of the policy wins over
the best of N of the base model is 1 - N int F^N u^(N-1) du, that of the worst of N is
N int (1 - F)^N (1 - u)^(N-1) du. The f which is best for either satisfies the fixed point
f proportional to exp(R_f / beta) with R_f of `gain`.

Reference: Balashankar et al. 2024, arXiv:2412.19792 (InfAlign, CTRL).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import optimize

from mdx import config as config_lib

PROCEDURES = ("best_of", "worst_of")
_CELLS = 2000
_STEP = 0.2  # of the damped iteration, in the logarithm of the density
_MAX_KL = 4.0  # nats; more is too much for so many cells


def grid() -> np.ndarray:
  """Returns the midpoints u of the cells, float64 [M]."""
  return (np.arange(_CELLS) + 0.5) / _CELLS


def _cumulative(density):
  """F at the midpoints."""
  return (np.cumsum(density) - density / 2) / _CELLS


def _normalized(log_density):
  density = np.exp(log_density - log_density.max())
  return density / density.mean()


def win_rate(density: np.ndarray, num_samples: int, procedure: str = "best_of") -> float:
  """Returns the win rate of the best or worst of N answers over that of the base model.

  Args:
    density: float64 [M] of the policy.
    num_samples: N; 1 = the standard win rate.
    procedure: one of PROCEDURES.
  """
  u, below = grid(), _cumulative(density)
  if procedure == "best_of":
    return float(1 - num_samples * np.mean(below ** num_samples * u ** (num_samples - 1)))
  return float(num_samples * np.mean((1 - below) ** num_samples * (1 - u) ** (num_samples - 1)))


def divergence(density: np.ndarray) -> float:
  """Returns KL(policy || base), nats, of a density float64 [M]."""
  return float(np.mean(density * np.log(np.maximum(density, 1e-300))))


def gain(density: np.ndarray, num_samples: int, procedure: str = "best_of") -> np.ndarray:
  """Returns R_f, the derivative of `win_rate` by the density, float64 [M].

  N^2 int_0^u F^(N-1) v^(N-1) dv for the best of N, N^2 int_0^u (1-F)^(N-1) (1-v)^(N-1) dv for the
  worst.
  """
  u, below = grid(), _cumulative(density)
  if procedure == "worst_of":
    u, below = 1 - u, 1 - below
  return num_samples ** 2 * _cumulative((below * u) ** (num_samples - 1))


def _at_divergence(density_of: Callable[[float], np.ndarray], kl: float) -> np.ndarray:
  """The density of the weight beta at which the divergence is `kl`; ValueError if there is none."""
  if not 0 < kl <= _MAX_KL:
    raise ValueError(f"kl must lie in (0, {_MAX_KL:g}] nats, got {kl}.")
  excess = lambda log_beta: divergence(density_of(float(np.exp(log_beta)))) - kl
  low = high = 0.0
  while excess(high) > 0:
    high += 1.0
  while excess(low) < 0:
    low -= 1.0
  return density_of(float(np.exp(optimize.brentq(excess, low, high, xtol=1e-7))))


def tilted(phi: np.ndarray, kl: float) -> np.ndarray:
  """Returns the density f proportional to exp(phi / beta) of divergence `kl`, float64 [M].

  Args:
    phi: float64 [M], a transformed reward.
    kl: nats, positive.
  """
  phi = (phi - phi.mean()) / phi.std()
  return _at_divergence(lambda beta: _normalized(phi / beta), kl)


def fixed_point(num_samples: int, kl: float, procedure: str = "best_of") -> np.ndarray:
  """Returns the density that satisfies the fixed point at a divergence, float64 [M].

  The optimum for the best of N. The win rate of the worst of N is convex in the density, so that
  there it is a stationary point.

  Args:
    num_samples: N, at least 1.
    kl: nats, positive.
    procedure: one of PROCEDURES.
  """

  def solved(beta):
    log_density = np.zeros(_CELLS)
    for _ in range(1000):
      density = _normalized(log_density)
      wanted = gain(density, num_samples, procedure) / beta
      change = (wanted - wanted.mean()) - (log_density - log_density.mean())
      log_density = log_density + _STEP * change
      if np.abs(change).max() < 1e-6:
        break
    return _normalized(log_density)

  return _at_divergence(solved, kl)


def _of_fixed_point(procedure):
  def phi(inference):
    density = fixed_point(inference.num_samples, inference.kl, procedure)
    return gain(density, inference.num_samples, procedure)
  return phi


def _exponential(inference):
  return np.sign(inference.exponent) * np.exp(inference.exponent * grid())


# Name -> values of Phi at the midpoints, float64 [M], of an `Inference`.
TRANSFORMS: Mapping[str, Callable[[Inference], np.ndarray]] = {
    "identity": lambda inference: grid(),
    "logarithm": lambda inference: np.log(grid()),
    "exponential": _exponential,
    "best_of": _of_fixed_point("best_of"),
    "worst_of": _of_fixed_point("worst_of"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
  """A transform Phi of calibrated rewards, with mean 0 and variance 1 under the base model.

  Attributes:
    transform: one of TRANSFORMS: "identity", best for one answer; "logarithm", distillation of the
      best of N; "exponential", sign(t) e^(t u); "best_of" and "worst_of", R_f at the fixed point.
    exponent: t of "exponential": about 10 for the best of 4, -10 for the worst of 4.
    num_samples: N of the fixed points.
    kl: divergence from the base model at which a fixed point is taken, nats.
  """
  transform: str = "identity"
  exponent: float = 10.0
  num_samples: int = 4
  kl: float = 0.5

  def __post_init__(self):
    config_lib.check(self, "rollout.inference", choices={"transform": tuple(TRANSFORMS)},
                     at_least={"num_samples": 1},
                     between={"kl": f"(0, {_MAX_KL:g}]", "exponent": "[-100, 100]"})
    if not self.exponent:
      raise ValueError("rollout.inference.exponent must not be 0, of which e^(tu) is constant; use "
                       "transform identity.")

  @functools.cached_property
  def values(self) -> np.ndarray:
    """Phi at the midpoints of the cells, float64 [M]."""
    phi = TRANSFORMS[self.transform](self)
    return (phi - phi.mean()) / phi.std()

  def __call__(self, calibrated: np.ndarray) -> np.ndarray:
    """Returns Phi of calibrated rewards in [0, 1], float32 of the same shape."""
    return np.interp(calibrated, grid(), self.values).astype(np.float32)
