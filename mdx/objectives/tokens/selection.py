"""Selection of the tokens that a token-level objective corrupts.

Contents: Selection, prepared, UNITS, RATE_SCHEDULES.

Convention: tokens are selected first (`mdx.corruption.mask`), then replaced
(`mdx.corruption.replace`). An objective first reads the corrupted rows, then scores the hidden
states; another may do so in its stead, and use them for more. Rates are shares of a row's units:
tokens, whole words or n-grams of a lexicon.

References: Devlin et al. 2019, arXiv:1810.04805 (and its whole-word masking); Liu et al. 2019,
arXiv:1907.11692 (dynamic masking); Joshi et al. 2020, arXiv:1907.10529 (SpanBERT); Ankner et al.
2024, arXiv:2305.15096 (rates that change over a run).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mdx import assets
from mdx import config as config_lib
from mdx import types
from mdx.corruption import lexicon as lexicon_lib
from mdx.corruption import mask as mask_lib
from mdx.corruption import unit as unit_lib
from mdx.networks import attention as attention_lib
from mdx.objectives import reading
from mdx.objectives import targets as targets_lib
from mdx.utils import readers
from mdx.utils import rng

UNITS = ("token", "whole_word", "ngram")
# Share of the way from the first to the last rate, at a share of the steps.
RATE_SCHEDULES = {"linear": lambda share: share,
                  "cosine": lambda share: 0.5 - 0.5 * jnp.cos(jnp.pi * share)}


def prepared(kind: str, path: str, *names: str) -> list[Any]:
  """Entries of a JSON file that `mdx.data.prepare` made; ValueError if it is none.

  Args:
    kind: field of the objective that names the file, and the command that makes it.
    path: of the file.
    *names: of the entries.
  """
  try:
    found = readers.read_json(path)
    return [found[name] for name in names]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(f"objective.{kind} {path}: cannot be read as {kind} ({error!r:.80}); make it "
                     f"with python -m mdx.data.prepare {kind}.") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection(types.Objective):
  """An objective that corrupts some units of every row, and reads rows with full attention.

  Attributes:
    network: the model.
    mask_id: id of [MASK].
    word_edges: `Tokenizer.word_edges`, for whole words.
    tokenizer_hash: `Tokenizer.fingerprint`, which that of the lexicon must be.
    lexicon: JSON file of n-grams, as `python -m mdx.data.prepare lexicon` makes it; "" = none.
    unit: selected as one: "token", "whole_word" or "ngram" (rows are cut into the fewest
      n-grams of the lexicon and single tokens).
    mask_rate: share of a row's units that is corrupted, in (0, 1]; of words too it is the
      expected share of tokens, for every word is equally likely.
    mask_draw: "bernoulli" (each unit by itself) or "exact_count" of units, at least one.
    span_max: longest span, in units; 1 selects no spans. Spans need "exact_count": lengths are
      drawn until they sum to the count, the last one is cut, and they are placed so that every
      unit is equally likely, see `mask.spans`. (SpanBERT redraws spans that overlap, and counts
      tokens.)
    span_rate: p of the geometric distribution of the lengths up to `span_max`.
    final_mask_rate: to which the rate of corruption goes over `anneal_steps`; 0: it is constant.
    rate_schedule: form of that change: "linear" or "cosine".
    anneal_steps: steps after which the rate is the final one, with which models are scored.
    num_masks: 0: masks are dynamic, drawn anew at every step. n: they are static; a row has n fixed
      ones, a function of its tokens alone, and each visit takes one of them at random. Rows come
      again if the packing makes the same ones every epoch ("pad", "crop").

  Raises:
    ValueError: a rate out of its range, an unknown choice, or choices that exclude each other.
  """
  network: types.Network
  mask_id: int
  word_edges: Any = dataclasses.field(default=None, repr=False, compare=False)
  tokenizer_hash: str = ""
  lexicon: str = ""
  unit: str = "token"
  mask_rate: float = 0.15
  mask_draw: str = "bernoulli"
  span_max: int = 1
  span_rate: float = 0.2
  final_mask_rate: float = 0.0
  rate_schedule: str = "linear"
  anneal_steps: int = 0
  num_masks: int = 0
  needs_lexicon: ClassVar[bool] = True
  num_copies: ClassVar[int] = 1  # readings of a row, with disjoint selections

  def __post_init__(self):
    config_lib.check(
        self, "objective", at_least=dict(span_max=1, num_masks=0, anneal_steps=0),
        between=dict(mask_rate="(0, 1]", final_mask_rate="[0, 1]", span_rate="(0, 1)"),
        choices=dict(mask_draw=("bernoulli", "exact_count"), unit=UNITS,
                     rate_schedule=RATE_SCHEDULES))
    if (self.anneal_steps > 0) != (self.final_mask_rate > 0):
      raise ValueError("objective.anneal_steps and final_mask_rate go together, both positive or "
                       f"both 0; got {self.anneal_steps} and {self.final_mask_rate}.")
    if self.unit == "whole_word" and self.word_edges is None:
      raise ValueError("objective.unit whole_word needs word_edges, those of the tokenizer.")
    if self.unit == "ngram" and not self.lexicon and self.needs_lexicon:
      raise ValueError("objective.unit ngram needs a lexicon, a file that python -m "
                       "mdx.data.prepare lexicon makes.")
    if self.unit != "ngram" and self.lexicon:
      raise ValueError(f"objective.lexicon is read with unit ngram alone, not {self.unit}; leave "
                       "one of them out.")
    if self.lexicon:
      self.grams  # pylint: disable=pointless-statement  (checks it)
    if self.span_max > 1 and self.mask_draw != "exact_count":
      raise ValueError(f"objective.span_max {self.span_max} draws spans of an exact number of "
                       f"units; set mask_draw to exact_count, not {self.mask_draw}.")

  @classmethod
  def build(cls, fields, world):
    """Builds it with the edges of words and the identity of the tokenizer."""
    tokenizer = world.tokenizer
    return config_lib.construct(
        cls, fields, what="objective", network=world.network, mask_id=tokenizer.mask_id,
        word_edges=tokenizer.word_edges, tokenizer_hash=tokenizer.fingerprint,
        to_ids=tokenizer.encode)

  def check_length(self, length: int) -> None:
    """Raises ValueError if no row of `length` tokens can have the longest span."""
    rate = min(self.mask_rate, self.final_mask_rate or 1.0)
    count = round(rate * length)
    if 1 < self.span_max and self.span_max > count:
      raise ValueError(f"objective.span_max {self.span_max} exceeds the {count} units that a rate "
                       f"of {rate} selects of a row of {length} tokens; lower it, or raise "
                       "mask_rate or data.length.")

  def rate(self, step: jax.Array) -> jax.Array | float:
    """Share of the units that is corrupted at a step."""
    if not self.anneal_steps:
      return self.mask_rate
    share = jnp.minimum(step / self.anneal_steps, 1.0)
    way = RATE_SCHEDULES[self.rate_schedule](share)
    return self.mask_rate + (self.final_mask_rate - self.mask_rate) * way

  def draws(self, batch, key):
    """Name of a use -> keys [B] of (step, example); of (tokens, one of n masks) if static."""
    index = batch["example_index"]
    if not self.num_masks:
      return lambda name: rng.per_example(rng.stream(key, name), index)
    visit = rng.per_example(rng.stream(key, "visit"), index)
    which = jax.vmap(lambda k: jax.random.randint(k, (), 0, self.num_masks))(visit)
    fixed, identity = rng.stream(rng.root(0), "static masks"), rng.content_index(batch["tokens"])
    return lambda name: jax.vmap(jax.random.fold_in)(
        rng.per_example(rng.stream(fixed, name), identity), which)

  def words(self, batch: types.Batch) -> jax.Array | None:
    """The units of the rows, int32 [B, L], or None: every token by itself."""
    if self.unit == "ngram":
      return lexicon_lib.units(batch, self.grams)[0]
    return unit_lib.words(batch, self.word_edges) if self.unit == "whole_word" else None

  @functools.cached_property
  def grams(self) -> lexicon_lib.Lexicon:
    """The n-grams of the lexicon, none without one."""
    num_ids = self.network.vocab_size
    if not self.lexicon:
      return lexicon_lib.Lexicon.of((), num_ids)
    path = assets.resolve(self.lexicon)
    identity, grams = prepared("lexicon", path, "tokenizer", "grams")
    if identity != self.tokenizer_hash:
      raise ValueError(f"objective.lexicon {path} has n-grams of another tokenizer ({identity}) "
                       f"than that of the run ({self.tokenizer_hash}); make one of its own.")
    return lexicon_lib.Lexicon.of(grams, num_ids)

  def select(self, keys, rate, batch, words, nth=0):
    """Corrupted positions, bool [B, L], and the units that were selected as one, or None."""
    allowed = mask_lib.allowed_positions(batch)
    if self.span_max == 1:
      return self.draw(keys, rate, allowed, words, nth), words
    selected, begins = mask_lib.spans(keys, _count(rate, allowed, words), allowed, words,
                                      mask_lib.geometric(self.span_rate, self.span_max))
    return selected, unit_lib.from_begins(begins | unit_lib.text_begins(batch))

  def draw(self, keys, rate, allowed, units, nth=0):
    """Selects units of `allowed` at a rate, by `mask_draw`."""
    if self.mask_draw == "bernoulli":
      return mask_lib.bernoulli(keys, rate, allowed, units, nth)
    return mask_lib.exact_count(keys, _count(rate, allowed, units), allowed, units, nth)

  def selected_rate(self, rate: jax.Array | float, batch: types.Batch) -> jax.Array | float:
    """Probability that a unit is selected at a rate: float32 [B] of exact counts; below 1."""
    if self.mask_draw == "bernoulli":
      return rate
    allowed, words = mask_lib.allowed_positions(batch), self.words(batch)
    total = jnp.maximum(mask_lib.heads(allowed, words).sum(axis=1), 1)
    return jnp.minimum(_count(rate, allowed, words), total - 0.5) / total

  def at_targets(self, network: types.Network, params: types.PyTree, hidden: jax.Array,
                 targets: Any, is_target: jax.Array, *, rate: float = 0.0, **options: Any) -> Any:
    """`targets.target_losses` with room for the selected positions, or a share `rate` of all."""
    length = hidden.shape[1]
    # The number of tokens of so many words varies more than that of so many tokens.
    spread = lambda rows, shards: 2 / math.sqrt(rows * length) * (self.unit != "token")
    return targets_lib.target_losses(
        network, params, hidden, targets, is_target, spread=spread,
        rate=rate or max(self.mask_rate, self.final_mask_rate),
        is_binomial=self.mask_draw == "bernoulli", **options)

  def encode(self, network: types.Network, params: types.PyTree, tokens: jax.Array,
             batch: types.Batch, **options: Any) -> jax.Array:
    """Hidden states [B, L, D] of rows whose tokens are `tokens`, read with full attention."""
    return reading.encode(network, params, batch, attention=self.visibility, tokens=tokens,
                          **options)

  def read(self, params: types.Params, batch: types.Batch, context: types.Context
           ) -> tuple[types.Batch, jax.Array]:
    """The batch, and the model's hidden states of the corrupted rows, [B, L, D]."""
    return batch, self.encode(self.network, params["model"], batch["noisy_tokens"], batch,
                              noise=context.noise)

  def score(self, params, batch, hidden, context):
    """Totals and Aux, from what `read` returns."""
    raise TypeError("a token-level objective defines score")

  def __call__(self, params, batch, context):
    """Totals and Aux of the rows given."""
    batch, hidden = self.read(params, batch, context)
    return self.score(params, batch, hidden, context)

  @property
  def visibility(self):
    """The attention value."""
    return attention_lib.Full()


def _count(rate, allowed, units):
  """The rounded share of each row's units, at least one: int32 [B]."""
  count = jnp.round(rate * mask_lib.heads(allowed, units).sum(axis=1)).astype(jnp.int32)
  return jnp.maximum(count, 1)
