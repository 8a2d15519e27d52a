"""Rules that go by the confidence, against loops in numpy."""

import numpy as np
import jax
import jax.numpy as jnp
import pytest

from mdx import types
from mdx.samplers import confidence as confidence_lib
from mdx.samplers import decoder

import driving
import oracle

WIDTH = 9
_DRAW = np.random.default_rng(0)
SCORES = _DRAW.random((300, WIDTH)) ** _DRAW.choice([0.05, 0.3, 1.0], (300, 1))
OPEN = _DRAW.random((300, WIDTH)) < 0.8
OPEN[np.arange(300), _DRAW.integers(0, WIDTH, 300)] = True


def _commit(rule, state=None, scores=SCORES, is_open=OPEN, logits=None, **fields):
  sampler = rule(mask_id=driving.MASK_ID, gen_length=WIDTH, steps=WIDTH,
                 **{k: v for k, v in fields.items() if k not in ("index", "probability")})
  proposal = driving.proposal(scores, is_open, logits,
                              **{k: v for k, v in fields.items() if k == "index"})
  written, changes, *_ = jax.jit(lambda s, p: sampler.commit({}, s, p, None))(state or {}, proposal)
  return np.asarray(written), changes


def _by_rows(choose):
  """choose(places in order of confidence, row) -> those that are written."""
  expected = np.zeros(OPEN.shape, bool)
  for row in range(len(OPEN)):
    places = np.flatnonzero(OPEN[row])
    places = places[np.argsort(-SCORES[row, places], kind="stable")]
    expected[row, list(choose(places, row))] = True
  return expected


def test_the_schedule_says_how_many_of_the_surest_are_committed():
  sampler = confidence_lib.Confidence(mask_id=0, gen_length=WIDTH, steps=4, schedule="cosine")
  state = {"count": jnp.asarray(OPEN.sum(axis=1)), "step": jnp.asarray(np.arange(300) % 4),
           "component": jnp.zeros(300, jnp.int32)}
  written, *_ = sampler.commit({}, state, driving.proposal(SCORES, OPEN), None)

  def choose(places, row):
    n, step = len(places), row % 4
    left = [n] + [np.floor(n * max(np.cos(np.pi / 2 * (s + 1) / 4), 1e-6)) for s in range(4)]
    numbers = [int(d) for d in -np.diff(left) if d] if n > 1 else [n]
    return places[:(numbers + [0] * 4)[step]]

  np.testing.assert_array_equal(written, _by_rows(choose))


@pytest.mark.parametrize("threshold", [0.0, 0.7, 0.95, 1.0])
def test_threshold_commits_the_sure_places_and_the_surest(threshold):
  written, *_ = _commit(confidence_lib.Threshold, threshold=threshold)
  np.testing.assert_array_equal(written, _by_rows(lambda places, row: [
      p for i, p in enumerate(places) if i == 0 or np.float32(SCORES[row, p]) >= threshold]))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 20.0])
def test_factor_commits_the_largest_n_within_the_bound(factor):
  written, *_ = _commit(confidence_lib.Factor, factor=factor)

  def choose(places, row):
    passing = [n for n in range(1, len(places) + 1)
               if (n + 1) * (1 - SCORES[row, places[n - 1]]) < factor]
    return places[:max(passing, default=1)]

  np.testing.assert_array_equal(written, _by_rows(choose))
  assert (written.sum(axis=1) > 1).any()


@pytest.mark.parametrize("bound", [0.0, 0.5, 3.0])
def test_entropy_bounded_commits_the_longest_prefix_within_the_bound(bound):
  logits = np.random.default_rng(1).normal(size=(300, WIDTH, 5)) * 3
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  entropy = -(probs * np.log(probs)).sum(-1)
  written, *_ = _commit(confidence_lib.EntropyBounded, logits=logits, entropy_bound=bound)

  def choose(places, row):
    n = 1
    while n < len(places) and (entropy[row, places[:n + 1]].sum()
                               - entropy[row, places[:n + 1]].max()) <= bound:
      n += 1
    return places[:n]

  np.testing.assert_array_equal(written, _by_rows(choose))
  assert bound == 0 or (written.sum(axis=1) > 1).any()


@pytest.mark.parametrize("threshold,low", [(0.9, 0.4), (0.95, 0.0), (1.0, 1.0)])
def test_hierarchical_also_commits_the_best_of_every_run(threshold, low):
  # Places 0..8 of the window are these of the row: runs end at gaps and at closed places.
  index = np.broadcast_to([0, 1, 2, 4, 5, 8, 9, 10, 11], OPEN.shape)
  written, *_ = _commit(confidence_lib.Hierarchical, index=jnp.asarray(index), threshold=threshold,
                       low_threshold=low)

  def choose(places, row):
    chosen = {places[0]} | {p for p in places if np.float32(SCORES[row, p]) >= threshold}
    run = []
    for p in range(WIDTH + 1):
      if run and (p == WIDTH or not OPEN[row, p] or index[row, p] != index[row, run[-1]] + 1):
        best = max(run, key=lambda q: SCORES[row, q])
        chosen |= {best} if SCORES[row, best] > low else set()
        run = []
      if p < WIDTH and OPEN[row, p]:
        run.append(p)
    return chosen

  np.testing.assert_array_equal(written, _by_rows(choose))


def test_the_best_of_a_run_with_ties_is_the_first():
  scores, is_open = np.full((1, WIDTH), 0.6), np.ones((1, WIDTH), bool)
  is_open[0, 4] = False
  written, *_ = _commit(confidence_lib.Hierarchical, scores=scores, is_open=is_open)
  np.testing.assert_array_equal(np.flatnonzero(written), [0, 5])


def _klass_loop(logits, is_open, scores, *, threshold, kl_threshold, kl_steps, top_k, confident):
  """Tokens that KLASS writes at each step, in float64: [T, W]."""
  history, before, out = np.full(WIDTH, -1), [None] * WIDTH, []
  for step in range(len(logits)):
    probs = np.exp(logits[step]) / np.exp(logits[step]).sum(-1, keepdims=True)
    for i in np.flatnonzero(is_open[step]):
      if before[i] is None:
        history[i] = 0
      else:
        kept = np.argsort(-before[i], kind="stable")[:top_k]
        p, q = probs[i, kept], before[i][kept]
        divergence = (p * np.log(p / q)).sum()
        rest = 1 - p.sum(), 1 - q.sum()
        if min(rest) > 1e-9:
          divergence += rest[0] * np.log(rest[0] / rest[1])
        confident.append((divergence, (probs[i] * np.log(probs[i] / before[i])).sum()))
        history[i] = history[i] + 1 if divergence < kl_threshold else 0
      before[i] = probs[i]
    sure = is_open[step] & (scores[step] >= threshold) & (history >= kl_steps)
    if not sure.any() and is_open[step].any():
      sure[max(np.flatnonzero(is_open[step]), key=lambda i: scores[step, i])] = True
    out.append(sure)
  return np.array(out)


@pytest.mark.parametrize("top_k,kl_steps", [(7, 1), (20, 2), (2, 2)])
def test_klass_commits_what_is_sure_and_has_been_stable(top_k, kl_steps):
  draw, steps, rows = np.random.default_rng(3), 9, 12
  base = draw.normal(size=(rows, 1, WIDTH, 7)) * 2
  logits = base + draw.normal(size=(rows, steps, WIDTH, 7)) * 0.12 * draw.choice(
      [0.3, 1, 3], (rows, steps, WIDTH, 1))
  scores = draw.random((rows, steps, WIDTH))
  is_open = np.cumsum(draw.random((rows, steps, WIDTH)) < 0.1, axis=1) == 0
  fields = dict(threshold=0.4, kl_threshold=0.02, kl_steps=kl_steps)
  seen = []
  expected = np.stack([_klass_loop(logits[r], is_open[r], scores[r], top_k=top_k, confident=seen,
                                   **fields) for r in range(rows)])
  sampler = confidence_lib.Klass(mask_id=0, gen_length=WIDTH, kl_top_k=top_k, **fields)
  state = {"canvas": jnp.zeros((rows, WIDTH), jnp.int32)}
  state |= sampler.extras(state, None)
  commit = jax.jit(lambda s, p: sampler.commit({}, s, p, None))
  for step in range(steps):
    written, changes, *_ = commit(state, driving.proposal(scores[:, step], is_open[:, step],
                                                      logits[:, step]))
    state |= changes
    np.testing.assert_array_equal(written, expected[:, step], err_msg=str(step))
  assert (expected.sum(axis=2) > 1).any()
  # Remembering a few tokens bounds the divergence from below.
  kept, true = np.array(seen).T
  assert np.all(kept <= true + 1e-12) and (top_k >= 7) == np.allclose(kept, true)


# What the confidence is taken from.


def _propose(logits, **fields):
  sampler = confidence_lib.Threshold(mask_id=0, eos_id=1, gen_length=4, **fields)
  rows = len(logits)
  positions = jnp.broadcast_to(jnp.arange(4), (rows, 4))
  state = sampler.init(jnp.zeros((rows, 4), jnp.int32), positions, driving.keys(rows))
  update = jax.jit(sampler.update, compiler_options=driving.QUICK)
  answer = types.Answer(jnp.asarray(logits, jnp.float32))
  _, step = update({}, state, positions, answer, driving.keys(rows))
  return jax.device_get(step)


LOGITS = np.random.default_rng(0).normal(size=(400, 4, 6)) * 1.5


def _softmax(logits):
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def _picked(probs, tokens):
  return np.take_along_axis(probs, tokens[..., None], axis=-1)[..., 0]


def _law(temperature, top_k=0, top_p=1.0):
  logits = LOGITS.copy()
  logits[..., 0] = -np.inf  # the mask id
  probs = _softmax(logits / temperature)
  ranked = -np.sort(-probs, axis=-1)
  if top_k:
    probs = np.where(probs >= ranked[..., top_k - 1:top_k], probs, 0)
    probs /= probs.sum(-1, keepdims=True)
    ranked = -np.sort(-probs, axis=-1)
  if top_p < 1:
    num = 1 + (np.cumsum(ranked, axis=-1) < top_p).sum(-1, keepdims=True)
    probs = np.where(probs >= np.take_along_axis(ranked, num - 1, -1), probs, 0)
    probs /= probs.sum(-1, keepdims=True)
  return probs


@pytest.mark.slow
@pytest.mark.parametrize("fields", [dict(temperature=0.6, top_k=2), dict(temperature=1.5, top_p=.6),
                                    dict(temperature=0.7, top_k=4, top_p=0.8)])
def test_filters_act_on_the_draw_and_on_the_confidence_only_if_asked(fields):
  law = _law(**fields)
  for filtered in (False, True):
    step = _propose(LOGITS, confidence_filtered=filtered, **fields)
    probs = _picked(law, step.tokens)
    assert np.all(probs > 0)
    # The mask column counts for the model's own confidence, as in LLaDA.
    np.testing.assert_allclose(step.confidence, probs if filtered else
                               _picked(_softmax(LOGITS), step.tokens), rtol=1e-4)
    np.testing.assert_allclose(step.log_prob, np.log(probs), atol=1e-4)
  assert not np.array_equal(_propose(LOGITS, temperature=1.5).tokens, step.tokens)


@pytest.mark.parametrize("kind", ["margin", "entropy", "random"])
def test_other_confidences_choose_other_places(kind):
  step = _propose(LOGITS, confidence=kind, threshold=1.0)
  probs = _softmax(LOGITS)
  ranked = -np.sort(-probs, axis=-1)
  expected = {"margin": ranked[..., 0] - ranked[..., 1], "random": step.confidence,
              "entropy": (probs * np.log(probs)).sum(-1)}[kind]
  np.testing.assert_allclose(step.confidence, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(step.is_written.argmax(axis=1), expected.argmax(axis=1))
  assert np.all(step.is_written.sum(axis=1) == 1)
  if kind == "random":
    assert oracle.chi_square(np.bincount(step.is_written.argmax(axis=1), minlength=4),
                             np.ones(4)) > 1e-4


# What threshold decoding promises (Wu et al. 2025, arXiv:2505.22618).


def _sharp_joint(eps, length=4, vocab=3, seed=0):
  """A joint over vocab ** length whose place i is token 0 with more than 1 - eps."""
  sequences = np.stack(np.meshgrid(*[np.arange(vocab)] * length, indexing="ij"), -1).reshape(
      -1, length)
  weights = np.random.default_rng(seed).exponential(size=len(sequences))
  weights[0] = 0
  # The mass off the first sequence is less than eps, so every marginal exceeds 1 - eps.
  weights *= 0.99 * eps / weights.sum()
  weights[0] = 1 - weights.sum()
  return sequences, weights


@pytest.mark.parametrize("seed", range(20))
def test_greedy_parallel_equals_greedy_sequential_where_all_marginals_are_sure(seed):
  # (n + 1) eps <= 1 with n = 4 places.
  sequences, probs = _sharp_joint(0.2, seed=seed)
  marginals = np.array([[probs[sequences[:, i] == v].sum() for v in range(3)] for i in range(4)])
  scores = marginals.max(axis=1)
  assert np.all(scores > 0.8)
  sampler = confidence_lib.Factor(mask_id=9, gen_length=4, factor=1.0)
  written, *_ = sampler.commit({}, {}, driving.proposal(scores[None]), None)
  assert np.all(written)
  order = np.random.default_rng(seed).permutation(4)
  known = np.ones(len(probs), bool)
  for i in order:
    best = max(range(3), key=lambda v: probs[known & (sequences[:, i] == v)].sum())
    known &= sequences[:, i] == best
  np.testing.assert_array_equal(sequences[known][0], marginals.argmax(axis=1))


@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_parallel_samples_keep_the_bound_of_total_variation(eps):
  from_joint = []
  for seed in range(10):
    sequences, probs = _sharp_joint(eps, seed=seed)
    marginals = np.array([[probs[sequences[:, i] == v].sum() for v in range(3)] for i in range(4)])
    sampler = confidence_lib.Threshold(mask_id=9, gen_length=4, threshold=1 - eps)
    written, *_ = sampler.commit({}, {}, driving.proposal(marginals.max(axis=1)[None]), None)
    assert np.all(written)  # so the sampler's law is the product of the marginals
    product = np.prod([marginals[i][sequences[:, i]] for i in range(4)], axis=0)
    from_joint.append(0.5 * np.abs(product - probs).sum())
  assert 0 < max(from_joint) < (3 * 4 - 1) * eps / 2


def test_best_of_breaks_ties_by_the_place():
  among = jnp.array([[True, False, True, True]])
  chosen = decoder.best_of(jnp.array([[1.0, 2.0, 2.0, 1.0]]), among, jnp.array([2]))
  np.testing.assert_array_equal(chosen, [[True, False, True, False]])


def test_an_order_with_a_temperature_is_a_draw_without_replacement_by_the_softmax_of_confidence():
  scores, temperature, number = np.array([0.9, 0.5, 0.1, 0.99]), 0.5, 20000
  is_open = np.array([True, True, True, False])
  sampler = confidence_lib.Confidence(mask_id=0, gen_length=4, steps=2, order_temperature=0.5)
  state = {"count": jnp.full(number, 4), "step": jnp.zeros(number, jnp.int32),
           "component": jnp.zeros(number, jnp.int32)}
  rows = lambda x: np.broadcast_to(x, (number, 4))
  proposal = driving.proposal(rows(scores), rows(is_open))
  written = np.asarray(jax.jit(lambda p, k: sampler.commit({}, state, p, k).is_written)(
      proposal, driving.keys(number)))
  weight = np.where(is_open, np.exp(scores / temperature), 0)
  weight /= weight.sum()
  pairs = {(i, j): weight[i] * weight[j] / (1 - weight[i]) + weight[j] * weight[i] / (1 - weight[j])
           for i in range(3) for j in range(i + 1, 3)}
  assert not written[:, 3].any() and np.all(written.sum(axis=1) == 2)
  counts = [(written[:, i] & written[:, j]).sum() for i, j in pairs]
  assert oracle.chi_square(counts, list(pairs.values())) > 1e-3


@pytest.mark.slow
def test_ends_of_text_are_penalised_by_the_share_of_masks_that_is_left():
  canvas = np.where(np.arange(8) < 4, 3, np.zeros((5, 8))).astype(np.int32)
  canvas[1, 5:] = 4  # of row 1 one mask is left, but the others are given: all of its masks
  sampler = confidence_lib.Confidence(mask_id=0, eos_id=1, other_eos_ids=(2,), gen_length=4, steps=4,
                                      eos_penalty=3.0)
  free = canvas == 0
  canvas[2, 4:6] = 5  # of row 2 two of the four are written
  state = {"canvas": jnp.asarray(canvas), "free": jnp.asarray(free), "block": jnp.zeros(5, jnp.int32),
           "block_of": jnp.zeros((5, 8), jnp.int32), "step": jnp.zeros(5, jnp.int32),
           "positions": jnp.broadcast_to(jnp.arange(8), (5, 8)),
           "component": jnp.zeros(5, jnp.int32)}
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 1, driving.VOCAB)), jnp.float32)
  found = sampler.propose({}, state, jnp.full((5, 1), 7), types.Answer(logits), driving.keys(5))
  lost = np.asarray(logits - found.logits)[:, 0]
  np.testing.assert_allclose(lost[:, [1, 2]], np.array([3, 3, 1.5, 3, 3])[:, None] * [1, 1],
                             rtol=1e-5)
  assert not lost[:, 3:].any()


def test_orders_and_penalties_without_meaning_are_refused():
  for fields, message in ((dict(order_temperature=-1.0), "sampler.order_temperature must be at lea"),
                          (dict(eos_penalty=-1.0), "sampler.eos_penalty must be at least 0"),
                          (dict(eos_penalty=1.0), "eos_penalty needs a tokenizer with an end-of")):
    with pytest.raises(ValueError, match=message):
      confidence_lib.Confidence(mask_id=0, gen_length=4, steps=4, **fields)
