"""Numbers of tokens that the denoising steps commit.

Contents: OWN_STEPS, SCHEDULES, count_table.

References: Nie et al. 2025, arXiv:2502.09992 ("even"); Chang et al. 2022,
arXiv:2202.04200 (the mask-ratio schedules of MaskGIT); Yang et al. 2025, arXiv:2509.23924
("doubling": 2^i tokens at step i, so log2 of the tokens is enough steps).
"""

from __future__ import annotations

import functools
import math

import numpy as np

# Share of the tokens that is still masked after a share r of the steps.
_MASK_RATIOS = {
    "linear": lambda r, n: 1 - r,
    "cosine": lambda r, n: math.cos(math.pi / 2 * r),
    "pow2": lambda r, n: 1 - r ** 2,
    "pow3": lambda r, n: 1 - r ** 3,
    "pow0.5": lambda r, n: 1 - r ** 0.5,
    "log": lambda r, n: -math.log2(r) / math.log2(n),
    "exp": lambda r, n: 1 - 2 ** (-math.log2(n) * (1 - r)),
}
OWN_STEPS = ("doubling",)  # schedules that say how many steps there are, up to `steps`
SCHEDULES = ("even", *_MASK_RATIOS, *OWN_STEPS)


def _counts(schedule: str, num_tokens: int, steps: int) -> list[int]:
  """Tokens committed by each step; steps that commit none are left out."""
  if schedule == "even":
    base, rest = divmod(num_tokens, steps)
    counts = [base + (step < rest) for step in range(steps)]
  elif schedule == "doubling":
    before = [min(2 ** step - 1, num_tokens) for step in range(steps)]
    counts = list(np.diff(before + [num_tokens]))
  elif num_tokens < 2:
    counts = [num_tokens]
  else:
    ratio = _MASK_RATIOS[schedule]
    left = [math.floor(num_tokens * min(max(ratio((step + 1) / steps, num_tokens), 1e-6), 1))
            for step in range(steps)]
    counts = -np.diff([num_tokens] + left)
  return [int(n) for n in counts if n]


@functools.lru_cache(maxsize=64)
def count_table(schedule: str, max_tokens: int, steps: int) -> np.ndarray:
  """Tokens committed by each step, for every number of tokens.

  Args:
    schedule: one of SCHEDULES.
    max_tokens: largest number of masked tokens of a block.
    steps: denoising steps of a block; a step that would commit nothing is skipped.

  Returns:
    int32 [max_tokens + 1, steps]; row n sums to n and its zeros are at its end.
  """
  table = np.zeros((max_tokens + 1, steps), np.int32)
  for num_tokens in range(max_tokens + 1):
    counts = _counts(schedule, num_tokens, steps)
    table[num_tokens, :len(counts)] = counts
  table.flags.writeable = False
  return table
