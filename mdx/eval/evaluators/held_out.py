"""Held-out loss: likelihoods and their bounds, or the nats of predicted tokens.

Contents: HeldOut, Elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from mdx import types
from mdx.data import pipeline
from mdx.eval import likelihood
from mdx.eval import ngram
from mdx.utils import processes


class HeldOut(types.Evaluator):
  """Nats per token of the validation split, and bits per character of a likelihood."""

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._parts, self._config = parts, parts.config["eval"]
    self._is_exact = likelihood.is_exact(parts.objective)
    self._is_likelihood = likelihood.is_likelihood(parts.objective)

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for an estimator that does not fit the objective."""
    likelihood.check_estimator(config["eval"]["estimator"], objective)

  @property
  def has_curve(self) -> bool:
    """Accuracies of the next token make a curve."""
    return self._is_exact

  @functools.cache
  def _row_nll(self, num_samples: int) -> Callable:
    return processes.Jitted(likelihood.make_row_nll(
        self._parts.objective, estimator=self._config["estimator"], num_samples=num_samples,
        seed=self._parts.config["seed"]))

  def __call__(self, params, frozen, *, quick):
    """Scores the first `eval.num_batches` batches, or the whole split."""
    found = self.scored(params, frozen, self._parts.config["data"], quick=quick)
    return found if quick else found | self.baselines()

  def scored(self, params: types.Params, frozen: types.Params, data: Mapping[str, Any], *,
             quick: bool) -> dict[str, float]:
    """Figures of the validation split of some data."""
    parts, limit = self._parts, self._config["num_batches"] if quick else 0
    batches = pipeline.build(data, parts.tokenizer, split="validation",
                             batch_size=parts.config["batch_size"], seed=0, shuffle=False,
                             repeat=False, drop_remainder=False)
    batches = (b for i, b in enumerate(batches) if not limit or i < limit)
    return likelihood.evaluate(
        self._row_nll(self._config["num_samples" if quick else "final_samples"]), params, batches,
        frozen=frozen, mesh=parts.mesh,
        chars_per_token=parts.tokenizer.chars_per_token if self._is_likelihood else None)

  @functools.cache
  def baselines(self) -> dict[str, float]:
    """Unigram and bigram bits per character, for objectives with a likelihood of text."""
    parts = self._parts
    if not (self._is_likelihood and self._config["baselines"]
            and parts.tokenizer.chars_per_token.any()):
      return {}
    pair = tuple(list(pipeline.texts(parts.config["data"], split, tokenizer=parts.tokenizer))
                 for split in ("train", "validation"))
    return {"unigram_bits_per_char": ngram.unigram_bits(*pair),
            "bigram_bits_per_char": ngram.bigram_bits(*pair)}

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    if "bits_per_char" not in results:
      return (f"held-out loss       {results['nats_per_token']:.3f} +- "
              f"{results['nats_per_token_stderr']:.3f} nats per predicted token")
    name = "likelihood" if self._is_exact else "bound"
    lines = [f"held-out {name:<11}{results['bits_per_char']:.3f} +- "
             f"{results['bits_per_char_stderr']:.3f} bits per character"]
    return "\n".join(lines + [
        f"{name:<20}{results[f'{name}_bits_per_char']:.3f}"
        for name in ("unigram", "bigram") if f"{name}_bits_per_char" in results])


class Elsewhere(types.Evaluator):
  """The held-out loss of other texts, to see what a model forgets while it learns new ones.

  `eval.elsewhere` is {name: fields of a source}; results are NAME_nats_per_token, with `_stderr`,
  and NAME_bits_per_char of a likelihood. Rows are otherwise those of `config.data`.
  """

  def __init__(self, parts: Any):
    """Compiles nothing yet; `parts` are those of a run."""
    self._texts = {name: {**parts.config["data"], "source": dict(fields)}
                   for name, fields in parts.config["eval"].get("elsewhere", {}).items()}
    self._held_out = HeldOut(parts)

  @classmethod
  def check(cls, config: Mapping[str, Any], objective: types.Objective) -> None:
    """Raises ValueError for no texts, or sources that cannot be."""
    HeldOut.check(config, objective)
    texts = config["eval"].get("elsewhere", {})
    if not isinstance(texts, Mapping) or not texts:
      raise ValueError("eval.evaluators elsewhere reads the sources of eval.elsewhere, which names "
                       "none; set eval.elsewhere = {name: fields of a source}.")
    for name, fields in texts.items():
      try:
        pipeline.read_config({**config["data"], "source": dict(fields)}).parts()
      except (ValueError, TypeError) as e:
        raise ValueError(f"eval.elsewhere.{name}: {e}") from None

  def __call__(self, params, frozen, *, quick):
    """Scores each text as the held-out part is scored."""
    found = {name: self._held_out.scored(params, frozen, data, quick=quick)
             for name, data in self._texts.items()}
    return {f"{name}_{figure}": value for name, figures in found.items()
            for figure, value in figures.items()
            if figure in ("nats_per_token", "nats_per_token_stderr", "bits_per_char")}

  def text(self, results: Mapping[str, Any]) -> str:
    """The final figures for the console."""
    return "\n".join(f"{name:<20}{results[f'{name}_nats_per_token']:.3f} nats a token"
                     for name in self._texts if f"{name}_nats_per_token" in results)
