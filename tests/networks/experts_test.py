"""Mixtures of experts: routing and sums by their definitions, balance, meshes, caches, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdx import objectives
from mdx import sharding
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import attention
from mdx.networks import experts as experts_lib
from mdx.networks import transformer
from mdx.train import optimizer
from mdx.train import step as step_lib
from mdx.utils import rng

import tiny

OWN = dict(number=6, per_token=2, width=5)
SPEC = dict(num_layers=3, width=16, num_heads=2, mlp_width=24, max_length=12, vocab_size=20)
GROUPED = dict(number=8, per_token=3, width=8, router="sigmoid", groups=4, groups_per_token=2,
               has_bias=True, scale=2.5, shared_width=6, first_dense=1, balance=0.1, z=0.01,
               bias_rate=0.5)


def _spec(own, **fields):
  return transformer.Transformer(**SPEC | fields, experts=own)


def _draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def _choice(own, x, seed=1):
  return experts_lib.choose(own, x @ _draw(x.shape[-1], own.number, seed=seed), None)


@pytest.mark.parametrize("is_gated", [True, False])
def test_the_mixture_is_the_weighted_sum_of_the_chosen_experts(is_gated):
  own = experts_lib.Experts(**OWN)
  x, shape = _draw(3, 7, 4), (own.number, 4, own.width)
  kernels = [_draw(*shape, seed=i) for i in range(2 if is_gated else 1)]
  kernels.append(_draw(own.number, own.width, 4, seed=9))
  choice = _choice(own, x)
  have = jax.jit(lambda *args: experts_lib.mix(*args, jax.nn.silu))(x, choice, tuple(kernels))
  want = np.zeros(x.shape)
  for place in np.ndindex(3, 7):
    for expert, weight in zip(choice.index[place], choice.weight[place]):
      up, *gate, down = (np.asarray(kernel[expert], np.float64) for kernel in kernels)
      row, silu = np.asarray(x[place], np.float64), lambda y: y / (1 + np.exp(-y))
      hidden = silu(row @ gate[0]) * (row @ up) if gate else silu(row @ up)
      want[place] += float(weight) * (hidden @ down)
  np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.parametrize("sizes", [(5, 0, 16, 1), (0, 0, 0, 22), (22, 0, 0, 0)])
def test_tiles_compute_what_the_ragged_matmul_computes_and_its_gradient(sizes):
  rows, kernels, sizes = _draw(22, 6), _draw(4, 6, 3), jnp.array(sizes)
  of = lambda dot: jax.jit(jax.value_and_grad(
      lambda *args: jnp.sin(dot(*args, sizes)).sum(), argnums=(0, 1)))(rows, kernels)
  for have, want in zip(*map(jax.tree.leaves, map(of, (experts_lib._tiled, jax.lax.ragged_dot)))):
    np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.slow
def test_megablox_computes_what_the_ragged_matmul_computes_and_its_gradient():
  rows, kernels, sizes = _draw(128, 128), _draw(3, 128, 128), jnp.array([70, 0, 58])
  of = lambda dot: jax.value_and_grad(
      lambda *args: jnp.sin(dot(*args, sizes)).sum(), argnums=(0, 1))(rows, kernels)
  emulated = functools.partial(experts_lib.megablox, interpret=True)
  for have, want in zip(*map(jax.tree.leaves, map(of, (emulated, jax.lax.ragged_dot)))):
    np.testing.assert_allclose(have, want, atol=2e-4)
  with pytest.raises(ValueError, match="a multiple of 128 tokens .* got 100; change"):
    experts_lib.megablox(rows[:100], kernels, sizes)


def test_experts_are_chosen_in_the_best_groups_by_biased_scores_and_weighed_by_plain_ones():
  own = experts_lib.Experts(**GROUPED)
  logits, bias = _draw(40, 8), _draw(8, seed=3)
  have = experts_lib.choose(own, logits, bias)
  for row, index, weight in zip(np.asarray(logits), have.index, have.weight):
    scores = 1 / (1 + np.exp(-row))
    ranked = scores + np.asarray(bias)
    value = [np.sort(ranked[2 * g:2 * g + 2]).sum() for g in range(4)]
    allowed = [e for e in range(8) if e // 2 in np.argsort(value)[-2:]]
    best = sorted(allowed, key=lambda e: -ranked[e])[:3]
    assert list(index) == best
    np.testing.assert_allclose(weight, 2.5 * scores[best] / scores[best].sum(), rtol=1e-5)


@pytest.mark.slow
def test_balance_is_one_where_all_is_equal_and_the_gradient_of_the_bias_is_the_excess_load():
  own = experts_lib.Experts(number=4, per_token=1, width=1, balance=1.0)
  rows = jnp.eye(4)[None]  # each token to an expert of its own, with equal mean scores
  even = experts_lib.load_of(own, experts_lib.choose(own, rows, None), None, None)
  np.testing.assert_allclose(even.balance, 1.0, rtol=1e-6)
  one = jnp.zeros((1, 4, 4)).at[..., 2].set(9.0)
  load = lambda bias, real=None: experts_lib.load_of(
      own, experts_lib.choose(own, one, None), bias, real)
  np.testing.assert_allclose(load(None).balance, 4 * jax.nn.softmax(one[0, 0])[2], rtol=1e-6)
  np.testing.assert_allclose(load(None).z, jax.nn.logsumexp(one[0, 0]) ** 2, rtol=1e-6)
  np.testing.assert_allclose(jax.grad(lambda bias: load(bias).bias.sum())(jnp.zeros(4)),
                             [-0.25, -0.25, 0.75, -0.25])
  mixed = jnp.concatenate([rows, one], axis=1)
  real = jnp.arange(8)[None] < 4
  padded = experts_lib.load_of(own, experts_lib.choose(own, mixed, None), None, real)
  np.testing.assert_allclose(padded.balance, 1.0, rtol=1e-6)


def _objective(own, **fields):
  tokenizer = tokenizer_lib.build("symbols:a b c d e f g h")
  return objectives.build(dict(name="diffusion"), _spec(own, **fields).network(), tokenizer)


def _gradient(objective, params, num_microbatches, mesh=None):
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 8, (8, 12)), jnp.int32)
  segments = jnp.ones_like(tokens).at[3, 5:].set(0)
  batch = dict(tokens=tokens, loss_mask=segments > 0, segment_ids=segments,
               example_index=jnp.arange(8))
  if mesh is not None:
    batch = sharding.place_batch(batch, mesh)

  @jax.jit
  def run(params, batch):
    context = types.context(0)
    batch, weights = objective.prepare(params, batch, rng.root(1), context)
    return step_lib.loss_and_grad(objective, params, batch, weights, context, num_microbatches)

  return run(params, batch)


def _same(have, want):
  np.testing.assert_allclose(have[0], want[0], rtol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6, rtol=1e-4), have[2],
               want[2])


@pytest.mark.slow
def test_the_loss_of_the_router_is_added_once_whatever_the_microbatches():
  objective = _objective(GROUPED)
  params = objective.init(rng.root(0))
  whole = loss, aux, grads = _gradient(objective, params, 1)
  total, weight = aux.metrics["router_balance"]
  assert 0.9 < total / weight < 4
  bare = _gradient(_objective(GROUPED | dict(balance=0.0, z=0.0, bias_rate=0.0)), params, 1)
  added = float(total / weight * 0.1 + aux.metrics["router_z"][0] * 0.01)
  np.testing.assert_allclose(loss - bare[0], added, rtol=1e-4)
  bias = grads["model"]["layers"]["mlp"]["router"]["bias"]
  assert jnp.abs(bias).max() > 1e-4 and jnp.abs(bias.sum()) < 1e-6
  _same(_gradient(objective, params, 4), whole)


@pytest.mark.slow
def test_a_mesh_changes_neither_the_loss_nor_the_gradient_of_experts():
  objective = _objective(GROUPED)
  params = objective.init(rng.root(0))
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2), jax.devices())
  with jax.set_mesh(mesh):
    shapes = sharding.with_shardings(jax.eval_shape(lambda: params), objective.parts(), mesh)
    placed = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, shapes)
    sharded = _gradient(objective, placed, 2, mesh)
  _same(sharded, _gradient(objective, params, 1))


@pytest.mark.parametrize("own", tiny.first([OWN, GROUPED], 1))
@pytest.mark.slow
def test_unstacked_scanned_and_cached_blocks_agree(own):
  specs = [_spec(own, scan_layers=flag, remat=remat) for flag, remat in (
      (True, "full"), (False, "none"))]
  params = specs[0].network().init(rng.root(0))
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20, (2, 12)), jnp.int32)
  networks = [spec.network() for spec in specs]
  run = lambda network, tokens, **options: jax.jit(
      lambda params, cache: network.encode(params, types.Inputs(tokens), cache=cache,
                                           attention=attention.Causal(), **options))
  full = [run(network, tokens, keep_layers=True)(network.unstack(params), ())
          for network in networks]
  np.testing.assert_allclose(full[0].last, full[1].last, atol=1e-5)
  np.testing.assert_allclose(full[0].layers, full[1].layers, atol=1e-5)
  for network, out in zip(networks, full):
    slots = jnp.broadcast_to(jnp.arange(8, 12), (2, 4))
    again = run(network, tokens[:, 8:], slots=slots)(network.unstack(params), out.cache)
    np.testing.assert_allclose(again.last, out.last[:, 8:], atol=1e-5)


@pytest.mark.slow
def test_training_with_the_balance_loss_evens_the_load():
  """One step of descent on the balance alone lowers it."""
  objective = _objective(OWN | dict(balance=1.0))
  params = objective.init(rng.root(0))
  _, before, grads = _gradient(objective, params, 1)
  router = jax.tree_util.tree_map_with_path(
      lambda path, x: x if "router" in jax.tree_util.keystr(path) else jnp.zeros_like(x), grads)
  moved = optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g / optax.tree.norm(router),
                                                   router))
  _, after, _ = _gradient(objective, moved, 1)
  assert after.metrics["router_balance"][0] < before.metrics["router_balance"][0]


def test_rates_decay_from_the_head_through_both_stacks():
  params = {"model": {"layers": {"mlp": {"kernel": jnp.zeros((2, 3))}},
                      "first_layers": {"mlp": {"kernel": jnp.zeros((1, 3))}}}}
  factors = optimizer.layer_factors(params, 0.5)["model"]
  np.testing.assert_allclose(np.ravel(factors["layers"]["mlp"]["kernel"]), [0.125, 0.25])
  np.testing.assert_allclose(np.ravel(factors["first_layers"]["mlp"]["kernel"]), [0.0625])


def test_flops_count_the_experts_of_a_token_alone():
  dense = _spec(None).matmul_params()
  mixed = _spec(GROUPED).matmul_params()
  mlp, own = 3 * 16 * 24, 3 * 16 * (3 * 8 + 6) + 16 * 8
  assert mixed - dense == 2 * (own - mlp)


@pytest.mark.parametrize("changes, message", [
    (dict(per_token=9), "per_token 9 exceeds the 8 experts"),
    (dict(groups=3), "groups 3 do not divide the 8 experts"),
    (dict(groups=8), "have one expert each"),
    (dict(groups_per_token=5), "groups_per_token 5 exceeds the 4 groups"),
    (dict(per_token=5), "per_token 5 exceeds the 4 experts of a token's groups"),
    (dict(has_bias=False), "bias_rate needs has_bias"),
    (dict(router="hash"), "choose from softmax, sigmoid"),
    (dict(backend="cutlass"), "choose from xla, megablox"),
    (dict(first_dense=3), "first_dense leaves none of the 3 layers"),
    (dict(sise=3), "has no field 'sise'")])
def test_experts_that_cannot_be_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _spec(GROUPED | changes)


@pytest.mark.parametrize("fields, message", [
    (dict(use_bias=True), "experts have no biases"),
    (dict(adaptations=(dict(name="lora", rank=2, targets=("up",)),)), "take no adaptations of gate"),
    (dict(experts=7), "expected a table of fields")])
def test_networks_that_experts_exclude_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    transformer.Transformer(**SPEC | dict(experts=OWN) | fields)


def test_a_kernel_of_another_machine_is_refused():
  with pytest.raises(ValueError, match="megablox needs a TPU, and this is for a CPU; use xla"):
    _spec(OWN | dict(backend="megablox")).network()


def test_a_share_of_the_network_has_a_share_of_each_expert():
  half = _spec(GROUPED, tied=False).scaled(0.5)
  assert (half.experts.number, half.experts.width, half.experts.shared_width) == (8, 4, 3)
  assert dataclasses.replace(half, experts=None).experts is None
