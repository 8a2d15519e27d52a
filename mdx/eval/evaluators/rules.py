"""Decoding rules side by side: quality of unconditional samples against network calls.

Contents: Rules.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdx import samplers
from mdx import sharding
from mdx import types
from mdx.data import sources
from mdx.eval import sequential
from mdx.samplers import loop
from mdx.utils import processes
from mdx.utils import rng

_BATCH = 512  # rows decoded together


class Rules(types.Evaluator):
  """Samples of each rule of `eval.rules`, scored by the model itself and by the data's law.

  A rule is named and has fields of `samplers`, one of them with several values. For every value
  the final results have, of `eval.num_rows` rows of data.length tokens:
    nfe_RULE_VALUE: network calls a row;
    nll_RULE_VALUE, and _stderr: nats per token of the samples under the model that fills one
      position a call (`eval.sequential`), exact: what decoding one by one would say of them;
    entropy_RULE_VALUE: nats of the frequencies of their tokens, which samples of little variety
      have few of;
    kl_RULE_VALUE: where the source knows its law, KL(samples || law) in nats, less that of as many
      exact samples, of the samples that the law allows; outside_RULE_VALUE is the share of others.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._config = parts, parts.config["eval"]
    self._nll = processes.Jitted(lambda params, rows: sequential.nll(
        parts.objective, params, rows["tokens"], parts.tokenizer.mask_id))

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for rules that do not fit the model."""
    for setting in _settings(config):
      samplers.build(setting.fields, objective, mask_id=0, eos_id=0)

  def __call__(self, params, frozen, *, quick):
    """Decodes and scores; nothing during training."""
    del frozen
    if quick:
      return {}
    parts, found = self._parts, {}
    law = sources.build(parts.config["data"]["source"]).law()
    floor = self._divergence(_exact(law, self._config["num_rows"]), law)[0] if law else 0.0
    for setting in _settings(parts.config):
      sampler = samplers.build(setting.fields, parts.objective, mask_id=parts.tokenizer.mask_id,
                               eos_id=parts.tokenizer.eos_id,
                               other_eos_ids=parts.tokenizer.other_eos_ids)
      tokens, nfe = self._decoded(sampler, params)
      nats = self._scored(params, tokens) / tokens.shape[1]
      counts = np.bincount(tokens.reshape(-1)) / tokens.size
      name = f"{setting.rule}_{setting.value}"
      found |= {f"nfe_{name}": float(nfe.mean()), f"nll_{name}": float(nats.mean()),
                f"nll_{name}_stderr": float(nats.std(ddof=1) / math.sqrt(len(nats))),
                f"entropy_{name}": -float(sum(p * math.log(p) for p in counts if p))}
      if law:
        kl, outside = self._divergence([parts.tokenizer.decode(row) for row in tokens], law)
        found |= {f"kl_{name}": kl - floor, f"outside_{name}": outside}
    return found

  def _decoded(self, sampler: Any, params: types.Params) -> tuple[np.ndarray, np.ndarray]:
    """Samples int32 [N, L], and the network calls of each."""
    parts = self._parts
    key = rng.stream(rng.root(parts.config["seed"]), "rules")
    shape = (0, parts.config["data"]["length"])
    decode = processes.Jitted(lambda params, rows: loop.decode_rows(
        parts.objective, sampler, params, key, rows, start=0, record="none"))

    def one(rows):
      canvas = jnp.full((len(rows), shape[1]), parts.tokenizer.mask_id, jnp.int32)
      decoded = decode(params, self._placed(canvas=canvas, row_index=rows))
      return processes.fetch((decoded.tokens, decoded.nfe))

    tokens, nfe = zip(*(one(rows) for rows in self._batches()))
    number = self._config["num_rows"]
    return np.concatenate(tokens)[:number], np.concatenate(nfe)[:number]

  def _scored(self, params: types.Params, tokens: np.ndarray) -> np.ndarray:
    """-log-likelihood of samples, float64 [N], in nats."""
    last = len(tokens) - 1
    found = [processes.fetch(self._nll(params, self._placed(tokens=tokens[np.minimum(rows, last)])))
             for rows in self._batches()]
    return np.concatenate(found)[:len(tokens)].astype(np.float64)

  def _batches(self) -> list[np.ndarray]:
    """Numbers of the rows of every batch, of one size."""
    number, mesh = self._config["num_rows"], self._parts.mesh
    size = sharding.padded_rows(min(number, _BATCH), _BATCH, mesh)
    return [np.arange(first, first + size, dtype=np.int32) for first in range(0, number, size)]

  def _placed(self, **rows: Any) -> dict[str, jax.Array]:
    return sharding.place_batch({k: np.asarray(v) for k, v in rows.items()}, self._parts.mesh)

  def _divergence(self, texts: Sequence[str], law: Mapping[str, float]) -> tuple[float, float]:
    """KL(texts || law) in nats of those that the law allows, and the share of the others."""
    counts = collections.Counter(text for text in texts if law.get(text, 0.0) > 0)
    total = sum(counts.values())
    terms = (n / total * math.log(n / total / law[text]) for text, n in counts.items())
    return (sum(terms) if total else math.inf), 1 - total / len(texts)

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    lines = [f"{'rule':<28}{'calls':>8}{'nats a token':>14}{'entropy':>9}{'KL':>9}"]
    for setting in _settings(self._parts.config):
      name = f"{setting.rule}_{setting.value}"
      if f"nll_{name}" not in results:
        return ""
      kl = f"{results[f'kl_{name}']:.4f}" if f"kl_{name}" in results else ""
      lines.append(f"{setting.rule + ', ' + setting.knob + ' ' + str(setting.value):<28}"
                   f"{results[f'nfe_{name}']:8.2f}{results[f'nll_{name}']:14.3f}"
                   f"{results[f'entropy_{name}']:9.3f}{kl:>9}")
    return "\n".join(lines)


def _settings(config: Mapping[str, Any]) -> list[samplers.Setting]:
  """The rules of a config at each of their values, for rows as long as those of the data."""
  length = config["data"]["length"]
  common = dict(gen_length=length, steps=length)
  return samplers.settings(config["eval"].get("rules", {}), common, where="config.eval.rules")


def _exact(law: Mapping[str, float], number: int) -> list[str]:
  """Texts drawn from a law."""
  texts, probs = zip(*law.items())
  return [texts[i] for i in np.random.default_rng(0).choice(len(texts), number, p=probs)]
