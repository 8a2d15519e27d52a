"""Policy losses: ratios, microbatches, and what is no target."""

import jax
import numpy as np
import pytest

from mdx.objectives.policies import grpo
from mdx.objectives.policies import mdpo
from mdx.train import step as step_lib
from mdx.utils import rng

import rollouts
from rollouts import GROUP, MASK_ID, MODEL, OTHER, PARAMS, PROMPT
import tiny


@pytest.mark.slow
@pytest.mark.parametrize("temperature, padded, confidence", [
    (1.0, False, "probability"), (0.6, True, "probability"), (1.0, True, "random")])
def test_with_unchanged_parameters_every_ratio_is_one(temperature, padded, confidence):
  batch = rollouts.rollout(temperature, confidence=confidence, padded=padded)
  policy = rollouts.policy(mdpo.MDPO, temperature=temperature, step_choice="all")
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  is_target = np.asarray(prepared["token_weight"]) != 0
  ratio = np.exp(np.asarray(rollouts.log_prob(policy, PARAMS, prepared) - prepared["old_log_prob"]))
  assert is_target.sum() == 3 * GROUP * (4 + 2)  # 4 masks before the first step, 2 before the next
  np.testing.assert_allclose(ratio[is_target], 1, atol=1e-5)
  # Another temperature is another distribution.
  other = rollouts.policy(mdpo.MDPO, temperature=1.7, step_choice="all")
  ratio = np.exp(np.asarray(rollouts.log_prob(other, PARAMS, prepared) - prepared["old_log_prob"]))
  assert np.abs(ratio[is_target] - 1).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("cls", [mdpo.MDPO, grpo.CoupledGRPO])
def test_microbatches_accumulate_exactly(cls):
  batch = rollouts.rollout(num_prompts=4)
  policy = rollouts.policy(cls)
  context = rollouts.context(OTHER)
  prepared, weights = policy.prepare(PARAMS, batch, rng.root(0), context)
  runs = [jax.jit(lambda p, b, n=n: step_lib.loss_and_grad(policy, p, b, weights, context, n)[::2])(
      PARAMS, prepared) for n in (1, 4)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *runs)


@pytest.mark.parametrize("cls, fields, message", [
    (mdpo.MDPO, {"temperature": 0.0}, "positive temperature"),
    (mdpo.MDPO, {"group_size": 1}, "group_size must be at least 2"),
    (mdpo.MDPO, {"advantage": "best"}, "choose from improvement_and_tail"),
    (mdpo.MDPO, {"step_choice": "last"}, "choose from largest"),
    (mdpo.MDPO, {"targets": "all"}, "choose from masked"),
    (mdpo.MDPO, {"kl_form": "k1"}, "choose from k2, k3"),
    (mdpo.MDPO, {"num_steps": 0}, "num_steps must be at least 1, got 0"),
    (mdpo.MDPO, {"clip": 0.0}, "clip must be positive"),
    (mdpo.MDPO, {"clip": float("nan")}, "clip must be positive, got nan"),
    (mdpo.MDPO, {"kl": float("nan")}, "kl must be at least 0, got nan"),
    (mdpo.MDPO, {"temperature": float("nan")}, "positive temperature.*got nan"),
    (grpo.DiffuGRPO, {"prompt_mask_rate": 1.0}, r"must lie in \[0, 1\)"),
    (grpo.DiffuGRPO, {"advantage": "tail"}, "choose from mean"),
    (grpo.CoupledGRPO, {"min_rate": 0.9}, "0 < min <= max < 1")])
def test_values_without_meaning_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(model=MODEL, mask_id=MASK_ID, **({"group_size": GROUP} | fields))


@pytest.mark.parametrize("kind", tiny.mostly_slow([grpo.DiffuGRPO, grpo.CoupledGRPO, mdpo.MDPO],
                                                 [mdpo.MDPO]))
def test_what_was_given_inside_an_answer_is_no_target_and_stays_visible(kind):
  batch = rollouts.rollout(num_prompts=3)
  given = np.asarray(batch["tokens"])[:, PROMPT]
  batch["canvas"] = batch["canvas"].at[:, :, 0].set(given[:, None])
  batch["is_free"] = batch["is_free"].at[:, 0].set(False)
  fields = {} if kind is mdpo.MDPO else {"prompt_mask_rate": 0.0}
  policy = rollouts.policy(kind, **fields)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), rollouts.context())
  noisy = np.asarray(prepared["noisy_tokens"])
  times = len(noisy) // len(given)
  assert np.all(noisy[..., PROMPT] == np.repeat(given, times)[:, None])
  assert np.all(np.asarray(prepared["token_weight"])[:, 0] == 0)
  assert np.any(np.asarray(prepared["token_weight"])[:, 1] > 0)
