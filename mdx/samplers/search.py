"""Search for likely texts of an autoregressive model: beams, and the exact mode.

Contents: Beam, ConditionalBeam, ModeSearch.

Convention: scores are log-probabilities of whole texts, nats, their end of text included; a text
without one ends with its last free position. Nothing is drawn.

The mode of a model of contaminated data is degenerate: an empty text of probability eps is the mode
as soon as eps exceeds (1 - eps) times the largest probability of a proper text, which falls
exponentially with the length. Searches among the texts that have an attribute do not have that
fault (Yoshida et al. 2023, arXiv:2311.08817).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.networks import heads
from mdx.samplers import ancestral
from mdx.samplers import attributes
from mdx.samplers import decoder

_NEVER = -1e29  # log-probability below that of any token of the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Search(ancestral.LeftToRight):
  """Base of the searches: what they refuse, and the log-probabilities of next tokens."""

  searches: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    for name, neutral in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0),
                          ("guidance_scale", 0.0)):
      if (value := getattr(self, name)) != neutral:
        raise ValueError(f"sampler.{name} {value} is of draws, and {type(self).__name__} searches "
                         f"for likely texts; leave it at {neutral}.")
    if self.eos in ("last", "ramp"):
      raise ValueError(f"sampler.eos {self.eos} is for rules that go by the confidence, not "
                       f"{type(self).__name__}; use allow or forbid.")

  @property
  def end_ids(self) -> tuple[int, ...]:
    """Ids that end a text."""
    return tuple(i for i in (self.eos_id, *self.other_eos_ids) if i >= 0)

  def wanted_attribute(self) -> attributes.Attribute:
    """The attribute that texts must have."""
    return attributes.Attribute(name="none", length=0, last_ids=(), end_ids=self.end_ids,
                                mask_id=self.mask_id)

  def next_log_probs(self, answer):
    """Log-probabilities of the next token, float32 [B, V]; the mask has none."""
    blocked = self.end_ids if self.eos == "forbid" else ()
    found = jax.nn.log_softmax(heads.block_columns(answer.logits[:, 0], self.mask_id, *blocked))
    return jnp.where(found < _NEVER, -jnp.inf, found)

  def children(self, state, position, vocab_size):
    """`attributes.Children` of prefixes that end before `position` int32 [B]."""
    free, canvas = state["free"], state["canvas"]
    at = jnp.arange(canvas.shape[1])[None]
    before = free & (at < position[:, None])
    last = jnp.where(before, at, -1).max(axis=1, keepdims=True)
    token = jnp.where(last < 0, -1, decoder.at(canvas, jnp.maximum(last, 0)))[:, 0]
    left = (free & (at > position[:, None])).sum(axis=1)
    return self.wanted_attribute().children(vocab_size, before.sum(axis=1), left, token)

  def filled(self, canvas):
    """Canvases whose masks are ends of text."""
    return canvas if not self.end_ids else jnp.where(canvas == self.mask_id, self.end_ids[0],
                                                     canvas)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam(_Search):
  """Keeps the `beams` most likely prefixes, and texts that have ended; the best of them is decoded.

  The rows of a canvas stand together, the most likely first. A cache goes with its rows. With as
  many beams as there are prefixes the list is exact.

  Attributes:
    beams: prefixes kept.
  """
  beams: int = 4

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", at_least={"beams": 1})

  @property
  def copies(self):
    """One row a beam."""
    return self.beams

  def extras(self, state, keys):
    """`score` of every row, the first alone being a prefix; `next`, the token chosen; `parent`."""
    del keys
    row = jnp.arange(len(state["canvas"]), dtype=jnp.int32)
    return {"score": jnp.where(row % self.beams == 0, 0.0, -jnp.inf),
            "next": jnp.full(len(row), self.mask_id, jnp.int32),
            "gain": jnp.zeros(len(row), jnp.float32), "parent": row}

  def log_attribute(self, hidden: jax.Array, children: attributes.Children) -> jax.Array:
    """Log-probability that the text will have the attribute, of every child, float32 [B, V]."""
    del hidden
    return jnp.where(children.is_possible, 0.0, -jnp.inf)

  def reordered(self, params, state, index, answer):
    """Chooses the next prefixes; moves the rows that they continue."""
    del params
    size, position = state["canvas"].shape[1], index[:, 0]
    is_open = position < size
    gain = self.next_log_probs(answer)
    vocab_size = gain.shape[1]
    score = state["score"][:, None]
    hidden = None if answer.hidden is None else answer.hidden[:, 0]
    order = score + gain + self.log_attribute(hidden, self.children(state, position, vocab_size))
    # A text that has ended goes on as it is, in the column of the mask.
    stays = jnp.where(jnp.arange(vocab_size)[None] == self.mask_id, score, -jnp.inf)
    order = jnp.where(is_open[:, None], order, stays)
    order = jnp.where(jnp.isnan(order), -jnp.inf, order)
    value, chosen = jax.lax.top_k(order.reshape(-1, self.beams * vocab_size), self.beams)
    first = jnp.arange(len(chosen), dtype=jnp.int32)[:, None] * self.beams
    parent = (first + chosen // vocab_size).reshape(-1).astype(jnp.int32)
    token = (chosen % vocab_size).reshape(-1).astype(jnp.int32)
    take = lambda tree: jax.tree.map(lambda x: x[parent], tree)
    added = jnp.where(is_open[parent], gain[parent, token], 0.0)
    is_none = value.reshape(-1) == -jnp.inf  # goes forward with the others, but is no text
    token = jnp.where(is_none & is_open[parent], self.end_ids[0] if self.end_ids else
                      (self.mask_id + 1) % vocab_size, token)
    new = take(state) | {"parent": parent, "gain": added, "next": token,
                         "score": jnp.where(is_none, -jnp.inf, state["score"][parent] + added)}
    return new, index[parent], answer._replace(
        logits=answer.logits[parent], hidden=take(answer.hidden))

  def propose(self, params, state, index, answer, keys):
    """The token chosen at the next position."""
    del params, keys
    current, positions = decoder.at(state["canvas"], index), decoder.at(state["positions"], index)
    is_open = (index < state["canvas"].shape[1]) & (state["next"] != self.mask_id)[:, None]
    gain = state["gain"][:, None]
    return decoder.Proposal(index, positions, is_open, current, state["next"][:, None],
                            jnp.exp(gain), jnp.exp(gain), answer.logits, log_prob=gain,
                            hidden=answer.hidden, drawn_from=answer.logits)

  def hypotheses(self, state):
    """The texts of the beams, the most likely first."""
    rows = state["canvas"].reshape(-1, self.beams, state["canvas"].shape[1])
    return decoder.Hypotheses(self.filled(rows), state["score"].reshape(-1, self.beams),
                              jnp.zeros(len(rows), bool))

  def _stop(self, state):
    canvas, free = state["canvas"], state["free"]
    ended = jnp.cumsum(free & self.ends(canvas), axis=1) > 0
    return jnp.where(free & ended & (canvas == self.mask_id), self.eos_id, canvas)

  def _enter_next_block(self, state):
    """The next block of any row of a canvas: texts that have ended go on with the others."""
    state = super()._enter_next_block(state)
    block = state["block"].reshape(-1, self.beams).min(axis=1)
    return state | {"block": jnp.repeat(block, self.beams)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionalBeam(Beam):
  """Beams ranked by log p(prefix) + log P(the text will have the attribute | prefix).

  Of a final text the second term is exact. Of others it is that of a classifier of hidden states,
  which was fitted to texts of the model; without one, 0 where the attribute can still be.

  Attributes:
    attribute: "none", "non_empty", "length" or "complete".
    attribute_length: tokens of "length".
    last_ids: ids that a text of "complete" may end with, before its end of text; () = any.
    classifier: file of a classifier; "" = none.
  """
  attribute: str = "none"
  attribute_length: int = 0
  last_ids: tuple[int, ...] = ()
  classifier: str = ""

  def __post_init__(self):
    super().__post_init__()
    attribute = self.wanted_attribute()
    if not self.classifier:
      return
    facts = self._read[1]
    asked = {"attribute": attribute.name, "length": attribute.length,
             "last_ids": list(attribute.last_ids)}
    if found := {k: facts.get(k) for k, v in asked.items() if facts.get(k) != v}:
      name = next(iter(found))
      raise ValueError(f"sampler.classifier {self.classifier} was fitted to {name} "
                       f"{found[name]!r}, not {asked[name]!r}; fit another.")

  @functools.cached_property
  def _read(self):
    return attributes.load(self.classifier)

  def wanted_attribute(self):
    """The attribute of the fields."""
    return attributes.Attribute(name=self.attribute, length=self.attribute_length,
                                last_ids=tuple(self.last_ids), end_ids=self.end_ids,
                                mask_id=self.mask_id)

  def log_attribute(self, hidden, children):
    """Exact of final texts, the classifier's of others."""
    exact = super().log_attribute(hidden, children)
    if not self.classifier:
      return exact
    guess = jax.nn.log_sigmoid(self._read[0].logits(hidden))
    # A head may have more columns than ids; they have no probability, whatever is guessed.
    guess = jnp.pad(guess, ((0, 0), (0, exact.shape[1] - guess.shape[1])))
    return jnp.where(children.is_final | ~children.is_possible, exact, guess)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModeSearch(_Search):
  """The most likely text that has an attribute, by depth-first search with pruning; exact.

  Children are visited from the most likely on; a prefix that is no likelier than the best text
  found so far is left, for longer texts are less likely. The result is exact where the search ends
  before its budget.

  Attributes:
    search_budget: most network calls of a row.
    branches: children kept of a prefix. Where more of them could be better than the text found,
      the result is not called exact.
    attribute, attribute_length, last_ids: as of `ConditionalBeam`.
  """
  search_budget: int = 1000
  branches: int = 64
  attribute: str = "none"
  attribute_length: int = 0
  last_ids: tuple[int, ...] = ()

  revises = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "sampler", at_least={"search_budget": 1, "branches": 1})
    self.wanted_attribute()
    if self.cache != "none":
      raise ValueError(f"sampler.cache {self.cache} is for rules that go forward, and mode_search "
                       "goes back; use none.")

  wanted_attribute = ConditionalBeam.wanted_attribute

  def max_steps(self, num_free):
    """The budget."""
    del num_free
    return self.search_budget

  def extras(self, state, keys):
    """The stack: scores and tokens of the children at every depth, and which is next."""
    del keys
    canvas = state["canvas"]
    shape = canvas.shape + (self.branches,)
    return {"depth": jnp.zeros(len(canvas), jnp.int32),
            "slots": jnp.argsort(~state["free"], axis=1).astype(jnp.int32),
            "prefix": jnp.zeros(len(canvas), jnp.float32),
            "child_score": jnp.full(shape, -jnp.inf), "child": jnp.zeros(shape, jnp.int32),
            "pointer": jnp.zeros(canvas.shape, jnp.int32),
            "best": canvas, "best_score": jnp.full(len(canvas), -jnp.inf),
            "has_more": jnp.zeros(canvas.shape, bool), "is_cut": jnp.zeros(len(canvas), bool)}

  def active(self, state):
    """Rows whose search goes on."""
    return (state["depth"] >= 0) & (state["nfe"] < self.search_budget) & state["free"].any(axis=1)

  def wanted(self, state):
    """The position after the prefix."""
    depth = jnp.maximum(state["depth"], 0)[:, None]
    return jnp.arange(state["canvas"].shape[1])[None] == decoder.at(state["slots"], depth)

  def update(self, params, state, index, answer, keys):
    """Expands a prefix, keeps the best final child, and goes to the next prefix worth a call."""
    del params, keys
    rows, position = jnp.arange(len(index)), index[:, 0]
    score = state["prefix"][:, None] + self.next_log_probs(answer)
    children = self.children(state, position, score.shape[1])
    final = jnp.where(children.is_final & children.is_possible, score, -jnp.inf)
    token, value = final.argmax(axis=1).astype(jnp.int32), final.max(axis=1)
    is_better = value > state["best_score"]
    text = self.filled(decoder.put(state["canvas"], index, jnp.ones_like(index, bool),
                                   token[:, None]))
    state = state | {"best": jnp.where(is_better[:, None], text, state["best"]),
                     "best_score": jnp.where(is_better, value, state["best_score"])}
    others = jnp.where(~children.is_final & children.is_possible, score, -jnp.inf)
    kept, chosen = jax.lax.top_k(others, min(self.branches, score.shape[1]))
    short = ((0, 0), (0, self.branches - kept.shape[1]))
    depth = state["depth"]
    state = state | {
        "child_score": state["child_score"].at[rows, depth].set(
            jnp.pad(kept, short, constant_values=-jnp.inf)),
        "child": state["child"].at[rows, depth].set(jnp.pad(chosen, short).astype(jnp.int32)),
        "pointer": state["pointer"].at[rows, depth].set(0),
        "has_more": state["has_more"].at[rows, depth].set(
            (others > -jnp.inf).sum(axis=1) > self.branches)}
    found = jax.vmap(self._next)(state) | {"nfe": state["nfe"] + 1, "step": state["step"] + 1}
    ends = (found["depth"] < 0) | (found["nfe"] >= self.search_budget)
    has_one = ends & (found["best_score"] > -jnp.inf)
    found["canvas"] = jnp.where(has_one[:, None], found["best"],
                                jnp.where(ends[:, None], self.filled(found["canvas"]),
                                          found["canvas"]))
    zeros = jnp.zeros(index.shape, jnp.float32)
    return found, decoder.Step(index, jnp.zeros_like(index, bool), token[:, None], zeros, zeros)

  def _next(self, row):
    """Goes back in one row to the deepest prefix with a child worth a call, and forward to it."""

    def is_done(carry):
      depth, pointer = carry[:2]
      at = jnp.minimum(pointer[jnp.maximum(depth, 0)], self.branches - 1)
      is_left = pointer[jnp.maximum(depth, 0)] < self.branches
      return (depth < 0) | (is_left & (row["child_score"][depth, at] > row["best_score"]))

    def back(carry):
      depth, pointer, canvas, is_cut = carry
      slot = row["slots"][jnp.maximum(depth - 1, 0)]
      # Children that were not kept are no likelier than the last one that was.
      is_cut |= row["has_more"][depth] & (row["child_score"][depth, -1] > row["best_score"])
      return depth - 1, pointer, canvas.at[slot].set(self.mask_id), is_cut

    depth, pointer, canvas, is_cut = jax.lax.while_loop(
        lambda carry: ~is_done(carry), back,
        (row["depth"], row["pointer"], row["canvas"], row["is_cut"]))
    at, number = jnp.maximum(depth, 0), pointer[jnp.maximum(depth, 0)]
    number = jnp.minimum(number, self.branches - 1)
    goes_on = depth >= 0
    canvas = jnp.where(goes_on, canvas.at[row["slots"][at]].set(row["child"][at, number]), canvas)
    return row | {"depth": jnp.where(goes_on, depth + 1, -1), "canvas": canvas, "is_cut": is_cut,
                  "prefix": jnp.where(goes_on, row["child_score"][at, number], row["prefix"]),
                  "pointer": jnp.where(goes_on, pointer.at[at].add(1), pointer)}

  def hypotheses(self, state):
    """The text found, its log-probability, and whether it is known to be the mode."""
    is_exact = (state["depth"] < 0) & ~state["is_cut"]
    return decoder.Hypotheses(self.filled(state["canvas"])[:, None], state["best_score"][:, None],
                              is_exact)
