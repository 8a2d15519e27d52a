"""Classifiers of the attribute that a text will have, fitted to texts that a model draws.

Contents: fingerprint, check, fit.

A text is drawn after each of some prompts; its label is whether it has the attribute in the end,
and its examples are the pairs of a hidden state and the token that was drawn from it.

Reference: Yoshida et al. 2023, arXiv:2311.08817 (attribute-conditioned beam search).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util
from scipy import optimize

from mdx import config as config_lib
from mdx import types
from mdx.networks import heads
from mdx.objectives import reading
from mdx.samplers import ancestral
from mdx.samplers import attributes
from mdx.samplers import batching
from mdx.samplers import loop
from mdx.samplers import search
from mdx.utils import checksum
from mdx.utils import rng

_RANK, _STEPS, _DECAY = 8, 200, 1e-4


def fingerprint(model: Any) -> str:
  """Hash of the weights of a `build.load.Loaded`."""
  return config_lib.run_hash(checksum.of_items({"params": model.params}))


def check(path: str, model: Any) -> None:
  """Raises ValueError for a classifier that was fitted to another model."""
  classifier, facts = attributes.load(path)
  network = model.objective.network
  shape = classifier.down.shape[0], classifier.up.shape[1]
  if shape != (network.width, network.vocab_size) or facts.get("model") != fingerprint(model):
    raise ValueError(f"sampler.classifier {path} was fitted to another model than {model.source}; "
                     "leave it empty, and mode sample fits one to this.")


def fit(model: Any, sampler: search.ConditionalBeam, prompts: Sequence[np.ndarray], *,
        num_samples: int = 256, batch_size: int = 64, seed: int = 0
        ) -> tuple[attributes.Classifier, dict[str, Any]]:
  """Fits the classifier of a sampler's attribute; returns it and its facts.

  Args:
    model: `build.load.Loaded`, autoregressive.
    sampler: says the attribute and the length of texts.
    prompts: int32 [n] each, taken in turn.
    num_samples: texts drawn.
    batch_size: texts drawn together.
    seed: of the draws.

  Raises:
    ValueError: all texts have the attribute, or none has it.
  """
  attribute = sampler.wanted_attribute()
  rule = ancestral.LeftToRight(
      mask_id=sampler.mask_id, eos_id=sampler.eos_id, other_eos_ids=sampler.other_eos_ids,
      gen_length=sampler.gen_length, eos_stop="row" if sampler.eos_id >= 0 else "never")
  rows = [prompts[i % len(prompts)] for i in range(num_samples)]
  found = []
  for batch in batching.batches(rows, gen_length=sampler.gen_length, batch_size=batch_size,
                                mask_id=sampler.mask_id, pad_id=model.tokenizer.pad_id,
                                max_length=model.max_length):
    arrays = {"canvas": batch.canvas, "row_index": batch.row_index}
    if batch.positions is not None:
      arrays |= {"positions": batch.positions, "segment_ids": batch.segment_ids}
    with jax.set_mesh(model.mesh):
      hidden, tokens = _drawn(model.objective, rule, batch.start)(
          model.params, rng.root(seed), {k: jnp.asarray(v) for k, v in arrays.items()})
    keep = len(batch.members)
    found.append((np.asarray(hidden)[:keep], np.asarray(tokens)[:keep]))
  hidden, tokens = (np.concatenate(x) for x in zip(*found))
  label = attribute.holds(tokens)
  if label.all() or not label.any():
    share = "all have" if label.any() else "none has"
    raise ValueError(f"of {len(label)} texts of the model {share} the attribute "
                     f"{attribute.name}, so that a classifier has nothing to tell apart; use "
                     "mode_search or another attribute.")
  is_end = np.isin(tokens, attribute.end_ids)
  is_own = np.cumsum(is_end, axis=1) - is_end == 0
  classifier, loss = _fitted(
      jnp.asarray(hidden, jnp.float32), jnp.asarray(tokens), jnp.asarray(label),
      jnp.asarray(is_own), model.objective.network.vocab_size, seed)
  return jax.tree.map(np.asarray, classifier), {
      "model": fingerprint(model), "attribute": attribute.name, "length": attribute.length,
      "last_ids": np.array(attribute.last_ids, np.int64), "loss": float(loss),
      "share": float(label.mean())}


def _drawn(objective, rule, start):
  """(params, key, rows) -> hidden states [B, G, D] that tokens int32 [B, G] were drawn from."""

  @jax.jit
  def draw(params, key, rows):
    tokens = loop.decode_rows(objective, rule, params, key, rows, start=start,
                              record="none").tokens
    length = tokens.shape[1] - start
    targets = jnp.broadcast_to(jnp.arange(start, tokens.shape[1])[None], (len(tokens), length))
    answer = reading.answerer(objective, params)(types.Request(
        tokens, jnp.zeros(len(tokens)), rows.get("positions"), rows.get("segment_ids"), targets))
    return answer.hidden, tokens[:, start:]

  return draw


def _fitted(hidden, tokens, label, is_own, vocab_size, seed):
  """A classifier of least logistic loss with a penalty, by L-BFGS, and its loss in nats."""
  width = hidden.shape[-1]
  draw = lambda name, shape: jax.random.normal(rng.stream(rng.root(seed), name), shape)
  begin = attributes.Classifier(draw("down", (width, _RANK)) / width ** 0.5,
                                draw("up", (_RANK, vocab_size)) / _RANK ** 0.5,
                                jnp.zeros(vocab_size))
  flat, unflatten = flatten_util.ravel_pytree(begin)

  def loss_of(flat):
    logits = jnp.take_along_axis(unflatten(flat).logits(hidden), tokens[..., None], axis=-1)[..., 0]
    nats = heads.binary_cross_entropy(logits, jnp.broadcast_to(label[:, None], logits.shape))
    return jnp.where(is_own, nats, 0.0).sum() / is_own.sum() + _DECAY * (flat ** 2).sum()

  with_slope = jax.jit(jax.value_and_grad(loss_of))
  host = lambda x: [np.asarray(y, np.float64) for y in with_slope(jnp.asarray(x, jnp.float32))]
  found = optimize.minimize(host, np.asarray(flat, np.float64), jac=True, method="L-BFGS-B",
                            options={"maxiter": _STEPS})
  return unflatten(jnp.asarray(found.x, jnp.float32)), found.fun
