"""The one sampling loop.

Contents: Decoded, decode, decode_rows.

Convention: the key of a draw depends on (seed, row, step, position) alone, so a row's
text is the same in any batch, in any row of it and behind any padding. Everything
happens in `lax.while_loop`s inside one jit, with no host round trip.

With a cache the rows of a batch go from block to block together, a row that is done
early waiting for the others; a block begins with one call that fills the cache, and its
other steps run a window of the row against it. The results of a row do not depend on
how long it waits. With an exact cache a row also runs the blocks in which it has nothing
to decode, for later blocks read them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Callable, Mapping, NamedTuple

import jax
import jax.numpy as jnp

from mdx import types
from mdx.objectives import reading
from mdx.samplers import decoder
from mdx.samplers import trajectory as trajectory_lib
from mdx.utils import rng

Ask = Callable[..., types.Answer]


class Decoded(NamedTuple):
  """A decoded batch.

  Attributes:
    tokens: int32 [B, S], the filled canvas.
    nfe: int32 [B], network calls that each row needed (two a step with guidance, or drafts).
    trajectory: the record, or None.
    hypotheses: texts that a search found, or None.
  """
  tokens: jax.Array
  nfe: jax.Array
  trajectory: trajectory_lib.Trajectory | None
  hypotheses: decoder.Hypotheses | None = None


def decode(answer: Ask, sampler: Any, canvas: jax.Array, *, key: jax.Array,
           row_index: jax.Array, params: types.Params = MappingProxyType({}),
           positions: jax.Array | None = None, segment_ids: jax.Array | None = None,
           start: int = 0, record: str = "none", num_predictions: int = 1,
           component_index: jax.Array | None = None, component: jax.Array | None = None,
           leader: jax.Array | None = None, shared_steps: jax.Array | None = None,
           is_shifted: bool = False, before: jax.Array | None = None,
           context: jax.Array | None = None, context_mask: jax.Array | None = None,
           watch: Callable | None = None) -> Decoded:
  """Fills the mask tokens of a batch of canvases.

  Args:
    answer: request -> Answer, as `objectives.reading.answerer` gives it.
    sampler: a `types.Sampler`, such as a `decoder.Decoder`.
    canvas: int32 [B, S]; the sampler's mask id marks what is to be filled.
    key: typed key of the run.
    row_index: int32 [B], the identity of each row.
    params: of the rule, as `sampler.parts` describes them.
    positions: int32 [B, S] or None (0 .. S - 1); those of left-padded rows count from
      the first token.
    segment_ids: int32 [B, S], 0 on padding, or None.
    start: an index at or before the first masked position of every row.
    record: one of `trajectory.RECORDS`.
    num_predictions: of every canvas, that record full keeps; they change no token.
    component_index: int32 [B]; rows with the same number draw the same pair of `sampler.mixture`;
      None: every row its own.
    component: int32 [B], the pair of `sampler.mixture` that each row follows; None: drawn.
    leader: int32 [B], identity of the row whose draws a row makes for its first `shared_steps`
      int32 [B] steps, so that rows of equal canvases and leaders go through the same canvases until
      then; None: every row its own.
    is_shifted: as `types.Reader.is_shifted`.
    before: as `types.Request.before`.
    context, context_mask: as of `types.Request`; the same in every step.
    watch: is told `canvas` and `nfe` on the host after every step, in no sure order.

  Raises:
    ValueError: a record that cannot be made.
  """
  if record not in trajectory_lib.RECORDS:
    raise ValueError(f"record is {record!r}; choose from {', '.join(trajectory_lib.RECORDS)}.")
  if record == "full" and sampler.cache != "none":
    raise ValueError("record full needs the logits of every masked position at every step, which "
                     f"cache {sampler.cache} leaves out; use cache none, or record canvas.")
  if num_predictions < 1 or num_predictions > 1 and record != "full":
    raise ValueError(f"num_predictions is {num_predictions} with record {record}; expected at "
                     "least 1, and more than 1 with record full only.")
  if record == "full" and sampler.searches:
    raise ValueError(f"record full is of draws at every position, and {type(sampler).__name__} "
                     "searches; use record canvas or commits.")
  if (copies := sampler.copies) > 1:
    canvas, row_index, positions, segment_ids, component_index, component, leader, shared_steps, (
        before), context, context_mask = jax.tree.map(
            lambda x: jnp.repeat(x, copies, axis=0),
            (canvas, row_index, positions, segment_ids, component_index, component, leader,
             shared_steps, before, context, context_mask))
  row_keys = rng.per_example(rng.stream(key, "sample"), row_index)
  first_keys = row_keys if leader is None else rng.per_example(rng.stream(key, "sample"), leader)
  index = jnp.arange(canvas.shape[1])[None]
  at_positions = jnp.broadcast_to(index if positions is None else positions, canvas.shape)
  component_keys = rng.per_example(rng.stream(key, "plan"),  # the name of the stream stays
                                   row_index if component_index is None else component_index)
  init_keys = jax.vmap(lambda row_key: rng.stream(row_key, "init"))(first_keys)
  state = sampler.init(canvas, at_positions, init_keys, component_keys, component)
  if segment_ids is not None:
    state = state | {"segment_ids": segment_ids}
  num_free = canvas.shape[1] - start
  run = _Run(answer=answer, sampler=sampler, params=params, keys=row_keys, first_keys=first_keys,
             shared_steps=None if leader is None else shared_steps, positions=positions,
             segment_ids=segment_ids, start=start, num_free=num_free, is_shifted=is_shifted,
             before=before, context=context, context_mask=context_mask, watch=watch,
             width=num_free if record == "full" else sampler.width(num_free),
             looks_everywhere=record == "full", recorder=None if record == "none" else
             trajectory_lib.Recorder(level=record, start=start, mask_id=sampler.mask_id,
                                     max_steps=sampler.max_steps(num_free), acts=sampler.acts,
                                     num_predictions=num_predictions))
  carry = (state, None if run.recorder is None else run.recorder.init(canvas))
  state, recorded = run.without_cache(carry) if sampler.cache == "none" else run.by_blocks(carry)
  if recorded is not None:
    recorded = recorded._replace(tokens=state["canvas"][:, start:], nfe=state["nfe"],
                                 block=state["block_of"][:, start:],
                                 row_draws=sampler.row_draws(state) if sampler.acts else None)
  calls = state["nfe"] * (2 if decoder.is_set(sampler.guidance_scale) or sampler.drafts else 1)
  first = jax.tree.map(lambda x: x[::copies], (sampler.finalize(state), calls, recorded))
  return Decoded(*first, sampler.hypotheses(state))


def decode_rows(objective: types.Objective, sampler: Any, params: types.Params, key: jax.Array,
                rows: Mapping[str, jax.Array], *, start: int, record: str, group_size: int = 1,
                num_predictions: int = 1, watch: Callable | None = None) -> Decoded:
  """Decodes rows by a model, for a compiled program; see `decode`.

  Args:
    objective: of the model's training.
    sampler: the rule; its parts are read from `params`.
    params: of the model.
    key: typed key of the run.
    rows: `canvas`, `row_index`, `positions` and `segment_ids` where rows are padded, `before`
      where a token is said to come before them, `context` and `context_mask` of models that read
      one, `component` where it is not drawn, and `leader` and `shared_steps` where rows begin
      alike.
    start, record, num_predictions, watch: as in `decode`.
    group_size: consecutive rows that draw the same pair of `sampler.mixture`.
  """
  return decode(reading.answerer(objective, params), sampler, rows["canvas"],
                params={name: params[name] for name in sampler.parts()}, key=key,
                row_index=rows["row_index"], positions=rows.get("positions"),
                segment_ids=rows.get("segment_ids"), start=start, record=record,
                num_predictions=num_predictions, watch=watch,
                component_index=rows.get("leader", rows["row_index"]) // group_size,
                component=rows.get("component"), leader=rows.get("leader"),
                shared_steps=rows.get("shared_steps"),
                before=rows.get("before"), context=rows.get("context"),
                context_mask=rows.get("context_mask"), is_shifted=objective.reader().is_shifted)


def _indices(size: int, *chosen: jax.Array) -> jax.Array:
  """Indices of up to `size` positions of each row, int32 [B, size], ascending; S beyond them.

  Positions of an earlier set `chosen` [B, S] come before those of a later one.
  """
  length = chosen[0].shape[1]
  nowhere = len(chosen) * length
  rank = jnp.full(chosen[0].shape, nowhere)
  for i, among in reversed(list(enumerate(chosen))):
    rank = jnp.where(among, i * length + jnp.arange(length)[None], rank)
  rank = jnp.sort(rank, axis=1)[:, :size]
  if len(chosen) == 1:
    return rank
  return jnp.sort(jnp.where(rank == nowhere, length, rank % length), axis=1)


class _Run(NamedTuple):
  """Values that do not change during a decode."""
  answer: Ask
  sampler: Any
  params: types.Params
  keys: jax.Array
  first_keys: jax.Array
  shared_steps: jax.Array | None
  positions: jax.Array | None
  segment_ids: jax.Array | None
  start: int
  num_free: int
  is_shifted: bool
  width: int
  before: jax.Array | None
  context: jax.Array | None
  context_mask: jax.Array | None
  watch: Callable | None
  looks_everywhere: bool
  recorder: trajectory_lib.Recorder | None

  def without_cache(self, carry):
    """Reads the whole rows at every step; every row goes at its own pace."""

    def body(carry):
      index = self._index(carry[0])
      return self._step(carry, index, self._ask(carry[0], index),
                        self.sampler.active(carry[0]))[0]

    return jax.lax.while_loop(lambda carry: jnp.any(self.sampler.active(carry[0])), body, carry)

  def by_blocks(self, carry):
    """Fills the cache by a call at the start of each block, then runs windows of the rows."""
    exact = self.sampler.cache == "block"

    def block(carry):
      pair, cache, current = carry
      state = pair[0]
      active, index = state["block"] == current, self._index(state)
      slots = self._window(state, self.sampler.active(state), 2 * self.sampler.block, current - 1,
                           current) if exact else None
      answer = self._ask(state, index, cache, slots)
      carry = *self._step(pair, index, answer, active), state["canvas"]
      sizes = self._sizes()
      runs = [lambda carry, size=size: self._rest_of_block(carry, current, size) for size in sizes]
      near = self._near(state, current, current)
      needed = jnp.max(jnp.where(active, near.sum(axis=1), 0))
      pair, cache, _ = jax.lax.switch(jnp.searchsorted(jnp.asarray(sizes), needed), runs, carry)
      return (pair, cache, current + 1) if exact else (pair, (), jnp.min(pair[0]["block"]))

    carry = carry, self._prefill(carry[0]) if exact else (), jnp.int32(0)
    return jax.lax.while_loop(lambda c: jnp.any(self.sampler.active(c[0][0])), block, carry)[0]

  def _rest_of_block(self, carry, current, size):
    """Steps of a block after its first, on a window of `size` positions."""

    def body(carry):
      pair, cache, cached = carry
      state = pair[0]
      active, index = state["block"] == current, self._index(state)
      slots = self._window(state, active, size, current, current, state["canvas"] != cached)
      answer = self._ask(state, index, cache, slots)
      cached = decoder.put(cached, slots, slots < cached.shape[1],
                           decoder.at(state["canvas"], slots))
      return *self._step(pair, index, answer, active), cached

    return jax.lax.while_loop(lambda c: jnp.any(c[0][0]["block"] == current), body, carry)

  def _step(self, carry, index, answer, active):
    """Updates the active rows, and the record; returns them, and the cache of the rows."""
    state, recorded = carry
    keys = jax.vmap(jax.random.fold_in)(self.keys, state["nfe"])
    if self.shared_steps is not None:
      first = jax.vmap(jax.random.fold_in)(self.first_keys, state["nfe"])
      keys = jnp.where(state["nfe"] < self.shared_steps, first, keys)
    new, step = self.sampler.update(self.params, state, index, answer, keys)
    before, cache = state, answer.cache
    if self.sampler.copies > 1:
      parent = jnp.where(active, new["parent"], jnp.arange(len(active)))
      before, recorded = jax.tree.map(lambda x: x[parent], (state, recorded))
      # [layers, B, S, K, H], or without layers where every block has a cache of its own.
      cache = jax.tree.map(lambda x: jnp.take(x, parent, axis=x.ndim - 4), cache)
    keep = lambda old, new: jnp.where(active.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    new = jax.tree.map(keep, state, new)
    if recorded is not None:
      time = self.sampler.noise_level(before)
      recorded = self.recorder.add(recorded, before, new, step, active, keys, time)
    if self.watch is not None:
      copies = self.sampler.copies
      jax.debug.callback(self.watch, new["canvas"][::copies], new["nfe"][::copies])
    return (new, recorded), cache

  def _index(self, state):
    """Positions whose logits are wanted, int32 [B, W]."""
    wanted = self.sampler.wanted(state)
    if self.looks_everywhere:
      wanted |= state["free"] & (state["canvas"] == self.sampler.mask_id)
    return _indices(self.width, wanted)

  def _ask(self, state, index, cache=None, slots=None):
    """The model's answer at `index` [B, W], with guidance if there is any."""
    sampler, canvas = self.sampler, state["canvas"]
    targets = index if slots is None else jax.vmap(jnp.searchsorted)(slots, index)
    rows = dict(tokens=canvas, noise_level=sampler.noise_level(state), positions=self.positions,
                segment_ids=self.segment_ids, targets=targets, slots=slots, before=self.before,
                context=self.context, context_mask=self.context_mask)
    is_guided = decoder.is_set(sampler.guidance_scale)
    if is_guided:  # a second batch of rows, without what was given
      blank = jnp.where(state["free"], canvas, sampler.mask_id)
      rows = {k: None if v is None else jnp.concatenate([v, blank if k == "tokens" else v])
              for k, v in rows.items()}
    num_targets = jnp.max((index < canvas.shape[1]).sum(axis=1))
    answer = self.answer(types.Request(num_targets=num_targets, cache=cache, **rows))
    if is_guided:
      given, free = jnp.split(answer.logits, 2)
      answer = answer._replace(
          logits=free + (1 + sampler.guidance_scale) * (given - free),
          hidden=None if answer.hidden is None else answer.hidden[:len(canvas)],
          states=None if answer.states is None else answer.states[:len(canvas)])
    if sampler.drafts:
      drafted = sampler.draft(state, index, answer)
      clean = decoder.put(canvas, index, index < canvas.shape[1], drafted)
      answer = self.answer(types.Request(num_targets=num_targets, **rows), clean)
      answer = answer._replace(drafted=drafted)
    return answer

  def _prefill(self, state):
    """Keys and values of the prompts, for an exact cache; of whole rows if they are infilled."""
    index = self._index(state)
    cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                         jax.eval_shape(lambda: self._ask(state, index, ()).cache))
    end = self.start or state["canvas"].shape[1]
    slots = jnp.broadcast_to(jnp.arange(end)[None], (len(index), end))
    return self._ask(state, jnp.zeros((len(index), 1), jnp.int32), cache, slots).cache

  def _window(self, state, rows, size, since, current, stale=None):
    """Indices to run against the cache, int32 [B, size]; none but in some `rows` [B].

    The order is: positions whose logits are wanted, `_near` ones, then `stale` ones (changed
    since they were run).
    """
    size, length = min(size, state["canvas"].shape[1]), state["canvas"].shape[1]
    wanted = self.sampler.wanted(state) & (state["block"] == current)[:, None]
    chosen = [self._with_previous(wanted), self._near(state, since, current)]
    if self.sampler.revises and self.sampler.cache != "block":
      chosen.append(stale)
    return jnp.where(rows[:, None], _indices(size, *chosen), length)

  def _near(self, state, since, current):
    """Positions of the blocks from `since` on, or all that follow for a prefix cache, [B, S]."""
    block_of = state["block_of"]
    if self.sampler.cache == "prefix":
      near = self._tail(state, current)
    else:
      near = (block_of >= since) & (block_of <= current)
      if self.sampler.cache == "dual":
        near &= state["free"]
      elif self.segment_ids is not None:  # padding has the first position
        near &= self.segment_ids != 0
    return self._with_previous(near)

  def _with_previous(self, chosen):
    """Some positions [B, S], and the positions whose states a shifted model predicts them from."""
    if not self.is_shifted:
      return chosen
    before, _ = reading.previous_positions(self.segment_ids, chosen.shape)
    return chosen | jax.vmap(lambda own, at: jnp.zeros_like(own).at[at].max(own))(chosen, before)

  def _tail(self, state, current):
    """Positions from the first of the active block on, bool [B, S]."""
    return jnp.cumsum(state["free"] & (state["block_of"] == current), axis=1) > 0

  def _sizes(self) -> list[int]:
    """Window sizes to compile, ascending."""
    sampler, num_free = self.sampler, self.num_free
    more = sampler.block if sampler.revises and sampler.cache != "block" else 0
    whole = [-(-num_free * quarter // 4) for quarter in range(1, 5)] if (
        sampler.cache == "prefix") else [sampler.block]
    if not self.is_shifted:
      return sorted({size + more for size in whole})
    # One position before each run of masks: mostly there is one, but each may be a run.
    if more:  # and which are run changes from step to step
      return [2 * (whole[-1] + more)]
    return sorted({size + 1 for size in whole} | {2 * whole[-1]})
