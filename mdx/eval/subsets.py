"""Likelihood of an answer given its prompt by exact counts of masks, of little variance.

Contents: ESTIMATOR, is_fit, Draws, choose, standard_error, Estimates, make_subset_nll,
conditional_nll.

The bound of masked diffusion is a sum over the number k of masked tokens of an answer of T,

  sum over k = 1 .. T of E over subsets S of k tokens of g(S),
  g(S) = mean over i in S of -log p(x_i | the tokens that are not in S),

the mean over all orders of decoding (Ou et al. 2024, arXiv:2406.03736). A few tokens have few
subsets: all are read, and the bound is exact. Otherwise every count is drawn, those most often
whose g varies most, with subsets that cover the answer evenly; and where there are fewer draws than
counts, the counts lie on a lattice that is denser at small ones, in antithetic pairs.

Convention: draws depend on (seed, question, number of tokens) alone. Choices of one question that
are equally long have the same masks, so that their errors cancel in a comparison.

References: Nie et al. 2025, arXiv:2502.09992, appendix B; Uria et al. 2014, arXiv:1310.1757.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mdx import sharding
from mdx import types
from mdx.eval import likelihood
from mdx.utils import rng

ESTIMATOR = "subsets"
_ROUND = 16  # lengths that rows are padded to are multiples of this


def is_fit(objective: types.Objective) -> bool:
  """Whether an objective has a bound of which the masks may be chosen."""
  return types.is_maskable(objective.bound(ESTIMATOR))


class Draws(NamedTuple):
  """Masks that an answer is read under; the estimate is sum over draws of weight * g(mask).

  Attributes:
    masks: bool [N, T].
    weights: float64 [N], those of g.
    strata: int [N]; the draws of a stratum have one mask, or one number of masked tokens.
    quantiles: float64 [N] in (0, 1), of the time given the number of masked tokens.
    is_known: bool [N]; whether the stratum has no error, having all its subsets.
  """
  masks: np.ndarray
  weights: np.ndarray
  strata: np.ndarray
  quantiles: np.ndarray
  is_known: np.ndarray


def choose(num_tokens: int, num_draws: int, draw: np.random.Generator, *,
           reads_time: bool = False) -> Draws:
  """Chooses the masks of an answer.

  Args:
    num_tokens: T.
    num_draws: most masks that may be read; all 2^T - 1 of them are if they fit.
    draw: of the subsets, consumed.
    reads_time: whether the cost of a mask depends on the time, too, which then is drawn with it.
  """
  if num_tokens < 31 and 2 ** num_tokens - 1 <= num_draws:
    masks = _all_masks(num_tokens)
    repeats = num_draws // len(masks) if reads_time else 1
    counts = masks.sum(axis=1)
    share = np.array([math.comb(num_tokens, k) for k in counts], np.float64) * repeats
    strata = np.repeat(np.arange(len(masks)) if repeats > 1 else counts, repeats)
    masks, weights = np.repeat(masks, repeats, axis=0), np.repeat(1 / share, repeats)
    is_known = np.full(len(masks), not reads_time)
  else:
    if num_draws >= num_tokens:
      sizes = _allocation(num_tokens, num_draws)
      strata = counts = np.repeat(np.arange(1, num_tokens + 1), sizes)
      weights = np.repeat(1 / np.array(sizes), sizes)
      is_all = [n == math.comb(num_tokens, k) for k, n in enumerate(sizes, 1)]
      is_known = np.repeat(is_all, sizes)
    else:
      counts, weights = _lattice(num_tokens, num_draws, draw)
      strata, is_known = np.arange(num_draws), np.zeros(num_draws, bool)
    masks = _subsets(counts, is_known, num_tokens, draw)
    is_known &= not reads_time
  quantiles = np.empty(len(masks))
  for stratum in np.unique(strata):
    members = np.flatnonzero(strata == stratum)
    quantiles[members] = (draw.permutation(len(members)) + draw.random()) / len(members)
  return Draws(masks, weights, strata, np.clip(quantiles, 1e-9, 1 - 1e-9), is_known)


@functools.cache
def _all_masks(num_tokens: int) -> np.ndarray:
  """All subsets but the empty one, the small ones first: bool [2^T - 1, T]."""
  bits = np.arange(1, 2 ** num_tokens)[:, None] >> np.arange(num_tokens) & 1
  return bits[np.argsort(bits.sum(axis=1), kind="stable")].astype(bool)


def _spread(count: Any, num_tokens: int) -> Any:
  """Variance of the mean over `count` of T values drawn without replacement, up to a factor."""
  return (num_tokens - count) / (count * max(num_tokens - 1, 1))


@functools.cache
def _allocation(num_tokens: int, num_draws: int) -> tuple[int, ...]:
  """Draws of each count 1 .. T: one, and the others where they lower the variance most."""
  counts = np.arange(1, num_tokens + 1)
  most = np.array([min(math.comb(num_tokens, k), num_draws) for k in counts.tolist()])
  sizes = np.ones(num_tokens, int)
  for _ in range(num_draws - num_tokens):
    gain = np.where(sizes < most, _spread(counts, num_tokens) / (sizes * (sizes + 1)), -1.0)
    if gain.max() < 0:
      break
    sizes[gain.argmax()] += 1
  return tuple(sizes.tolist())


def _subsets(counts: np.ndarray, is_known: np.ndarray, num_tokens: int,
             draw: np.random.Generator) -> np.ndarray:
  """Subsets of so many tokens, bool [N, T], which together cover the tokens evenly.

  They are neighbouring windows of a random circle of the tokens; where `is_known`, all subsets.
  """
  masks = np.zeros((len(counts), num_tokens), bool)
  for count in np.unique(counts[is_known]):
    rows = np.flatnonzero(counts == count)
    for row, chosen in zip(rows, itertools.combinations(range(num_tokens), count)):
      masks[row, list(chosen)] = True
  drawn, begin, seen = np.flatnonzero(~is_known), 0, set()
  order = draw.permutation(num_tokens)
  for row, count in zip(drawn, counts[drawn]):
    if (begin, count) in seen:  # this window was read
      order, begin, seen = draw.permutation(num_tokens), 0, set()
    seen.add((begin, count))
    masks[row, order[(begin + np.arange(count)) % num_tokens]] = True
    begin = (begin + count) % num_tokens
  return masks


def _lattice(num_tokens: int, num_draws: int, draw: np.random.Generator):
  """Counts int [N], ascending, fewer than there are tokens, and their weights.

  A count k has the probability sqrt(k / T) - sqrt((k - 1) / T), since g varies like 1 / k.
  Neighbouring draws lie at u and 1 - u of their cells, so that a trend over the counts cancels.
  """
  offset = draw.random()
  within = np.where(np.arange(num_draws) % 2, 1 - offset, offset)
  quantile = (np.arange(num_draws) + within) / num_draws
  counts = np.clip(np.ceil(num_tokens * quantile ** 2), 1, num_tokens).astype(int)
  probs = np.sqrt(counts / num_tokens) - np.sqrt((counts - 1) / num_tokens)
  return counts, 1 / (num_draws * probs)


def standard_error(chosen: Draws, values: np.ndarray) -> float:
  """Standard error of an estimate, of the choice of masks; inf where one draw tells nothing.

  g(S) is taken as a trend over the counts, the mean over S of an effect of every token, and a rest
  that varies like `_spread`. What the draws say of the two variances is weighed by its likelihood;
  the effects have an error only as far as the masks do not cover the tokens evenly.

  Args:
    chosen: the draws.
    values: float64 [N], what the draws say of the whole: the estimate is their mean.
  """
  if chosen.is_known.all():
    return 0.0
  num, num_tokens = chosen.masks.shape
  part, weights = values / num, chosen.weights
  _, of, sizes = np.unique(chosen.strata, return_inverse=True, return_counts=True)
  if sizes.min() > 1 and len(sizes) == 2 ** min(num_tokens, 60) - 1:  # only times are drawn
    residual, size = part - (np.bincount(of, part) / sizes)[of], sizes[of]
    return float(math.sqrt((residual ** 2 * size / (size - 1)).sum()))
  counts = chosen.masks.sum(axis=1)
  spread = _spread(counts, num_tokens)
  fitted = np.flatnonzero(spread > 0)
  if len(fitted) < 2:
    return math.inf
  cover = chosen.masks / counts[:, None] - 1 / num_tokens
  errors = ((weights @ cover) ** 2).sum(), (weights ** 2 * spread)[~chosen.is_known].sum()
  variances = _variances(part[fitted] / weights[fitted], counts[fitted] / num_tokens,
                         cover[fitted], spread[fitted])
  return float(math.sqrt(np.dot(variances, errors)))


# Of the variance of the tokens' effects over that of the rest.
_RATIOS = np.array([0, 0.1, 0.3, 1, 3, 10, 30, 100, 1000])


def _variances(g, share, cover, spread):
  """Variances of the effects and of the rest: means over `_RATIOS` by restricted likelihood."""
  degree = min(2, len(np.unique(share)) - 1, len(g) // 5)
  scale = np.sqrt(spread)
  trend = (share[:, None] ** np.arange(degree + 1)) / scale[:, None]
  cover, g = cover / scale[:, None], g / scale
  eigen, vectors = np.linalg.eigh(cover @ cover.T)
  trend, g, free = vectors.T @ trend, vectors.T @ g, len(g) - degree - 1
  logs, rests = [], []
  for ratio in _RATIOS:
    inverse = 1 / (1 + ratio * np.maximum(eigen, 0))
    normal = trend.T @ (inverse[:, None] * trend)
    residual = g - trend @ np.linalg.solve(normal, trend.T @ (inverse * g))
    rests.append(max((inverse * residual ** 2).sum() / free, 1e-30))
    logs.append(0.5 * (np.log(inverse).sum() - np.linalg.slogdet(normal)[1]
                       - free * math.log(rests[-1])))
  chance = np.exp(np.array(logs) - max(logs))
  rests = np.array(rests) * chance / chance.sum()
  return (_RATIOS * rests).sum(), rests.sum()


class Estimates(NamedTuple):
  """Log-likelihoods of answers.

  Attributes:
    log_prob: float64 [N], nats.
    stderr: float64 [N], nats, of the draws; 0 where the value is exact, inf where one draw was made
      of several.
  """
  log_prob: np.ndarray
  stderr: np.ndarray


def make_subset_nll(objective: types.Objective) -> Callable[..., jax.Array]:
  """Builds (params, batch) -> nll [B] of rows whose masks are given; jit it.

  Args:
    objective: any whose `bound` knows "subsets".
  """
  objective = objective.bound(ESTIMATOR)

  def row_nll(params, batch):
    context = types.context(likelihood.LAST_STEP)
    batch = objective.look(context.frozen, batch, context)
    key = rng.root(0)  # nothing is drawn
    prepared, _ = objective.prepare(params, batch, key, context)
    return objective(params, prepared, context)[1].rows["nll"]

  return row_nll


class _Answer(NamedTuple):
  """A pair's draws and what its rows are given: [N, T], [N, T] and [N]."""
  index: int
  chosen: Draws
  masks: np.ndarray
  weights: np.ndarray
  levels: np.ndarray


def _answer(objective: Any, index: int, pair: tuple[Any, Any], num_draws: int,
            draw: np.random.Generator) -> _Answer:
  """Masks of a pair: of every block of its own where blocks are independent given the text."""
  start, length = len(pair[0]), len(pair[1])
  blocks = objective.blocks_of(np.arange(start, start + length))
  members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
  drawn = [choose(len(m), num_draws, draw, reads_time=objective.reads_time) for m in members]
  largest = max(drawn, key=lambda p: len(p.masks))
  num = len(largest.masks)
  masks, weights = np.zeros((num, length), bool), np.zeros((num, length))
  for chosen, place in zip(drawn, members):
    count = chosen.masks.sum(axis=1)
    scale = objective.given_count(count, len(place), chosen.quantiles)[0]
    masks[:len(count), place] = chosen.masks
    weights[:len(count), place] = (num * scale * chosen.weights / count)[:, None]
  levels = objective.given_count(largest.masks.sum(axis=1), largest.masks.shape[1],
                                 largest.quantiles)[1]
  known = np.array([all(p.is_known.all() for p in drawn)]) | largest.is_known
  return _Answer(index, largest._replace(is_known=known), masks, weights, levels)


def conditional_nll(row_nll: Callable[..., jax.Array], params: types.Params, objective: Any,
                    pairs: Sequence[tuple[Any, Any]], *, questions: Sequence[Any] | None = None,
                    num_samples: int, seed: int, max_length: int, pad_id: int, batch_size: int,
                    mesh: jax.sharding.Mesh | None = None,
                    said: Callable[[int], None] = lambda done: None) -> Estimates:
  """Estimates log p(answer | prompt) of token sequences.

  Args:
    row_nll: the jitted function of `make_subset_nll`.
    params: weights.
    objective: as of `make_subset_nll`.
    pairs: (prompt ids, answer ids).
    questions: a text or ids for each pair; pairs of equal ones share their draws. None: the prompt,
      or the answer where there is none.
    num_samples: most masks a pair is read under.
    seed: of the draws.
    max_length: most tokens of a row.
    pad_id: fills the rest.
    batch_size: rows scored together.
    mesh: shards the rows; None = this device.
    said: is told how many pairs are done.

  Raises:
    ValueError: a pair that is too long, an empty answer, or no draws.
  """
  if num_samples < 1:
    raise ValueError(f"the number of likelihood samples must be positive, got {num_samples}.")
  likelihood.check_pairs(pairs, max_length)
  objective = objective.bound(ESTIMATOR)
  if questions is None:
    questions = [prompt if len(prompt) else answer for prompt, answer in pairs]
  order = np.argsort([len(p) + len(a) for p, a in pairs], kind="stable").tolist()

  def rows() -> Iterator[tuple[_Answer, int]]:
    for i in order:
      draw = np.random.default_rng([seed % 2 ** 32, _digest(questions[i])])
      answer = _answer(objective, i, pairs[i], num_samples, draw)
      yield from ((answer, row) for row in range(len(answer.levels)))

  found, error = np.zeros(len(pairs)), np.zeros(len(pairs))
  values, done, source = [], 0, rows()
  while batch := list(itertools.islice(source, batch_size)):
    longest = max(sum(map(len, pairs[answer.index])) for answer, _ in batch)
    length = min(-(-longest // _ROUND) * _ROUND, max_length)
    arrays = likelihood.pair_rows([pairs[answer.index] for answer, _ in batch], length=length,
                                  pad_id=pad_id, num_rows=sharding.padded_rows(
                                      len(batch), batch_size, mesh))
    shape = arrays["tokens"].shape
    arrays |= {"is_masked": np.zeros(shape, bool), "token_weight": np.zeros(shape, np.float32),
               "noise_level": np.zeros(shape[0], np.float32)}
    for r, (answer, row) in enumerate(batch):
      at = arrays["loss_mask"][r]
      arrays["is_masked"][r, at] = answer.masks[row]
      arrays["token_weight"][r, at] = answer.weights[row]
      arrays["noise_level"][r] = answer.levels[row]
    nll = likelihood.run_rows(row_nll, params, arrays, mesh)
    for value, (answer, row) in zip(nll.astype(np.float64), batch):
      values.append(value)
      if row == len(answer.levels) - 1:
        found[answer.index] = -np.mean(values)
        error[answer.index] = standard_error(answer.chosen, np.array(values))
        values, done = [], done + 1
    said(done)
  return Estimates(found, error)


def _digest(question: Any) -> int:
  data = question.encode() if isinstance(question, str) else np.asarray(question, "<i8").tobytes()
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
