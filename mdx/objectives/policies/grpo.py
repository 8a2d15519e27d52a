"""Policy gradients on whole completions: the baselines of MDPO.

Contents: DiffuGRPO, WeightedLikelihood (wd1), CoupledGRPO.

All score the final answer from canvases of their own, not from those the sampler
visited. With several inner epochs every epoch draws new canvases, and the old
log-probabilities are those of the same canvases, scored before the first update.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mdx import config as config_lib
from mdx.objectives.policies import advantage as advantage_lib
from mdx.objectives.policies import policy
from mdx.utils import rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffuGRPO(policy.Policy):
  """d1's policy gradient: one canvas with the whole answer masked.

  Tokens of the prompt are masked at random too, so that inner epochs differ. The loss is
  the mean over all answer tokens up to the first end of text.

  Attributes:
    advantage: one of advantage.GROUP_ADVANTAGES.
    prompt_mask_rate: probability that a prompt token is masked.
    until_eos: whether tokens after the first end of text are left out.

  Reference: Zhao et al. 2025, arXiv:2504.12216 (d1).
  """
  clip: float = 0.5
  kl: float = 0.04
  kl_form: str = "k3"
  advantage: str = "mean"
  prompt_mask_rate: float = 0.15
  until_eos: bool = True

  needs_scores = True

  def __post_init__(self):
    super().__post_init__()
    config_lib.check(self, "objective", choices={"advantage": advantage_lib.GROUP_ADVANTAGES},
                     between={"prompt_mask_rate": "[0, 1)"})

  def prepare(self, params, batch, key, context):
    """Draws the canvases."""
    del params, context
    free = batch["is_free"]
    final, counts = policy.final_answer(batch)
    hidden, mix = self._canvases(batch, final, rng.stream(key, "answer"))
    canvas = jnp.where(hidden & free[:, None], self.mask_id, final[:, None])
    noisy = policy.joined(batch, canvas)
    given = jnp.pad(~free, ((0, 0), (noisy.shape[-1] - free.shape[1], 0)), constant_values=True)
    noisy = policy.mask_given(rng.stream(key, "prompt"), batch, noisy, given[:, None],
                              self.prompt_mask_rate, self.mask_id)
    if self.until_eos and "is_action" not in batch:  # a turn counts up to its own end
      counts &= policy.until_end(self.ends(final))
    kept = policy.kept(batch)
    weight, total = self._token_weight(counts & kept[:, None], kept)
    prepared = policy.optional_fields(batch) | self.own_text(batch) | {
        "noisy_tokens": noisy, "targets": final, "mix": mix * counts[:, None],
        "token_weight": weight, "advantage": self._advantage(batch),
        "policy_scale": jnp.ones(len(final))}
    if "old_log_prob" in batch:
      prepared["old_log_prob"] = batch["old_log_prob"]
    return prepared, dict.fromkeys(self.scales, total)

  def _advantage(self, batch):
    return policy.group_advantages(batch, self.group_size, self.advantage)

  def _token_weight(self, counts, kept):
    """Weights of tokens float32 [N, G], and their divisor; `kept` bool [N] are the rollouts."""
    del kept
    weight = counts.astype(jnp.float32)
    return weight, weight.sum()

  def _canvases(self, batch, final, key):
    """Masks of C canvases, bool [N, C, G], and the factors of their log-probabilities."""
    del batch, key
    return jnp.ones(final.shape, bool)[:, None], jnp.ones(final.shape)[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedLikelihood(DiffuGRPO):
  """wd1: log-likelihoods weighed by w- - w+ over the group; no ratio, no clipping.

  The loss is the sum over tokens and rollouts, averaged over the prompts.

  Attributes:
    sharpness: psi, of the softmax over the advantages.

  Reference: Tang et al. 2025, arXiv:2507.08838.
  """
  # Of ratios and of another advantage; no config has them.
  clip: float = dataclasses.field(init=False, repr=False, default=0.5)
  clip_high: float = dataclasses.field(init=False, repr=False, default=0.0)
  advantage: str = dataclasses.field(init=False, repr=False, default="mean")
  kl: float = 0.0
  sharpness: float = 1.0

  needs_scores = False
  uses_ratio = False

  def _advantage(self, batch):
    grouped = policy.by_group(batch["reward"], self.group_size)
    return advantage_lib.contrast_weights(grouped, self.sharpness).reshape(-1)

  def _token_weight(self, counts, kept):
    return counts.astype(jnp.float32), kept.sum(dtype=jnp.float32) / self.group_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoupledGRPO(DiffuGRPO):
  """DiffuCoder's policy gradient: a random canvas, its complement, and the full mask.

  The log-probability of a token is half the sum of that under the full mask and that under
  the canvas which masks it, over the rate it was masked with.

  Attributes:
    min_rate, max_rate: range of the mask rate t; the complement has 1 - t.

  Reference: Gong et al. 2025, arXiv:2506.20639.
  """
  kl: float = 0.01
  advantage: str = "leave_one_out"
  prompt_mask_rate: float = 0.0
  min_rate: float = 0.2
  max_rate: float = 0.8

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.min_rate <= self.max_rate < 1:
      raise ValueError("objective.min_rate and max_rate must satisfy 0 < min <= max < 1, got "
                       f"{self.min_rate} and {self.max_rate}.")

  def _canvases(self, batch, final, key):
    keys = rng.per_example(key, batch["example_index"])
    draw = jax.vmap(lambda k: jax.random.uniform(k, (final.shape[1] + 1,)))(keys)
    rate = self.min_rate + (self.max_rate - self.min_rate) * draw[:, :1]
    is_masked = draw[:, 1:] < rate
    hidden = jnp.stack([jnp.ones_like(is_masked), is_masked, ~is_masked], axis=1)
    mix = jnp.stack([jnp.ones(final.shape), is_masked / rate, ~is_masked / (1 - rate)], axis=1)
    return hidden, mix / 2
