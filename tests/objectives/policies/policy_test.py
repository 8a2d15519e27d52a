"""Policy losses: ratios, exact gradients, and each knob against a plain computation."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import samplers
from mdx import types
from mdx.networks import transformer
from mdx.objectives.diffusion import masked as diffusion
from mdx.objectives.policies import grpo
from mdx.objectives.policies import mdpo
from mdx.samplers import loop
from mdx.train import step as step_lib
from mdx.utils import rng

MASK_ID, EOS_ID, VOCAB, PROMPT, ANSWER, GROUP = 6, 5, 7, 3, 4, 4
SPEC = transformer.Transformer(num_layers=1, width=16, num_heads=2, vocab_size=VOCAB, max_length=16,
                               scan_layers=False, init_std=0.5)
MODEL = diffusion.MaskedDiffusion(network=SPEC.network(), mask_id=MASK_ID)
PARAMS = MODEL.init(rng.root(0))
OTHER = MODEL.init(rng.root(1))


def _policy(cls, **fields):
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


def _rollout(temperature=1.0, steps=2, num_prompts=3, confidence="probability", seed=0,
             padded=False, params=PARAMS):
  """A batch as the RL loop builds it, with random rewards."""
  draw = np.random.default_rng(seed)
  rows = num_prompts * GROUP
  prompts = np.repeat(draw.integers(0, 5, (num_prompts, PROMPT)), GROUP, axis=0)
  canvas = jnp.asarray(np.concatenate([prompts, np.full((rows, ANSWER), MASK_ID)], 1), jnp.int32)
  optional = {}
  if padded:
    begin = np.repeat(draw.integers(0, 3, num_prompts), GROUP)[:, None]
    place = np.arange(PROMPT + ANSWER)[None]
    optional = {"segment_ids": jnp.asarray(place >= begin, jnp.int32),
                "positions": jnp.asarray(np.maximum(place - begin, 0), jnp.int32)}
  record = _decoder(temperature, steps, confidence, padded)(params, canvas, optional,
                                                           rng.root(seed))
  fields = ("canvas", "prediction", "step_confidence", "step_log_prob", "nfe", "is_free")
  reward = jnp.asarray(draw.integers(0, 2, record.step_confidence.shape[:2]), jnp.float32)
  return {"tokens": jnp.concatenate([canvas[:, :PROMPT], record.tokens], axis=1),
          "step_reward": reward, "reward": reward[jnp.arange(rows), record.nfe - 1],
          "example_index": jnp.arange(rows, dtype=jnp.int32),
          **{k: getattr(record, k) for k in fields}, **optional}


def _context(reference=PARAMS):
  return types.context(0, {"reference": reference})


def _loss(policy, params, batch, key=None, reference=PARAMS):
  def loss(params, batch, key, reference):
    prepared, weights = policy.prepare(params, batch, key, _context(reference))
    totals, _ = policy(params, prepared, _context(reference))
    return sum(policy.scales[k] * totals[k] / weights[k] for k in totals)

  return jax.jit(loss)(params, batch, rng.root(5) if key is None else key, reference)


@pytest.mark.slow
@pytest.mark.parametrize("temperature, padded, confidence", [
    (1.0, False, "probability"), (0.6, True, "probability"), (1.0, True, "random")])
def test_with_unchanged_parameters_every_ratio_is_one(temperature, padded, confidence):
  batch = _rollout(temperature, confidence=confidence, padded=padded)
  policy = _policy(mdpo.MDPO, temperature=temperature, step_choice="all")
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), _context())
  is_target = np.asarray(prepared["token_weight"]) != 0
  ratio = np.exp(np.asarray(_log_prob(policy, PARAMS, prepared) - prepared["old_log_prob"]))
  assert is_target.sum() == 3 * GROUP * (4 + 2)  # 4 masks before the first step, 2 before the next
  np.testing.assert_allclose(ratio[is_target], 1, atol=1e-5)
  # Another temperature is another law.
  other = _policy(mdpo.MDPO, temperature=1.7, step_choice="all")
  ratio = np.exp(np.asarray(_log_prob(other, PARAMS, prepared) - prepared["old_log_prob"]))
  assert np.abs(ratio[is_target] - 1).max() > 0.05


TIMED = diffusion.MaskedDiffusion(
    network=dataclasses.replace(SPEC, time_conditioning=True).network(), mask_id=MASK_ID)


def _moved(params):
  """Parameters of which none is zero, so that time conditioning says something."""
  flat, tree = jax.tree.flatten(params)
  keys = jax.random.split(rng.root(7), len(flat))
  return jax.tree.unflatten(tree, [x + 0.2 * jax.random.normal(k, x.shape, x.dtype)
                                   for k, x in zip(keys, flat)])


@functools.cache
def _timed_rollout(rule, rows=2 * GROUP):
  """A rollout of texts of 7 tokens that are filled in where they stand, 3 of them given."""
  params = _moved(TIMED.init(rng.root(0)))
  sampler = samplers.build(dict(name=rule, gen_length=7, steps=3, temperature=0.8), TIMED,
                           mask_id=MASK_ID, eos_id=EOS_ID)
  canvas = jnp.where(jnp.arange(7) % 3 > 0, MASK_ID, jnp.arange(rows)[:, None] % 5)
  record = jax.jit(lambda params: loop.decode(
      lambda request: TIMED.answer(params, request), sampler, canvas, key=rng.root(1),
      row_index=jnp.arange(rows), record="full").trajectory)(params)
  reward = np.random.default_rng(0).integers(0, 2, record.canvas.shape[:2]).astype(np.float32)
  batch = {k: v for k, v in record._asdict().items() if v is not None}
  return params, batch | {"step_reward": jnp.asarray(reward), "reward": jnp.asarray(reward[:, 0]),
                          "example_index": jnp.arange(rows)}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["confidence", "rcr", "ancestral", "first_hitting"])
def test_a_model_that_reads_time_is_scored_at_the_times_it_was_sampled_at(rule):
  params, batch = _timed_rollout(rule)
  policy = mdpo.MDPO(model=TIMED, mask_id=MASK_ID, group_size=GROUP, temperature=0.8,
                     step_choice="all")
  prepared, _ = policy.prepare(params, batch, rng.root(0), _context())
  is_target = np.asarray(prepared["token_weight"]) != 0
  change = np.asarray(_log_prob(policy, params, prepared) - prepared["old_log_prob"])[is_target]
  np.testing.assert_allclose(np.exp(change), 1, atol=1e-5)
  assert len(change) > 2 * GROUP * 5
  if rule == "confidence":  # whose times are those of the masks, which a batch need not have
    again = {k: v for k, v in batch.items() if k != "step_time"}
    again, _ = policy.prepare(params, again, rng.root(0), _context())
    np.testing.assert_allclose(*(_log_prob(policy, params, x) for x in (prepared, again)),
                               atol=1e-6)


@pytest.mark.parametrize("cls, fields", [
    (grpo.DiffuGRPO, {"prompt_mask_rate": 0.0}),
    pytest.param(grpo.WeightedLikelihood, {"prompt_mask_rate": 0.0}, marks=pytest.mark.slow),
    pytest.param(grpo.CoupledGRPO, {"min_rate": 0.5, "max_rate": 0.5}, marks=pytest.mark.slow)])
def test_own_canvases_are_scored_at_the_times_a_sampler_would_tell(cls, fields):
  params, batch = _timed_rollout("confidence")
  policy = cls(model=TIMED, mask_id=MASK_ID, eos_id=EOS_ID, group_size=GROUP, temperature=0.8,
               **fields)
  prepared, _ = policy.prepare(params, batch, rng.root(0), _context())
  sampler = samplers.build(dict(name="confidence", gen_length=7), TIMED, mask_id=MASK_ID)
  noisy = prepared["noisy_tokens"]
  free = jnp.broadcast_to(batch["is_free"][:, None], noisy.shape).reshape(-1, 7)
  canvas = noisy.reshape(-1, 7)
  time = sampler.noise_level({"canvas": canvas, "free": free})
  logits = TIMED.answer(params, types.Request(tokens=canvas, noise_level=time)).logits
  law = jax.nn.log_softmax(logits.at[..., MASK_ID].set(-1e30) / 0.8, axis=-1).reshape(
      *noisy.shape, -1)
  picked = jnp.take_along_axis(law, prepared["targets"][:, None, :, None], axis=-1)[..., 0]
  expected = jnp.where(prepared["mix"] != 0, prepared["mix"] * picked, 0.0).sum(axis=1)
  np.testing.assert_allclose(_log_prob(policy, params, prepared), expected, atol=1e-5)
  if cls is not grpo.CoupledGRPO:  # tokens committed first were drawn from the same canvas
    first = (batch["step"] == 0) & batch["is_free"] & (prepared["token_weight"] > 0)
    assert first.sum() > GROUP
    np.testing.assert_allclose(jnp.where(first, expected - batch["log_prob"], 0.0), 0, atol=1e-5)


@pytest.mark.parametrize("confidence", tiny.mostly_slow(["entropy", "random", "margin"],
                                                        ["entropy"]))
def test_tokens_weigh_their_probability_whatever_the_sampler_goes_by(confidence):
  batch = _rollout(0.6, confidence=confidence)
  policy = _policy(mdpo.MDPO, temperature=0.6, step_choice="all", token_mean=False)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), _context())
  is_masked = np.asarray(prepared["mix"])[:, 0] > 0
  weight = np.asarray(prepared["token_weight"])
  np.testing.assert_allclose(weight[is_masked],
                             np.exp(np.asarray(_log_prob(policy, PARAMS, prepared)))[is_masked],
                             rtol=1e-4)
  assert np.all(weight[is_masked] > 0) and np.all(weight[~is_masked] == 0)


def _log_prob(policy, params, prepared):
  return jax.jit(policy.log_prob)(params, prepared)


@jax.jit
def _masked_log_probs(params, canvas, prompt):
  tokens = jnp.concatenate([prompt, canvas], axis=1)
  logits = MODEL.answer(params, types.Request(tokens=tokens, noise_level=jnp.ones(len(tokens)))).logits
  return jax.nn.log_softmax(logits[:, PROMPT:], axis=-1)


@pytest.mark.parametrize("fields", [
    {}, {"confidence_weight": False}, {"length_weight": False}, {"token_mean": False},
    {"kl": 0.0}, {"kl_form": "k3", "kl": 0.5}, {"num_steps": 1}, {"advantage": "final"},
    {"targets": "committed"}, {"drop_dead": True}, {"clip": 0.01}],
                         ids=lambda f: "-".join(f) or "default")
def test_mdpo_is_its_formula(fields):
  batch = _rollout(steps=2, seed=3)
  batch["step_reward"] = batch["step_reward"].at[:GROUP].set(1.0)  # a dead group
  policy = _policy(mdpo.MDPO, **({"num_steps": 2} | fields))
  moved = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, PARAMS, OTHER)
  found = _loss(policy, moved, batch, reference=OTHER)

  host = jax.tree.map(np.asarray, batch)
  reward = host["step_reward"].reshape(3, GROUP, 2)
  gain = np.diff(reward, axis=2, prepend=0)
  tail = np.stack([reward[..., 1], reward[..., 1]], axis=2)
  credit = reward[..., 1:].repeat(2, 2) if policy.advantage == "final" else gain + tail
  advantage = (credit - credit.mean(1, keepdims=True)) / (credit.std(1, ddof=1, keepdims=True)
                                                          + 1e-4)
  advantage = advantage.reshape(-1, 2)
  prompts = jnp.repeat(batch["tokens"][:, :PROMPT], 2, axis=0)
  news, refs = (np.asarray(_masked_log_probs(
      p, batch["canvas"].reshape(-1, ANSWER), prompts)).reshape(12, 2, ANSWER, -1)
                for p in (moved, OTHER))
  total = rows = 0.0
  for n in range(len(advantage)):
    order = np.argsort(-np.abs(advantage[n]), kind="stable")[:policy.num_steps]
    for s in order:
      a = advantage[n, s]
      if policy.drop_dead and a == 0:
        continue
      rows += 1
      canvas = host["canvas"][n, s]
      new, ref = news[n, s], refs[n, s]
      chosen = canvas == MASK_ID
      if policy.targets == "committed":
        after = host["canvas"][n, 1] if s == 0 else host["tokens"][n, PROMPT:]
        chosen &= after != MASK_ID
      count, one = chosen.sum(), 0.0
      for i in np.flatnonzero(chosen):
        token = host["prediction"][n, s, i]
        ratio = np.exp(new[i, token] - host["step_log_prob"][n, s, i])
        surrogate = min(ratio * a, np.clip(ratio, 1 - policy.clip, 1 + policy.clip) * a)
        d = ref[i, token] - new[i, token]
        kl = d * d / 2 if policy.kl_form == "k2" else np.exp(d) - 1 - d
        weight = host["step_confidence"][n, s, i] if policy.confidence_weight else 1.0
        length = ANSWER / count if policy.length_weight else 1.0
        one += weight * (-surrogate * length + policy.kl * kl)
      total += one / count if policy.token_mean else one
  assert rows == {"drop_dead": rows}.get("-".join(fields), 12 * policy.num_steps)
  np.testing.assert_allclose(found, total / rows, rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_of_random_order_decoding_is_the_exact_policy_gradient():
  """E[R grad log p] over all orders and tokens of a tiny decode, against enumeration."""
  length, real = 2, 3
  spec = transformer.Transformer(num_layers=1, width=8, num_heads=1, vocab_size=real + 1,
                                 max_length=4, scan_layers=False, init_std=0.5)
  model = diffusion.MaskedDiffusion(network=spec.network(), mask_id=real)
  params = model.init(rng.root(2))
  values = jnp.asarray(np.random.default_rng(0).normal(size=(real, real)))

  def log_probs(params, canvas):
    return jax.nn.log_softmax(model.answer(params, types.Request(
        tokens=canvas, noise_level=jnp.ones(len(canvas)))).logits, axis=-1)

  canvases = list(itertools.product(range(real + 1), repeat=length))  # real is the mask

  def expected_reward(params):
    table = log_probs(params, jnp.asarray(canvases))
    total = 0.0
    for order in itertools.permutations(range(length)):
      for tokens in itertools.product(range(real), repeat=length):
        canvas, log_prob = [real] * length, 0.0
        for place in order:
          log_prob += table[canvases.index(tuple(canvas)), place, tokens[place]]
          canvas[place] = tokens[place]
        total += jnp.exp(log_prob) * values[tokens] / 2
    return total

  exact = jax.jit(jax.grad(expected_reward))(params)
  policy = mdpo.MDPO(model=model, mask_id=real, group_size=2, kl=0.0, step_choice="all",
                     targets="committed", confidence_weight=False, length_weight=False,
                     token_mean=False)
  sampler = samplers.build(dict(name="confidence", confidence="random", gen_length=length,
                                steps=length), model, mask_id=real)
  rows = 60000
  canvas = jnp.full((rows, length), real, jnp.int32)

  @jax.jit
  def estimate(params, key):
    record = loop.decode(lambda r: model.answer(params, r), sampler, canvas, key=key,
                         row_index=jnp.arange(rows), record="full").trajectory
    reward = values[record.tokens[:, 0], record.tokens[:, 1]]
    batch = {"tokens": record.tokens, "step_reward": jnp.repeat(reward[:, None], length, 1),
             "example_index": jnp.arange(rows), **{
                 k: getattr(record, k) for k in ("canvas", "prediction", "step_confidence",
                                                 "step_log_prob", "nfe", "is_free")}}
    context = types.context(0)
    prepared, _ = policy.prepare(params, batch, key, context)
    # The reward itself instead of the group's z-score, which is a biased baseline.
    prepared["advantage"] = jnp.repeat(reward, length)
    loss = lambda p: policy(p, prepared, context)[0]["policy"] / rows
    return jax.grad(loss)(params)

  found = jax.tree.map(lambda g: -g, estimate(params, rng.root(0)))
  flat = lambda t: np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(t)])
  a, b = flat(found), flat(exact)
  assert np.abs(a - b).max() < 0.03 * np.abs(b).max()
  assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


@pytest.mark.slow
def test_diffu_grpo_masks_prompts_scores_up_to_eos_and_averages_over_tokens():
  batch = _rollout(num_prompts=64)
  batch["tokens"] = batch["tokens"].at[::2, PROMPT + 1].set(EOS_ID)
  policy = _policy(grpo.DiffuGRPO, prompt_mask_rate=0.3, kl=0.0)
  prepared, weights = policy.prepare(PARAMS, batch, rng.root(0), _context())
  noisy = np.asarray(prepared["noisy_tokens"])[:, 0]
  assert np.all(noisy[:, PROMPT:] == MASK_ID)
  hidden = noisy[:, :PROMPT] == MASK_ID
  assert abs(hidden.mean() - 0.3) < 0.05
  np.testing.assert_array_equal(noisy[:, :PROMPT][~hidden],
                                np.asarray(batch["tokens"])[:, :PROMPT][~hidden])
  tokens = np.asarray(batch["tokens"])[:, PROMPT:]
  keep = np.array([[EOS_ID not in row[:i] for i in range(ANSWER)] for row in tokens])
  np.testing.assert_array_equal(np.asarray(prepared["token_weight"]) > 0, keep)
  assert weights["policy"] == keep.sum()
  # One epoch: the gradient is -A grad log p, averaged over tokens.
  reward = np.asarray(batch["reward"]).reshape(-1, GROUP)
  advantage = (reward - reward.mean(1, keepdims=True)).reshape(-1)
  grad = jax.grad(lambda p: _loss(policy, p, batch, rng.root(0)))(PARAMS)

  def plain(params):
    log_probs = _masked_log_probs(params, jnp.asarray(noisy[:, PROMPT:]),
                                  jnp.asarray(noisy[:, :PROMPT]))
    picked = jnp.take_along_axis(log_probs, jnp.asarray(tokens)[..., None], axis=2)[..., 0]
    return -(advantage[:, None] * picked * keep).sum() / keep.sum()

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6), grad,
               jax.grad(plain)(PARAMS))


@pytest.mark.slow
def test_inner_epochs_draw_other_canvases_and_are_scored_on_the_same():
  batch = _rollout(num_prompts=16)
  policy = _policy(grpo.DiffuGRPO)
  draw = lambda key: policy.prepare(PARAMS, batch, key, _context())[0]
  first, again, second = (draw(rng.stream(rng.root(0), "train", s)) for s in (0, 0, 1))
  np.testing.assert_array_equal(first["noisy_tokens"], again["noisy_tokens"])
  assert not np.array_equal(first["noisy_tokens"], second["noisy_tokens"])
  scored = batch | {"old_log_prob": _log_prob(policy, PARAMS, first)}
  prepared, _ = policy.prepare(OTHER, scored, rng.stream(rng.root(0), "train", 0), _context())
  _, aux = policy(PARAMS, prepared, _context())
  total, count = aux.metrics["ratio"]
  np.testing.assert_allclose(total / count, 1, atol=1e-5)


def test_coupled_scores_equal_the_vector_and_cover_every_token_twice():
  batch = _rollout(num_prompts=32)
  policy = _policy(grpo.CoupledGRPO, until_eos=False)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), _context())
  noisy, mix = np.asarray(prepared["noisy_tokens"])[..., PROMPT:], np.asarray(prepared["mix"])
  assert noisy.shape[1] == 3 and np.all(noisy[:, 0] == MASK_ID)
  assert np.all((noisy[:, 1] == MASK_ID) ^ (noisy[:, 2] == MASK_ID))
  assert np.all((mix > 0) == (noisy == MASK_ID))
  factor = mix[:, 1].max(axis=1)
  rate = 0.5 / factor[factor > 0]
  assert rate.min() >= 0.2 - 1e-6 and rate.max() <= 0.8 + 1e-6 and rate.std() > 0.1
  # t = 0.6: -2 under the full mask and -1.5 (or -1.2 in the complement) give -2.25 (-2.5).
  np.testing.assert_allclose(0.5 * (-2 + -1.5 / 0.6), -2.25)
  np.testing.assert_allclose(0.5 * (-2 + -1.2 / 0.4), -2.5)
  row = int(np.flatnonzero((noisy[:, 1] == MASK_ID).any(1) & (noisy[:, 2] == MASK_ID).any(1))[0])
  one, two = mix[row, 1].max(), mix[row, 2].max()
  np.testing.assert_allclose(0.5 / one + 0.5 / two, 1, rtol=1e-5)


@pytest.mark.slow
def test_wd1_weighs_log_likelihoods_and_is_silent_where_rewards_are_equal():
  batch = _rollout(num_prompts=2)
  policy = _policy(grpo.WeightedLikelihood, prompt_mask_rate=0.0)
  loss, grads = jax.value_and_grad(lambda p: _loss(policy, p, batch))(PARAMS)
  reward = np.asarray(batch["reward"]).reshape(2, GROUP)
  centred = reward - reward.mean(1, keepdims=True)
  softmax = lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)
  coefficient = (softmax(-centred) - softmax(centred)).reshape(-1)
  tokens = np.asarray(batch["tokens"])
  log_probs = np.asarray(_masked_log_probs(PARAMS, jnp.full((2 * GROUP, ANSWER), MASK_ID),
                                           jnp.asarray(tokens[:, :PROMPT])))
  picked = np.take_along_axis(log_probs, tokens[:, PROMPT:, None], axis=2)[..., 0]
  keep = np.array([[EOS_ID not in row[PROMPT:PROMPT + i] for i in range(ANSWER)] for row in tokens])
  np.testing.assert_allclose(loss, (coefficient[:, None] * picked * keep).sum() / 2, rtol=1e-4)
  assert any(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads))
  batch["reward"] = jnp.ones_like(batch["reward"])
  assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(
      jax.grad(lambda p: _loss(policy, p, batch))(PARAMS)))


@pytest.mark.slow
@pytest.mark.parametrize("cls", [mdpo.MDPO, grpo.CoupledGRPO])
def test_microbatches_accumulate_exactly(cls):
  batch = _rollout(num_prompts=4)
  policy = _policy(cls)
  context = _context(OTHER)
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
    (mdpo.MDPO, {"num_steps": 0}, "num_steps must be positive"),
    (mdpo.MDPO, {"clip": 0.0}, "clip must be positive"),
    (grpo.DiffuGRPO, {"prompt_mask_rate": 1.0}, r"must lie in \[0, 1\)"),
    (grpo.DiffuGRPO, {"advantage": "tail"}, "choose from mean"),
    (grpo.CoupledGRPO, {"min_rate": 0.9}, "0 < min <= max < 1")])
def test_values_without_meaning_are_refused(cls, fields, message):
  with pytest.raises(ValueError, match=message):
    cls(model=MODEL, mask_id=MASK_ID, **({"group_size": GROUP} | fields))


@pytest.mark.parametrize("kind", tiny.mostly_slow([grpo.DiffuGRPO, grpo.CoupledGRPO, mdpo.MDPO],
                                                 [mdpo.MDPO]))
def test_what_was_given_inside_an_answer_is_no_target_and_stays_visible(kind):
  batch = _rollout(num_prompts=3)
  given = np.asarray(batch["tokens"])[:, PROMPT]
  batch["canvas"] = batch["canvas"].at[:, :, 0].set(given[:, None])
  batch["is_free"] = batch["is_free"].at[:, 0].set(False)
  fields = {} if kind is mdpo.MDPO else {"prompt_mask_rate": 0.0}
  policy = _policy(kind, **fields)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), _context())
  noisy = np.asarray(prepared["noisy_tokens"])
  times = len(noisy) // len(given)
  assert np.all(noisy[..., PROMPT] == np.repeat(given, times)[:, None])
  assert np.all(np.asarray(prepared["token_weight"])[:, 0] == 0)
  assert np.any(np.asarray(prepared["token_weight"])[:, 1] > 0)


def test_every_end_token_ends_an_answer():
  batch = _rollout(num_prompts=4)
  batch["tokens"] = batch["tokens"].at[:, PROMPT:].set(1).at[:, PROMPT + 1].set(2)
  policy = grpo.DiffuGRPO(model=MODEL, mask_id=MASK_ID, eos_id=EOS_ID, other_eos_ids=(2,), kl=0.0,
                          group_size=GROUP)
  prepared, _ = policy.prepare(PARAMS, batch, rng.root(0), _context())
  np.testing.assert_array_equal(np.asarray(prepared["token_weight"]) > 0,
                                np.broadcast_to(np.arange(ANSWER) < 2, (len(batch["tokens"]), ANSWER)))
