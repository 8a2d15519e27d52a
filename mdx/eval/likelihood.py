"""Likelihood of texts: exact for autoregressive models, a bound for diffusion.

Contents: ESTIMATORS, LAST_STEP, check_estimator, is_exact, is_likelihood, make_row_nll, ratio,
evaluate, run_batches, summarize, check_pairs, pair_rows, run_rows, conditional_nll,
make_nll_and_error, estimate_by_place.

Convention: the unit is a row. Each row's bound is averaged over `num_samples`
times of its own draw, so rows are independent and the standard error over rows
covers both the choice of text and the choice of times and masks.

References: Nie et al. 2025, arXiv:2502.09992, appendix B (conditional likelihood of answers, counts
of masks on a lattice); Rojas et al. 2025, arXiv:2510.08554 (quadrature over the time).
"""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mdx import sharding
from mdx import types
from mdx.corruption import time as time_lib
from mdx.utils import processes
from mdx.utils import rng

_ROUND = 16  # lengths that pairs are scored at are multiples of this
ESTIMATORS = ("stratified", "monte_carlo", "lattice_k", "quadrature")
LAST_STEP = 2**31 - 1  # a model is scored as it is at the end of every schedule


def check_estimator(estimator: str, objective: Any) -> None:
  """Raises ValueError for an unknown estimator, or one that does not fit the objective."""
  if estimator not in ESTIMATORS:
    raise ValueError(f"eval.estimator is {estimator!r}; choose from {', '.join(ESTIMATORS)}.")
  objective.bound(estimator)


def is_exact(objective: Any) -> bool:
  """Whether the likelihood of a model is known, not bounded."""
  return objective.bound("exact") is not None


def is_likelihood(objective: Any) -> bool:
  """Whether a model has a likelihood, or a bound of it: bits per character mean something."""
  return objective.bound(ESTIMATORS[0]) is not None


def make_row_nll(objective: Any, *, estimator: str = "stratified", num_samples: int = 8,
                 seed: int = 0, has_error: bool = False) -> Callable[..., dict[str, jax.Array]]:
  """Builds (params, batch, frozen={}) -> {"nll": [B] nats, "count": [B]}; jit it.

  Where the likelihood is exact there is also "right": [B], tokens that were the most likely ones.

  Args:
    objective: any objective; its `rows` are averaged over draws.
    estimator: "stratified" spreads a row's times evenly over (0, 1], one in
      each of `num_samples` strata; "monte_carlo" draws them independently;
      "lattice_k" masks exact counts, evenly spread over 1 .. L from a random one on;
      "quadrature" takes the nodes of Gauss and Legendre, with Bernoulli masks: not
      unbiased, but exact in the time for a cost of degree 2 `num_samples` - 1.
    num_samples: draws per row; 1 is enough where the likelihood is exact.
    seed: of the draws, which depend on (seed, draw, example_index).
    has_error: whether there is also "stderr": [B], of the mean over independent draws; 0 where the
      likelihood is exact, inf for a single draw. Even draws have a smaller one.

  Raises:
    ValueError: unknown estimator, one that does not fit, or no samples.
  """
  check_estimator(estimator, objective)
  exact = is_exact(objective)
  objective = objective.bound(estimator) or objective
  if num_samples < 1:
    raise ValueError(f"the number of likelihood samples must be positive, got {num_samples}.")
  num_samples = 1 if exact else num_samples
  names = ("nll", "right") if exact else ("nll",)
  nodes, shares = time_lib.quadrature(num_samples)

  def row_nll(params, batch, frozen=None):
    key = rng.stream(rng.root(seed), "likelihood")
    context = types.context(LAST_STEP, frozen)
    batch = objective.look(context.frozen, batch, context)

    def one(total, draw):
      # The points of a lattice have one offset a row.
      stream = rng.stream(key, "time", 0 if estimator == "lattice_k" else draw)
      uniform = jax.vmap(jax.random.uniform)(rng.per_example(stream, batch["example_index"]))
      # 1 - uniform lies in (0, 1], so t > 0 at any rounding. Neighbouring rows take
      # different strata of one draw, which keeps a batch near the mean mask rate.
      stratum = (draw + batch["example_index"] % num_samples) % num_samples
      time, share = 1 - uniform, 1 / num_samples
      if estimator == "quadrature":
        time, share = nodes[stratum], shares[stratum]
      elif estimator != "monte_carlo":
        time = (stratum + time) / num_samples
      prepared, _ = objective.prepare(params, batch | {"time": time},
                                      rng.stream(key, "draw", draw), context)
      rows = objective(params, prepared, context)[1].rows
      new = {name: total[name] + share * rows[name] for name in names}
      new |= {"count": total["count"] + rows["count"] / num_samples}
      return new, num_samples * share * rows["nll"] if has_error else None

    zeros = jnp.zeros(len(batch["example_index"]), jnp.float32)
    found, draws = jax.lax.scan(one, dict.fromkeys((*names, "count"), zeros),
                                jnp.arange(num_samples))
    if has_error:
      spread = draws.std(axis=0, ddof=1) if num_samples > 1 else zeros + (0 if exact else jnp.inf)
      found["stderr"] = spread / math.sqrt(num_samples)
    return found

  return row_nll


def ratio(totals: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
  """sum(totals) / sum(counts) and its standard error over rows.

  The error is the linearised (delta-method) one of a ratio of means; infinite for a single row.
  """
  totals, counts = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
  value = totals.sum() / counts.sum()
  n = len(totals)
  if n < 2:
    return float(value), math.inf
  residual = totals - value * counts
  return float(value), float(math.sqrt(n / (n - 1) * (residual ** 2).sum()) / counts.sum())


def evaluate(row_nll: Callable, params: types.Params, batches: Iterable[Mapping[str, np.ndarray]],
             *, mesh: jax.sharding.Mesh, chars_per_token: np.ndarray | None,
             frozen: types.Params | None = None) -> dict[str, float]:
  """Scores a held-out set.

  Args:
    row_nll: the jitted function of `make_row_nll`.
    params: weights to score.
    batches: global host batches of equal shape; rows without tokens are padding.
    mesh: where the batches are placed; each process takes its rows.
    chars_per_token: characters per id, for bits per character; None leaves them
      out (objectives that are no likelihood).
    frozen: parameters of frozen models, by name.

  Returns:
    nats_per_token and perplexity, bits_per_char, each with `_stderr`, and
    num_tokens, num_chars, num_rows; accuracy, of predicting the next token, where rows have it.
  """
  scorer = lambda params, batch: row_nll(params, batch, frozen or {})
  results, batches = run_batches(scorer, params, batches, mesh=mesh)
  real = [batch["loss_mask"].any(axis=1) for batch in batches]
  if not any(is_real.any() for is_real in real):
    raise ValueError("the evaluation set is empty; check config.data and its held-out split.")
  real, chars = np.concatenate(real), None
  nll, count = (np.concatenate([x[name] for x in results])[real] for name in ("nll", "count"))
  if chars_per_token is not None:
    chars = np.concatenate([(chars_per_token[batch["tokens"]] * batch["loss_mask"]).sum(axis=1)
                            for batch in batches])[real]
  found = summarize(nll, count, chars)
  if "right" in results[0]:
    right = np.concatenate([x["right"] for x in results])[real]
    found["accuracy"], found["accuracy_stderr"] = ratio(right, count)
  return found


def run_batches(fn: Callable, params: types.Params, batches: Iterable[Mapping[str, np.ndarray]], *,
                mesh: jax.sharding.Mesh) -> tuple[list[Any], list[Mapping[str, np.ndarray]]]:
  """Runs a jitted function of parameters and rows over the batches of a held-out set.

  Args:
    fn: (params, batch) -> tree of arrays with leading axis B; the batch has `example_index`.
    params: weights.
    batches: global host batches of equal shape.
    mesh: where the batches are placed; each process takes its rows.

  Returns:
    Host results of each batch, all rows, and the batches.
  """
  results, seen, index = [], [], 0
  for batch in batches:
    num_rows = sharding.num_rows(batch)
    seen.append(batch)
    batch = dict(batch, example_index=np.arange(index, index + num_rows, dtype=np.int32))
    index += num_rows
    result = fn(params, sharding.place_batch(batch, mesh))
    results.append(processes.fetch(result) if jax.process_count() > 1 else result)
  # Fetched at the end, so that the device need not wait for the host.
  return jax.device_get(results), seen


def summarize(nll: np.ndarray, count: np.ndarray, chars: np.ndarray | None) -> dict[str, float]:
  """Turns rows into nats per token, perplexity and bits per character."""
  nats, nats_error = ratio(nll, count)
  result = {"nats_per_token": nats, "nats_per_token_stderr": nats_error,
            "perplexity": math.exp(min(nats, 700.0)),
            "perplexity_stderr": math.exp(min(nats, 700.0)) * nats_error,
            "num_tokens": float(count.sum()), "num_rows": float(len(nll))}
  if chars is not None and chars.sum() > 0:
    bits, bits_error = ratio(nll / math.log(2), chars)
    result |= {"bits_per_char": bits, "bits_per_char_stderr": bits_error,
               "num_chars": float(chars.sum())}
  return result


def check_pairs(pairs: Sequence[tuple[Any, Any]], length: int) -> None:
  """Raises ValueError for a pair that is too long, or an empty answer."""
  for i, (prompt, answer) in enumerate(pairs):
    if len(prompt) + len(answer) > length or not len(answer):
      raise ValueError(f"choice {i} has {len(prompt)} prompt and {len(answer)} answer tokens; "
                       f"expected an answer, and both within the row length {length}.")


def pair_rows(pairs: Sequence[tuple[Any, Any]], *, length: int, pad_id: int,
              num_rows: int) -> dict[str, np.ndarray]:
  """Makes rows of pairs, of which the answers count: arrays [num_rows, length].

  Raises:
    ValueError: a pair that is too long, or an empty answer.
  """
  check_pairs(pairs, length)
  tokens = np.full((num_rows, length), pad_id, np.int32)
  mask = np.zeros((num_rows, length), bool)
  segments = np.zeros((num_rows, length), np.int32)
  for i, (prompt, answer) in enumerate(pairs):
    start, end = len(prompt), len(prompt) + len(answer)
    tokens[i, :start], tokens[i, start:end] = prompt, answer
    mask[i, start:end], segments[i, :end] = True, 1
  return {"tokens": tokens, "loss_mask": mask, "segment_ids": segments,
          "example_index": np.zeros(num_rows, np.int32)}


def run_rows(fn: Callable, params: types.Params, rows: Mapping[str, np.ndarray],
             mesh: jax.sharding.Mesh | None) -> Any:
  """Runs a jitted function of parameters and rows; host arrays of all rows."""
  batch = sharding.place_batch(rows, mesh) if mesh else jax.tree.map(jnp.asarray, dict(rows))
  return processes.fetch(fn(params, batch))


def conditional_nll(row_nll: Callable, params: types.Params, pairs: Sequence[tuple[Any, Any]], *,
                    length: int, pad_id: int, index: Sequence[int] | np.ndarray | None = None,
                    batch_size: int = 0, mesh: jax.sharding.Mesh | None = None,
                    before: Sequence[int] | None = None) -> np.ndarray:
  """-log p(answer | prompt) of token sequences, for multiple choice.

  The prompt is never corrupted and not scored. The smallest value of a
  question's choices is the model's answer.

  Args:
    row_nll: the jitted function of `make_row_nll`.
    params: weights.
    pairs: (prompt ids, answer ids).
    length: row length; prompt and answer together must fit.
    pad_id: fills the rest.
    index: what the draws of each pair depend on; None = its place.
    batch_size: rows scored together; 0 = all.
    mesh: shards the rows, whose number a batch then must divide; None = this device.
    before: the token before each pair, for causal models; None: their start token.

  Returns:
    float32 [len(pairs)], nats.

  Raises:
    ValueError: a pair that is too long, or an empty answer.
  """
  if not pairs:
    return np.zeros(0, np.float32)
  batch_size = batch_size or len(pairs)
  num_rows = -(-len(pairs) // batch_size) * batch_size  # the last ones have no tokens
  rows = pair_rows(pairs, length=length, pad_id=pad_id, num_rows=num_rows)
  rows["example_index"][:len(pairs)] = np.arange(len(pairs)) if index is None else index
  if before is not None:
    rows["before"] = np.resize(np.asarray(before, np.int32), num_rows)
  found = [run_rows(row_nll, params, {k: v[first:first + batch_size] for k, v in rows.items()},
                    mesh)["nll"] for first in range(0, num_rows, batch_size)]
  return np.concatenate(found)[:len(pairs)]


def make_nll_and_error(objective: types.Objective, **options: Any) -> Callable:
  """Returns `make_row_nll` whose `nll` [B, 2] has the standard error in its second column."""
  row_nll = make_row_nll(objective, has_error=True, **options)

  def both(params, batch):
    found = row_nll(params, batch)
    return {"nll": jnp.stack([found["nll"], found["stderr"]], axis=1)}

  return both


def estimate_by_place(row_nll: Callable, params: types.Params, pairs: Sequence[tuple[Any, Any]],
                      before: np.ndarray | None, sizes: Sequence[int], *, max_length: int,
                      pad_id: int, batch_size: int, mesh: jax.sharding.Mesh,
                      said: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
  """log p(answer | prompt) and its standard error, float64 [N], with draws by number of the pair.

  Args:
    row_nll: the jitted function of `make_nll_and_error`.
    params: weights.
    pairs, before, pad_id, mesh: as of `conditional_nll`.
    sizes: tokens of each pair; pairs of about one length are scored together.
    max_length: of the model's rows.
    batch_size: rows scored together.
    said: is told how many are done.
  """
  order = np.argsort(sizes, kind="stable")
  found = np.zeros((len(pairs), 2), np.float64)
  num_rows = sharding.padded_rows(min(len(pairs), batch_size), batch_size, mesh)
  for first in range(0, len(pairs), num_rows):
    chosen = order[first:first + num_rows]
    longest = -(-sizes[chosen[-1]] // _ROUND) * _ROUND
    found[chosen] = conditional_nll(
        row_nll, params, [pairs[i] for i in chosen], index=chosen, length=min(longest, max_length),
        pad_id=pad_id, batch_size=num_rows, mesh=mesh,
        before=None if before is None else before[chosen])
    said(first + len(chosen))
  return -found[:, 0], found[:, 1]
