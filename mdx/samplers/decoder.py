"""Base of the decoding rules: fields, proposals, writing, stopping.

Contents: Decoder (the base of every sampler), Proposal, Commit, Step, Hypotheses, END, LAST, put,
at, best_of, ranks, is_set, told_values, as_told.

Convention: a row's masked positions at the start are *free*; all others (prompt,
padding, what a user fixed) never change. The free positions of a row are cut, in
order, into blocks of `block_length`, decoded one after another. A step looks
at W positions of each row, `index` [B, W] (S where there are fewer), proposes a
token and a confidence for each, lets the rule choose which to write, and then
which written ones to mask again.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Mapping, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdx import config as config_lib
from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.networks import heads
from mdx.samplers import logits as logits_lib
from mdx.utils import rng

END = 2 ** 30  # block of a row that is finished
LAST = 1e4  # taken from a confidence, puts a token behind all others
CACHES = ("none", "prefix", "dual", "block")
EOS_RULES = ("allow", "forbid", "last", "ramp")
RAMP_START = 0.4  # factor of the confidence of an EOS at the first step of eos="ramp"
EOS_STOPS = ("never", "block", "row")
State = dict[str, jax.Array]


class Proposal(NamedTuple):
  """Tokens that a step may write, at W indices into each row.

  Attributes:
    index: int32 [B, W], indices into a row, ascending; S where there is none.
    positions: int32 [B, W], positions at these indices.
    is_open: bool [B, W], masked, and in the blocks being decoded.
    current: int32 [B, W], tokens of the canvas.
    tokens: int32 [B, W], tokens drawn.
    confidence: float32 [B, W], less LAST for an EOS that is to come last.
    probability: float32 [B, W], of `tokens`, untempered.
    logits: float32 [B, W, V].
    certainty: float32 [B, W], the confidence without LAST, for the record; None: `confidence`.
    log_prob: float32 [B, W], of `tokens` under the distribution they were drawn from, for the
      record; None: 0.
    hidden: [B, W, D], hidden states.
    drawn_from: float32 [B, W, V], logits that `tokens` were drawn from, for the record.
  """
  index: jax.Array
  positions: jax.Array
  is_open: jax.Array
  current: jax.Array
  tokens: jax.Array
  confidence: jax.Array
  probability: jax.Array
  logits: jax.Array
  certainty: jax.Array | None = None
  log_prob: jax.Array | None = None
  hidden: jax.Array | None = None
  drawn_from: jax.Array | None = None


class Commit(NamedTuple):
  """A rule's choice among proposed tokens.

  Attributes:
    is_written: bool [B, W], tokens to write.
    changes: new values of fields of the state that are the rule's own.
    action: int32 [B, W], what a learned rule drew at each index, of a rule that `acts`.
    action_log_prob: float32 [B, W], its log-probability; 0 where nothing was to be drawn.
  """
  is_written: jax.Array
  changes: State = {}
  action: jax.Array | None = None
  action_log_prob: jax.Array | None = None


class Step(NamedTuple):
  """One step for a recorder: [B, W] each, as in Proposal and Commit."""
  index: jax.Array
  is_written: jax.Array  # and not masked again at once
  tokens: jax.Array
  confidence: jax.Array
  log_prob: jax.Array  # of `tokens` under the distribution they were drawn from
  action: jax.Array | None = None
  action_log_prob: jax.Array | None = None
  drawn_from: jax.Array | None = None


class Hypotheses(NamedTuple):
  """Texts that a search found for each canvas, the most likely first.

  Attributes:
    tokens: int32 [B, K, S].
    log_prob: float32 [B, K], nats; -inf where there is no text.
    is_exact: bool [B], whether the first is known to be the most likely.
  """
  tokens: jax.Array
  log_prob: jax.Array
  is_exact: jax.Array


def put(row: jax.Array, index: jax.Array, where: jax.Array, values: jax.Array) -> jax.Array:
  """Writes values [B, W, ...] at positions `index` of row [B, S, ...] where `where` holds."""
  target = jnp.where(where, index, row.shape[1])
  return row.at[jnp.arange(len(row))[:, None], target].set(values, mode="drop")


def at(row: jax.Array, index: jax.Array) -> jax.Array:
  """Values [B, W] of row [B, S] at positions [B, W]; position S repeats the last."""
  return jnp.take_along_axis(row, index, axis=1, mode="clip")


def best_of(score: jax.Array, among: jax.Array, count: jax.Array) -> jax.Array:
  """The `count` [B] largest scores of each row among some; ties go to the first position."""
  return (ranks(score, among) < count[:, None]) & among


def ranks(score: jax.Array, among: jax.Array) -> jax.Array:
  """Rank of each score [B, W] among some, 0 the largest; all others come behind, NaN or not."""
  return jnp.argsort(jnp.lexsort((-score, ~among), axis=1), axis=1)


def is_set(value: Any) -> bool:
  """Returns whether a field is not 0; one that a compiled program is told is not."""
  return isinstance(value, jax.Array) or bool(value)


def told_values(sampler: types.Sampler) -> dict[str, np.float32]:
  """Returns the values of a rule that a compiled program may be told, by the fields' names."""
  fields = vars(sampler)
  return {name: np.float32(fields[name]) for name, neutral in sampler.told.items()
          if fields[name] != neutral}


def as_told(sampler: types.Sampler, values: Mapping[str, Any]) -> types.Sampler:
  """Returns the rule with other values, such as traced ones, in fields of `told`; not checked."""
  changed = copy.copy(sampler)
  for name, value in values.items():
    object.__setattr__(changed, name, value)
  return changed


def _stream(keys, name):
  """Keys [B] of one use, from the keys of a step."""
  return jax.vmap(lambda key: rng.stream(key, name))(keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
  """Base of the decoding rules, with the fields that each of them reads.

  Attributes:
    mask_id: id of the mask token; it is never drawn.
    eos_id: id that ends a text.
    other_eos_ids: further ids that end one.
    noise: dict(name=...), the noise schedule that the model was trained with.
    gen_length: number of tokens to decode.
    steps: denoising steps over all blocks; rules that choose their own number
      (threshold, factor, entropy_bounded, klass, hierarchical, ...) ignore it.
    block_length: tokens of a block, 0 = one block.
    mixture: pairs (block_length, steps); if there are any, each row draws one of them, in place
      of the two fields above (He et al. 2025, arXiv:2508.13148).
    temperature: of the token draw; 0 is greedy.
    top_k: tokens a draw chooses from, 0 = all.
    top_p: probability, at this temperature, of the set that a draw chooses from, 1 = all.
    guidance_scale: w of classifier-free guidance, u + (1 + w)(c - u), where u are the
      logits without the prompt; 0 = off (Nie et al. 2024, arXiv:2410.18514).
    confidence: "probability", "margin", "entropy" or "random".
    confidence_filtered: take it from the tempered and filtered distribution that tokens are drawn
      from, instead of the model's own.
    cache: "none"; "prefix" or "dual": keys and values outside the active block (and what
      follows it) are those of the block's first step, an approximation for models that
      see both ways (Wu et al. 2025, arXiv:2505.22618); "block": exact, for block-causal
      and causal models.
    eos: "allow"; "forbid": probability 0; "last": rules that go by the confidence commit it only
      where nothing else is left; or "ramp": its confidence is multiplied by a factor that rises
      from 0.4 at the first step of a block to 1 at the last (Yang et al. 2025, arXiv:2509.23924),
      of rules that count steps and a confidence that is never negative.
    eos_stop: "never"; after an EOS with nothing masked before it, fill with EOS and end
      the "block" or the "row".
  """
  mask_id: int
  eos_id: int = -1
  other_eos_ids: tuple[int, ...] = dataclasses.field(default=(), repr=False)
  noise: Any = dataclasses.field(default_factory=lambda: {"name": "linear"})
  gen_length: int = 64
  steps: int = 64
  block_length: int = 0
  mixture: tuple[tuple[int, int], ...] = ()
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  guidance_scale: float = 0.0
  confidence: str = "probability"
  confidence_filtered: bool = False
  cache: str = "none"
  eos: str = "allow"
  eos_stop: str = "never"

  told = {"temperature": 0.0, "top_p": 1.0, "guidance_scale": 0.0}
  counts_steps = True  # whether `steps` is what the rule takes
  mixes = True  # whether rows may differ in blocks and steps
  revises = False  # whether written tokens may be masked again or replaced
  acts = False  # whether commits have actions, drawn from a distribution of the rule's own
  drafts = False  # whether a step verifies proposals by a second call
  searches = False  # whether it looks for likely texts of an autoregressive model, without draws
  copies = 1  # rows of each canvas, which stand together and may continue one another
  policy = ""  # run that trained the rule's parameters; "" = the model's own

  def __post_init__(self):
    config_lib.check(
        self, "sampler",
        choices={"confidence": logits_lib.CONFIDENCES, "cache": CACHES, "eos": EOS_RULES,
                 "eos_stop": EOS_STOPS},
        at_least={"gen_length": 1, "steps": 1, "temperature": 0, "block_length": 0, "top_k": 0,
                  "guidance_scale": 0},
        between={"top_p": "(0, 1]"})
    object.__setattr__(self, "mixture", tuple(self._pair(pair) for pair in self.mixture))
    if self.mixture and (self.cache == "block" or not self.mixes):
      raise ValueError("sampler.mixture needs a rule that counts tokens, and blocks that are not "
                       f"the model's, not {type(self).__name__} with cache {self.cache}; leave it "
                       "out.")
    for block_length, steps in self.components:
      if self.gen_length % block_length:
        raise ValueError(f"sampler.block_length {block_length} does not divide gen_length "
                         f"{self.gen_length}; use a divisor.")
      blocks = self.gen_length // block_length
      if self.counts_steps and steps % blocks:
        raise ValueError(f"sampler.steps {steps} is not divisible by the {blocks} blocks of "
                         f"{block_length} tokens; use a multiple of {blocks}.")
    if (self.eos != "allow" or self.eos_stop != "never") and self.eos_id < 0:
      raise ValueError("sampler.eos and eos_stop need a tokenizer with an end-of-text id.")
    if self.eos == "ramp" and (not self.counts_steps or self.confidence == "entropy"):
      raise ValueError("sampler.eos ramp needs a rule that counts steps and another confidence "
                       f"than entropy, got {type(self).__name__} and {self.confidence}; use last.")
    self.alpha  # pylint: disable=pointless-statement  (checks the schedule)

  def check_reader(self, reader: types.Reader) -> None:
    """Raises ValueError for a model that lacks what a learned rule needs."""
    del reader

  def parts(self) -> Mapping[str, types.Part]:
    """Returns the parameters of a learned rule, by name; of this one none."""
    return {}

  @property
  def deployed(self) -> Any:
    """The rule as it decodes after its training."""
    return self

  def under(self, trained: Decoder, source: str) -> Any:
    """This rule with parameters that were trained; as of `types.Sampler`."""
    del trained, source
    return self

  @property
  def alpha(self):
    """The noise schedule."""
    return config_lib.build(schedule_lib.SCHEDULES, self.noise, what="schedule")

  @staticmethod
  def _pair(pair):
    is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
    if not is_pair or not all(isinstance(n, int) and 1 <= n < 2 ** 31 for n in pair):
      raise ValueError("sampler.mixture has pairs (block_length, steps) of positive integers, got "
                       f"{pair!r}.")
    return tuple(pair)

  @property
  def follows_model(self) -> bool:
    """Whether blocks are those of the model, by position, and not of the free positions alone."""
    return self.cache == "block" or self.drafts

  @property
  def components(self) -> tuple[tuple[int, int], ...]:
    """(block_length, steps) of each component of the mixture; one if there is no mixture."""
    return self.mixture or ((self.block_length or self.gen_length, self.steps),)

  @property
  def block(self) -> int:
    """Tokens of the largest block."""
    return max(block_length for block_length, _ in self.components)

  def block_steps_of(self, component: tuple[int, int]) -> int:
    """Denoising steps of a block of a component."""
    return max(1, component[1] * component[0] // self.gen_length)

  @property
  def block_steps(self) -> int:
    """Most denoising steps of a block."""
    return max(map(self.block_steps_of, self.components))

  def width(self, num_free: int) -> int:
    """Most positions of a row that a step looks at (W), of `num_free` free ones."""
    return min(self.block, num_free)

  def max_steps(self, num_free: int) -> int:
    """Upper bound of the network calls of a row."""
    if not self.counts_steps:
      return num_free
    return max(
        (-(-num_free // component[0]) + (self.cache == "block")) * self.block_steps_of(component)
        for component in self.components)

  def init(self, canvas: jax.Array, positions: jax.Array, keys: jax.Array,
           component_keys: jax.Array | None = None,
           component: jax.Array | None = None) -> State:
    """State of a batch.

    Args:
      canvas: int32 [B, S].
      positions: int32 [B, S].
      keys: typed PRNG keys [B] of the rows.
      component_keys: of the draw of components; rows with one key draw the same one;
        None = `keys`.
      component: int32 [B], which of `components` each row follows; None: drawn.
    """
    free = canvas == self.mask_id
    if self.follows_model:
      block_of = positions // self.block
      block_of -= jnp.min(jnp.where(free, block_of, END), axis=1, keepdims=True)
    else:
      block_of = jnp.cumsum(free, axis=1) - 1
    zeros = jnp.zeros(len(canvas), jnp.int32)
    if not self.mixture:
      component = zeros
    elif component is None:
      component = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(self.components)))(
          keys if component_keys is None else component_keys)
    if not self.follows_model:
      lengths = jnp.array([block_length for block_length, _ in self.components])
      block_of //= lengths[component][:, None]
    state = {"canvas": canvas, "positions": positions, "free": free,
             "block_of": block_of.astype(jnp.int32), "block": zeros, "count": zeros,
             "step": zeros, "nfe": zeros, "component": component}
    return self._enter_next_block(state | self.extras(state, keys))

  def extras(self, state: State, keys: jax.Array) -> State:
    """Fields of the state that a rule adds, each [B, ...]."""
    del state, keys
    return {}

  def row_draws(self, state: State) -> Mapping[str, jax.Array]:
    """Values that a rule with actions drew for its rows, by name, [B] each."""
    del state
    return {}

  def active(self, state: State) -> jax.Array:
    """Rows that are not finished, bool [B]."""
    return state["block"] < END

  def noise_level(self, state: State) -> jax.Array:
    """Time t that the network is told, float32 [B]: the one with the share of masks left."""
    left = (state["canvas"] == self.mask_id).sum(axis=1)
    return self.alpha.time(left / jnp.maximum(state["free"].sum(axis=1), 1))

  def in_blocks(self, state: State) -> jax.Array:
    """Free positions of the active block and those before it, bool [B, S].

    An exact cache has settled the blocks before it.
    """
    block = state["block"][:, None]
    active = state["block_of"] == block
    return state["free"] & (active if self.cache == "block" else state["block_of"] <= block)

  def wanted(self, state: State) -> jax.Array:
    """Positions whose logits the rule needs, bool [B, S], at most `width` a row."""
    return self.in_blocks(state) & (state["canvas"] == self.mask_id)

  def update(self, params: types.Params, state: State, index: jax.Array, answer: types.Answer,
             keys: jax.Array) -> tuple[State, Step]:
    """One step: propose, commit, revoke, stop.

    Args:
      params: of the rule, as `parts` describes them.
      state: as `init` gives it.
      index: int32 [B, W], where the answer is read.
      answer: of the model: logits float32 [B, W, V] and hidden states [B, W, D].
      keys: typed PRNG keys [B] of (seed, row, step).
    """
    state, index, answer = self.reordered(params, state, index, answer)
    proposal = self.propose(params, state, index, answer, keys)
    commit = self.commit(params, state, proposal, _stream(keys, "rule"))
    old, is_written = state["canvas"], commit.is_written
    state = state | commit.changes | {"canvas": put(old, index, is_written, proposal.tokens)}
    state = self.revoke(state, proposal, is_written, _stream(keys, "revoke"))
    is_written &= at(state["canvas"], index) == proposal.tokens  # and stands
    filled = self._stop(state)
    is_stopped = jnp.any(filled != state["canvas"], axis=1)
    state = state | {"canvas": filled, "step": state["step"] + 1, "nfe": state["nfe"] + 1}
    is_done = self.block_done(state, old) | is_stopped
    following = self._enter_next_block(state)
    state = {k: jnp.where(is_done.reshape((-1,) + (1,) * (v.ndim - 1)), following[k], v)
             for k, v in state.items()}
    certainty = proposal.confidence if proposal.certainty is None else proposal.certainty
    log_prob = jnp.zeros_like(certainty) if proposal.log_prob is None else proposal.log_prob
    return state, Step(index, is_written, proposal.tokens, certainty, log_prob, commit.action,
                       commit.action_log_prob, proposal.drawn_from)

  def reordered(self, params: types.Params, state: State, index: jax.Array, answer: types.Answer
                ) -> tuple[State, jax.Array, types.Answer]:
    """State, index and answer of the rows that are continued; of several `copies`, the state says
    which row each one continues, `parent` int32 [B]."""
    del params
    return state, index, answer

  def hypotheses(self, state: State) -> Hypotheses | None:
    """Texts that a search found; None of a rule that does not search."""
    del state
    return None

  def propose(self, params: types.Params, state: State, index: jax.Array, answer: types.Answer,
              keys: jax.Array) -> Proposal:
    """Draws tokens from the model's distribution; arguments as of `update`."""
    del params
    draw_key, score_key = _stream(keys, "draw"), _stream(keys, "score")
    current, positions = at(state["canvas"], index), at(state["positions"], index)
    exists = index < state["canvas"].shape[1]
    is_open = exists & (current == self.mask_id) & at(self.in_blocks(state), index)
    blocked = (self.eos_id, *self.other_eos_ids) if self.eos == "forbid" else ()
    logits = heads.block_columns(answer.logits, *blocked)
    is_drawn = is_set(self.temperature)
    drawn = heads.block_columns(logits, self.mask_id) / (self.temperature if is_drawn else 1.0)
    drawn = logits_lib.keep_likely(drawn, self.top_k, self.top_p)
    tokens = logits_lib.draw(draw_key, positions, drawn, is_greedy=not is_drawn)
    certainty = logits_lib.confidence(
        self.confidence, drawn if self.confidence_filtered else logits, tokens, score_key,
        positions)
    probability = certainty
    if self.confidence != "probability" or self.confidence_filtered:
      probability = logits_lib.confidence("probability", logits, tokens, score_key, positions)
    order = certainty
    if self.eos == "last":
      order = jnp.where(self.ends(tokens), certainty - LAST, certainty)
    elif self.eos == "ramp":
      last = jnp.array([max(self.block_steps_of(one) - 1, 1) for one in self.components])
      share = jnp.minimum(state["step"] / last[state["component"]], 1.0)
      factor = RAMP_START + (1 - RAMP_START) * share[:, None]
      order = jnp.where(self.ends(tokens), factor * certainty, certainty)
    log_prob = jnp.take_along_axis(drawn, tokens[..., None], axis=-1)[..., 0]
    log_prob -= jax.nn.logsumexp(drawn, axis=-1)
    return Proposal(index, positions, is_open, current, tokens, order, probability, logits,
                    certainty, log_prob, answer.hidden, drawn)

  def commit(self, params: types.Params, state: State, proposal: Proposal, keys: jax.Array
             ) -> Commit:
    """Chooses what is written; `keys` are typed keys [B] of (seed, row, step)."""
    raise TypeError("a decoding rule defines commit")

  def revoke(self, state: State, proposal: Proposal, is_written: jax.Array,
             keys: jax.Array) -> State:
    """Masks written tokens again; by default none."""
    del proposal, is_written, keys
    return state

  def block_done(self, state: State, old_canvas: jax.Array) -> jax.Array:
    """Returns whether the active block is finished after this step, bool [B]."""
    del old_canvas
    return ~jnp.any(self.in_blocks(state) & (state["canvas"] == self.mask_id), axis=1)

  def finalize(self, state: State) -> jax.Array:
    """The decoded canvas, int32 [B, S]."""
    return state["canvas"]

  def ends(self, tokens: jax.Array) -> jax.Array:
    """Returns whether each token ends a text."""
    return heads.is_one_of(tokens, (self.eos_id, *self.other_eos_ids))

  def _stop(self, state):
    """Fills what follows a settled EOS."""
    canvas, free = state["canvas"], state["free"]
    if self.eos_stop == "never":
      return canvas
    scope = free if self.eos_stop == "row" else (
        free & (state["block_of"] == state["block"][:, None]))
    is_eos, is_masked = scope & self.ends(canvas), free & (canvas == self.mask_id)
    settled = is_eos & (jnp.cumsum(is_masked, axis=1) == 0)
    return jnp.where(scope & is_masked & (jnp.cumsum(settled, axis=1) > 0), self.eos_id, canvas)

  def _enter_next_block(self, state):
    is_masked = state["free"] & (state["canvas"] == self.mask_id)
    block = jnp.min(jnp.where(is_masked, state["block_of"], END), axis=1)
    count = (is_masked & (state["block_of"] <= block[:, None])).sum(axis=1, dtype=jnp.int32)
    return state | {"block": block, "count": count, "step": jnp.zeros_like(state["step"])}
