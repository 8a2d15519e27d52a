"""Base of the policy-gradient losses of diffusion models.

Contents: Decoding, Policy, by_group, kept, joined, optional_fields, final_answer, until_end,
group_advantages, mask_given.

A batch of rollouts has, beside `tokens` [N, S] (prompt and final answer), the fields of
a `samplers.trajectory.Trajectory` of level `Policy.record` over the last G positions, and
`reward` [N], the verifier's verdict on the final answer; with the level "full" also
`step_reward` [N, T], on the prediction of every step, and `branch_reward` [N, T, m - 1] where m
predictions of every canvas are kept, on the others. `is_action` bool [N, S], where a batch has
it, says which tokens the model wrote, in several turns with replies between them. `is_kept` bool
[N], where a batch has it, is False for rollouts of groups that are not trained on, and
`shared_steps` int32 [N] the first steps that the rollouts of a prompt took together. Rows of one
prompt stand together, `group_size` of them. `prepare` turns this into R rows to score:
`noisy_tokens` [R, C, S], C canvases whose log-probabilities are added up with the factors `mix`
[R, C, G]; `targets` [R, G]; `token_weight` [R, U]; `advantage` [R] or, of each unit, [R, U];
`old_log_prob` [R, U]; `clean_tokens` [R, S] where a model of blocks reads each block of the
canvases behind the clean blocks before it; and `noise_level` [R, C] where canvases are a sampler's,
the times that it told the network. Otherwise the time is that of the share of the `is_free`
positions [R, G] that are masked, as of a sampler. A row has U units of a ratio: its tokens (U = G),
or the whole answer (U = 1) in `sequence`.

The surrogate of a unit is -min(ratio A, clip(ratio, 1 - eps, 1 + eps') A), plus kl times an
estimate of the divergence from the reference policy, `context.frozen["reference"]` (those of its
parameters that are trained since; the others are the policy's), whose
log-probability exceeds that of the policy by d: k2 = d^2 / 2 or k3 = e^d - 1 - d.

Reference: Yu et al. 2025, arXiv:2503.14476 (DAPO: eps' above eps).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Mapping, NamedTuple

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx import types
from mdx.corruption import schedule as schedule_lib
from mdx.networks import heads
from mdx.objectives.policies import advantage as advantage_lib
from mdx.utils import rng
from mdx.utils import tree

KL_FORMS = ("k2", "k3")


class Decoding(NamedTuple):
  """Bounds of the decoding of rollouts.

  Attributes:
    max_steps: most denoising steps of a rollout.
    num_blocks: most blocks of one.
    block_steps: most steps of a block.
    has_model_blocks: whether its blocks are those of a model of blocks.
    rule: the decoding rule, for policies that train its parameters.
  """
  max_steps: int = 1
  num_blocks: int = 1
  block_steps: int = 1
  has_model_blocks: bool = False
  rule: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy(types.Objective):
  """Base of the policy losses.

  Attributes:
    model: the objective the model was trained with: how it is read.
    mask_id: id of the mask token.
    eos_id: id that ends a text.
    other_eos_ids: further ids that end one.
    group_size: rollouts of a prompt.
    temperature: that the rollouts were drawn at; log-probabilities are taken at the same.
    decoding: bounds of the rollouts' decoding, for policies that replay it.
    clip: eps of the clipped ratio.
    clip_high: eps', of a ratio above 1; 0 = the same as `clip`.
    kl: weight of the divergence from the reference; 0 = none, and it is not computed.
    kl_form: "k2" or "k3".
  """
  model: types.Objective
  mask_id: int
  eos_id: int = -1
  other_eos_ids: tuple[int, ...] = ()
  group_size: int = 8
  temperature: float = 1.0
  decoding: Decoding = Decoding()
  clip: float = 0.2
  clip_high: float = 0.0
  kl: float = 0.0
  kl_form: str = "k2"

  record: ClassVar[str] = "commits"  # level of the rollouts' records
  needs_scores: ClassVar[bool] = False  # log-probabilities of its own canvases, before updates
  uses_ratio: ClassVar[bool] = True
  compares: ClassVar[bool] = True  # rollouts of a prompt, which must be several
  reuses: ClassVar[bool] = True  # rollouts, for several updates
  replays: ClassVar[bool] = False  # the canvases that a record of commits says
  left_to_right: ClassVar[bool] = False  # whether rollouts must be decoded so
  draws_tokens: ClassVar[bool] = True  # whether rollouts differ by their tokens, and not by actions
  trains_rule: ClassVar[bool] = False  # the parameters of the decoding rule, not the model's
  of_models: ClassVar[tuple[str, ...]] = ("diffusion",)  # or causal: models that it trains

  def __post_init__(self):
    config_lib.check(self, "objective", choices={"kl_form": KL_FORMS},
                     at_least={"kl": 0, "clip_high": 0})
    if self.compares and self.group_size < 2:
      raise ValueError("rollout.group_size must be at least 2, for rollouts of a prompt are "
                       f"compared with one another; got {self.group_size}.")
    if self.draws_tokens and not self.temperature > 0:
      raise ValueError("rollouts need a positive temperature: greedy ones of a prompt are all "
                       f"alike; got {self.temperature}.")
    if not self.clip > 0:
      raise ValueError(f"objective.clip must be positive, got {self.clip}.")

  @property
  def network(self) -> types.Network:
    """The model's network."""
    return self.model.network

  @property
  def reads_reference(self) -> bool:
    """Whether the loss reads the parameters that the run began with."""
    return bool(self.kl)

  @property
  def predictions_per_step(self) -> int:
    """Number of predictions of every canvas that records keep."""
    return 1

  @property
  def scales(self) -> Mapping[str, float]:
    """The surrogate and the divergence."""
    return {"policy": 1.0, "kl": self.kl} if self.kl else {"policy": 1.0}

  def parts(self):
    """Parts of the model."""
    return self.model.parts()

  def init(self, key: jax.Array) -> types.Params:
    """The model's parameters."""
    return self.model.init(key)

  def own(self, key: jax.Array) -> types.Params:
    """Returns new parameters of the policy's own parts, which its model does not have."""
    given = self.model.parts()
    return {name: part.init(rng.stream(key, name)) for name, part in self.parts().items()
            if name not in given}

  def is_scored(self, epochs: int) -> bool:
    """Returns whether batches are scored before their updates, `epochs` on each rollout."""
    return self.needs_scores and epochs > 1

  def scores(self, params: types.Params, batch: types.Batch) -> dict[str, jax.Array]:
    """Fields of a batch before its updates, of a prepared batch and the old parameters."""
    return {"old_log_prob": self.log_prob(params, batch)}

  def logits(self, params: types.Params, batch: types.Batch, length: int) -> jax.Array:
    """Logits that the last G tokens of C canvases are drawn from, float32 [R * C, G, V]."""
    logits = self.answer(params, batch, length).logits
    return heads.block_columns(logits, self.mask_id) / self.temperature

  def answer(self, params: types.Params, batch: types.Batch, length: int) -> types.Answer:
    """Answer of the model at the last G tokens of C canvases, [R * C, G, ...].

    Args:
      params: of the model.
      batch: prepared; the noise level is its `noise_level` float32 [R], where it has one, else the
        time of the share of the positions `is_free` that is masked, as samplers tell it.
      length: G.
    """
    _, canvases, size = batch["noisy_tokens"].shape
    repeat = lambda x: jnp.repeat(x, canvases, axis=0)
    tokens = batch["noisy_tokens"].reshape(-1, size)
    optional = {k: repeat(batch[k]) for k in ("positions", "segment_ids") if k in batch}
    reader = self.model.reader()
    if "noise_level" in batch:
      level = batch["noise_level"].reshape(-1)
    else:
      free = repeat(batch["is_free"])
      left = ((tokens[:, size - length:] == self.mask_id) & free).sum(axis=1)
      noise = reader.noise or {"name": "linear"}
      level = config_lib.build(schedule_lib.SCHEDULES, noise, what="schedule").time(
          left / jnp.maximum(free.sum(axis=1), 1))
    targets = jnp.broadcast_to(jnp.arange(size - length, size)[None], (len(tokens), length))
    request = types.Request(tokens=tokens, noise_level=level, targets=targets, **optional)
    if "clean_tokens" in batch:
      return reader.by_blocks(params, request, repeat(batch["clean_tokens"]))
    return reader.answer(params, request)

  def canvas_log_prob(self, params: types.Params, batch: types.Batch) -> jax.Array:
    """Log-probability of the targets under every canvas, float32 [R, C, G]; 0 where `mix` is 0."""
    rows, canvases, _ = batch["noisy_tokens"].shape
    length = batch["targets"].shape[1]
    logits = self.logits(params, batch, length)
    targets = jnp.repeat(batch["targets"], canvases, axis=0)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_prob = (picked - jax.nn.logsumexp(logits, axis=-1)).reshape(rows, canvases, length)
    # Log-probabilities of tokens that a canvas shows have no meaning, and may be -1e30.
    return jnp.where(batch["mix"] != 0, log_prob, 0.0)

  def log_prob(self, params: types.Params, batch: types.Batch) -> jax.Array:
    """Log-probability of the units of a prepared batch, float32 [R, U]."""
    return jnp.sum(batch["mix"] * self.canvas_log_prob(params, batch), axis=1)

  def reference_log_prob(self, params: types.Params, batch: types.Batch,
                         context: types.Context) -> jax.Array:
    """`log_prob` under the reference policy, without gradient."""
    reference = tree.overlay(context.frozen["reference"], params)
    return jax.lax.stop_gradient(self.log_prob(reference, batch))

  def log_ratio(self, change: jax.Array, batch: types.Batch) -> jax.Array:
    """Logarithm of the ratio of each unit, of the change of its log-probability, [R, U]."""
    del batch
    return change

  def divergence(self, more: jax.Array, batch: types.Batch) -> jax.Array:
    """Estimate of the divergence of each unit, of the excess d of the reference, [R, U]."""
    del batch
    return more ** 2 / 2 if self.kl_form == "k2" else jnp.expm1(more) - more

  def __call__(self, params, batch, context):
    """Weighted sums of the surrogate and of the divergence over the units."""
    weight, advantage = batch["token_weight"], batch["advantage"]
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage
    log_prob = self.log_prob(params, batch)
    old = batch.get("old_log_prob")
    old = jax.lax.stop_gradient(log_prob) if old is None else old
    is_target = weight != 0
    change = jnp.where(is_target, log_prob - old, 0.0)
    ratio = jnp.exp(self.log_ratio(change, batch))
    high = self.clip_high or self.clip
    if self.uses_ratio:
      clipped = jnp.clip(ratio, 1 - self.clip, 1 + high)
      gain = jnp.minimum(ratio * advantage, clipped * advantage)
    else:
      gain = jnp.where(is_target, log_prob, 0.0) * advantage
    number = is_target.sum(dtype=jnp.float32)
    outside = is_target & ((ratio - 1 < -self.clip) | (ratio - 1 > high))
    totals = {"policy": -(weight * gain * batch["policy_scale"][:, None]).sum()}
    metrics = {"ratio": (jnp.where(is_target, ratio, 0.0).sum(), number),
               "clipped_rate": (outside.sum(dtype=jnp.float32), number),
               "log_prob": (jnp.where(is_target, log_prob, 0.0).sum(), number)}
    if self.kl:
      more = jnp.where(is_target, self.reference_log_prob(params, batch, context) - log_prob, 0.0)
      divergence = self.divergence(more, batch)
      totals["kl"] = (weight * divergence).sum()
      metrics["kl"] = (jnp.where(is_target, divergence, 0.0).sum(), number)
    totals |= self.more_terms(params, batch, change)
    return totals, types.Aux(metrics, {}, {})

  def more_terms(self, params: types.Params, batch: types.Batch,
                 change: jax.Array) -> dict[str, jax.Array]:
    """Further loss terms of a policy, of the change of each target's log-probability [R, G]."""
    del params, batch, change
    return {}

  def ends(self, tokens: jax.Array) -> jax.Array:
    """Tokens int32 [N, G] that end a text, bool [N, G]."""
    return heads.is_one_of(tokens, (self.eos_id, *self.other_eos_ids))

  def own_text(self, batch: types.Batch) -> dict[str, jax.Array]:
    """`clean_tokens` of canvases that are the policy's own, where the model has blocks."""
    has_blocks = self.model.reader().by_blocks is not None
    return {"clean_tokens": batch["tokens"]} if has_blocks else {}


def by_group(values: jax.Array, group_size: int) -> jax.Array:
  """[N, ...] -> [P, G, ...]."""
  return values.reshape((-1, group_size) + values.shape[1:])


def kept(batch: types.Batch) -> jax.Array:
  """Rollouts that are trained on, bool [N]."""
  return batch.get("is_kept", jnp.ones(len(batch["tokens"]), bool))


def joined(batch: types.Batch, canvas: jax.Array) -> jax.Array:
  """Prompts before canvases [R, ..., G]: int32 [R, ..., S]; R a multiple of the rows N."""
  prompt = batch["tokens"][:, :batch["tokens"].shape[1] - canvas.shape[-1]]
  prompt = jnp.repeat(prompt, len(canvas) // len(prompt), axis=0)
  shape = canvas.shape[:-1] + prompt.shape[1:]
  prompt = jnp.broadcast_to(jnp.expand_dims(prompt, tuple(range(1, canvas.ndim - 1))), shape)
  return jnp.concatenate([prompt, canvas], axis=-1)


def optional_fields(batch: types.Batch, times: int = 1) -> dict[str, Any]:
  """is_free, and positions and segment_ids where the batch has them, each row `times` times."""
  return {k: jnp.repeat(batch[k], times, axis=0) for k in ("is_free", "positions", "segment_ids")
          if k in batch}


def final_answer(batch: types.Batch) -> tuple[jax.Array, jax.Array]:
  """Last G tokens int32 [N, G]; bool [N, G], those the model wrote, in any of its turns."""
  free = batch["is_free"]
  length = free.shape[1]
  return batch["tokens"][:, -length:], (
      batch["is_action"][:, -length:] if "is_action" in batch else free)


def until_end(is_end: jax.Array) -> jax.Array:
  """Positions up to the first end of text, with it: bool [N, G], of the ends bool [N, G]."""
  return jnp.cumsum(is_end, axis=1) - is_end == 0


def group_advantages(batch: types.Batch, group_size: int, kind: str) -> jax.Array:
  """Advantage of every rollout over its group, float32 [N]; see `advantage.group_advantage`."""
  grouped = by_group(batch["reward"], group_size)
  return advantage_lib.group_advantage(grouped, kind).reshape(-1)


def mask_given(key: jax.Array, batch: types.Batch, noisy: jax.Array, is_given: jax.Array,
               rate: float, mask_id: int) -> jax.Array:
  """Returns canvases [R, C, S] in which given tokens are masked too, with probability `rate`.

  Args:
    key: typed key; draws depend on it and on `example_index`. The canvases of a row share them.
    batch: rows; their padding is left alone.
    noisy: int32 [R, C, S].
    is_given: bool [R, C, S] or [R, 1, S].
    rate: of each token.
    mask_id: id of the mask token.
  """
  if not rate:
    return noisy
  keys = rng.per_example(key, batch["example_index"])
  draw = jax.vmap(lambda k: jax.random.uniform(k, noisy.shape[-1:]))(keys)
  if "segment_ids" in batch:
    is_given &= batch["segment_ids"][:, None] > 0
  return jnp.where((draw < rate)[:, None] & is_given, mask_id, noisy)
