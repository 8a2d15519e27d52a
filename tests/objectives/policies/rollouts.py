"""Rollouts of a small model with random rewards, and losses of policies on them.

Contents: MASK_ID, EOS_ID, VOCAB, PROMPT, ANSWER, GROUP, SPEC, MODEL, PARAMS, OTHER, policy,
rollout, context, loss, log_prob, prepared, scored, masked_log_probs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mdx import samplers
from mdx import types
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.samplers import loop
from mdx.utils import rng

MASK_ID, EOS_ID, VOCAB, PROMPT, ANSWER, GROUP = 6, 5, 7, 3, 4, 4
SPEC = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=VOCAB, max_length=16,
                               scan_layers=False, init_std=0.5)
MODEL = diffusion.MaskedDiffusion(network=SPEC.network(), mask_id=MASK_ID)
PARAMS = MODEL.init(rng.root(0))
OTHER = MODEL.init(rng.root(1))


def policy(cls, **fields):
  return cls(model=MODEL, mask_id=MASK_ID, eos_id=EOS_ID, group_size=GROUP, **fields)


@functools.cache
def _decoder(temperature, steps, confidence, padded):
  """(params, canvas, optional fields) -> record, compiled once for each setting."""
  del padded  # the optional fields are another structure
  sampler = samplers.build(dict(name="confidence", gen_length=ANSWER, steps=steps,
                                temperature=temperature, confidence=confidence), MODEL,
                           mask_id=MASK_ID, eos_id=EOS_ID)
  return jax.jit(lambda params, canvas, optional, key: loop.decode(
      lambda request: MODEL.answer(params, request), sampler, canvas, key=key,
      row_index=jnp.arange(len(canvas)), start=PROMPT, record="full", **optional).trajectory)


def rollout(temperature=1.0, steps=2, num_prompts=3, confidence="probability", seed=0,
             padded=False, params=PARAMS):
  """A batch as the RL loop builds it, with random rewards."""
  draw = np.random.default_rng(seed)
  rows = num_prompts * GROUP
  prompts = np.repeat(draw.integers(0, 5, (num_prompts, PROMPT)), GROUP, axis=0)
  canvas = jnp.asarray(np.concatenate([prompts, np.full((rows, ANSWER), MASK_ID)], 1), jnp.int32)
  optional = {}
  if padded:
    begin = np.repeat(draw.integers(0, 3, num_prompts), GROUP)[:, None]
    index = np.arange(PROMPT + ANSWER)[None]
    optional = {"segment_ids": jnp.asarray(index >= begin, jnp.int32),
                "positions": jnp.asarray(np.maximum(index - begin, 0), jnp.int32)}
  record = _decoder(temperature, steps, confidence, padded)(params, canvas, optional,
                                                           rng.root(seed))
  fields = ("canvas", "prediction", "step_confidence", "step_log_prob", "nfe", "is_free")
  reward = jnp.asarray(draw.integers(0, 2, record.step_confidence.shape[:2]), jnp.float32)
  return {"tokens": jnp.concatenate([canvas[:, :PROMPT], record.tokens], axis=1),
          "step_reward": reward, "reward": reward[jnp.arange(rows), record.nfe - 1],
          "example_index": jnp.arange(rows, dtype=jnp.int32),
          **{k: getattr(record, k) for k in fields}, **optional}


def context(reference=PARAMS):
  return types.context(0, {"reference": reference})


def loss(policy, params, batch, key=None, reference=PARAMS):
  def loss(params, batch, key, reference):
    prepared, weights = policy.prepare(params, batch, key, context(reference))
    totals, _ = policy(params, prepared, context(reference))
    return sum(policy.scales[k] * totals[k] / weights[k] for k in totals)

  return jax.jit(loss)(params, batch, rng.root(5) if key is None else key, reference)


def log_prob(policy, params, prepared):
  return jax.jit(policy.log_prob)(params, prepared)


def prepared(policy, batch, key):
  """The rows of a batch to score, and weights."""
  return jax.jit(lambda b, k: policy.prepare(PARAMS, b, k, context()))(batch, key)


def scored(policy, params, prepared, reference=PARAMS):
  """Totals and Aux of a prepared batch."""
  return jax.jit(lambda p, b, r: policy(p, b, context(r)))(params, prepared, reference)


@jax.jit
def masked_log_probs(params, canvas, prompt):
  tokens = jnp.concatenate([prompt, canvas], axis=1)
  request = types.Request(tokens=tokens, noise_level=jnp.ones(len(tokens)))
  logits = MODEL.answer(params, request).logits
  return jax.nn.log_softmax(logits[:, PROMPT:], axis=-1)
