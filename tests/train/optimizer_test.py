"""AdamW, Muon, clipping and schedules against hand computation; rules cover everything."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mdx import config as config_lib
from mdx import sharding
from mdx import types
from mdx.networks import presets
from mdx.networks import transformer
from mdx.train import optimizer as optimizer_lib
from mdx.utils import rng
from mdx.utils import tree

NETWORKS = [presets.preset(name) for name in presets.PRESETS] + [
    dict(num_layers=1, width=8, num_heads=2, use_bias=True, norm="layer", position="learned",
         tied=False, head_bias=True, time_conditioning=True)]


def _params():
  return {"model": {"layers": {"mlp": {"up": {"kernel": jnp.asarray([[[3.0, -1.0]]]),
                                              "bias": jnp.asarray([[0.5, 2.0]])}}}}}


def _grads():
  return {"model": {"layers": {"mlp": {"up": {"kernel": jnp.asarray([[[0.3, -2.0]]]),
                                              "bias": jnp.asarray([[1.0, 0.0]])}}}}}


def _rates(steps, **fields):
  rate = optimizer_lib.Optimizer(**fields).rate(steps)
  return np.asarray(jax.vmap(rate)(jnp.arange(steps)))


@pytest.mark.parametrize("fields", NETWORKS)
def test_exactly_one_decay_rule_covers_each_parameter_and_matrices_alone_decay(fields):
  spec = transformer.Transformer(**fields, vocab_size=16)
  params = {"model": jax.eval_shape(spec.network().init, rng.root(0))}
  for path, decayed in tree.flatten(optimizer_lib.decay_mask(params, tiny.PARTS)).items():
    assert decayed == (path.endswith("kernel") or path == "model/embed/embedding"), path


def test_a_part_says_which_of_its_parameters_decay():
  parts = tiny.PARTS | {"value": types.Part(None, decays=lambda path: path == "gain")}
  params = {"model": {"final_norm": {"scale": 0}}, "value": {"gain": 0, "kernel": 0}}
  assert optimizer_lib.decay_mask(params, parts) == {
      "model": {"final_norm": {"scale": False}}, "value": {"gain": True, "kernel": False}}


def test_the_rate_warms_up_linearly_and_ends_at_the_final_rate():
  for schedule, middle in (("linear", 0.6), ("cosine", 0.6), ("constant", 1.0)):
    rates = _rates(111, schedule=schedule, learning_rate=0.5, warmup_steps=10, final_rate=0.2)
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(rates[60], 0.5 * middle, rtol=1e-5)
    final = 1.0 if schedule == "constant" else 0.2
    np.testing.assert_allclose(rates[110], 0.5 * final, rtol=1e-5)
  quarter = _rates(111, schedule="cosine", learning_rate=1.0, warmup_steps=10, final_rate=0.0)[35]
  np.testing.assert_allclose(quarter, (1 + np.cos(np.pi / 4)) / 2, rtol=1e-5)


def test_the_warm_up_is_at_most_a_fifth_of_the_run():
  rates = _rates(50, learning_rate=1.0, warmup_steps=1000)
  np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
  assert rates[9] == rates.max() and (np.diff(rates[10:]) < 0).all()


def test_a_decay_at_last_begins_where_its_share_of_the_steps_is_left():
  options = dict(learning_rate=0.5, warmup_steps=10, final_rate=0.2, decay_share=0.4)
  linear, root = (_rates(100, schedule=name, **options) for name in ("wsd", "wsd_sqrt"))
  done = np.clip((np.arange(100) - 59) / 40, 0, 1)[10:]
  np.testing.assert_allclose(linear[10:], 0.5 * (1 - 0.8 * done), rtol=1e-5)
  np.testing.assert_allclose(root[10:], 0.5 * (1 - 0.8 * np.sqrt(done)), rtol=1e-5)
  np.testing.assert_allclose(linear[:10], 0.05 * np.arange(1, 11), rtol=1e-6)


@pytest.mark.parametrize("schedule", tiny.first(optimizer_lib.SCHEDULES, 3))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_positive_finite_rates_and_start_at_the_peak(schedule, steps):
  rates = _rates(steps, schedule=schedule, learning_rate=0.5, final_rate=0.1, warmup_steps=100)
  assert (rates > 0).all() and rates[0] == 0.5 and rates.dtype == np.float32


def test_one_step_of_adamw_is_the_formula_with_decay_of_matrices_only():
  spec = optimizer_lib.Optimizer(learning_rate=0.1, schedule="constant", warmup_steps=0, b1=0.8,
                                 b2=0.9, eps=1e-3, weight_decay=0.5, clip_norm=0)
  optimizer, params, grads = spec.build(10, tiny.PARTS), _params(), _grads()
  state = optimizer.init(params)
  second = jax.tree.map(lambda g: 0.5 * g, grads)
  moments = jax.tree.map(lambda p: np.zeros((2,) + p.shape), params)
  for count, grad in ((1, grads), (2, second)):
    updates, state = optimizer.update(grad, state, params)
    moments = jax.tree.map(lambda m, g: np.stack([0.8 * m[0] + 0.2 * g, 0.9 * m[1] + 0.1 * g ** 2]),
                           moments, grad)

    flat, flat_moments = tree.flatten(params), tree.flatten(moments)
    for path, update in tree.flatten(updates).items():
      mean, square = flat_moments[path]
      mean, square = mean / (1 - 0.8 ** count), square / (1 - 0.9 ** count)
      decay = 0.5 * flat[path] if path.endswith("kernel") else 0.0
      np.testing.assert_allclose(update, -0.1 * (mean / (np.sqrt(square) + 1e-3) + decay),
                                 rtol=1e-5)


def test_adafactor_is_the_formula_of_its_paper_for_every_layer_with_means_as_its_moments():
  draw = np.random.default_rng(4)
  shapes = {"layers": {"mlp": {"up": {"kernel": (2, 5, 6)}}}, "final_norm": {"scale": (5,)}}
  make = lambda: {"model": jax.tree.map(lambda s: np.float32(draw.normal(size=s)), shapes,
                                        is_leaf=lambda s: isinstance(s, tuple))}
  spec = optimizer_lib.Adafactor(learning_rate=0.1, schedule="constant", warmup_steps=0, clip_norm=0,
                                 weight_decay=0.5, factored_from=4, update_rms=0.7)
  optimizer, params = spec.build(10, tiny.PARTS), make()
  state, rms = optimizer.init(params), lambda x: np.sqrt((x ** 2).mean())
  assert sorted(x.shape for x in jax.tree.leaves(state) if x.size > 2) == [(2, 5), (2, 6), (5,)]
  rows, columns, squares = np.zeros((2, 5, 1)), np.zeros((2, 1, 6)), np.zeros(5)
  for step in (1, 2):
    grads = make()
    updates, state = optimizer.update(grads, state, params)
    keep, flat = 1 - step ** -0.8, tree.flatten(updates)
    kernel, scale = tree.flatten(grads).values()
    kernel, scale = (scale, kernel) if kernel.ndim == 1 else (kernel, scale)
    rows = keep * rows + (1 - keep) * (kernel ** 2).mean(2, keepdims=True)
    columns = keep * columns + (1 - keep) * (kernel ** 2).mean(1, keepdims=True)
    squares = keep * squares + (1 - keep) * scale ** 2
    wanted = [kernel[i] / np.sqrt(rows[i] * columns[i] / rows[i].mean()) for i in range(2)]
    old = params["model"]["layers"]["mlp"]["up"]["kernel"]
    for i, one in enumerate(wanted):
      one = one / max(1, rms(one) / 0.7) * max(rms(old[i]), 1e-3)
      np.testing.assert_allclose(flat["model/layers/mlp/up/kernel"][i], -0.1 * (one + 0.5 * old[i]),
                                 rtol=1e-4)
    one, old = scale / np.sqrt(squares), params["model"]["final_norm"]["scale"]
    one = one / max(1, rms(one) / 0.7) * max(rms(old), 1e-3)
    np.testing.assert_allclose(flat["model/final_norm/scale"], -0.1 * one, rtol=1e-4)


@pytest.mark.parametrize("clip_norm,factor", [(0.5, 0.5 / np.sqrt(5.09)), (3.0, 1.0), (0, 1.0)])
def test_gradients_are_clipped_by_their_global_norm(clip_norm, factor):
  # The norm of all gradients is sqrt(0.09 + 4 + 1). Adam's first moment shows what was passed on.
  optimizer = optimizer_lib.Optimizer(b1=0.0, clip_norm=clip_norm).build(10, tiny.PARTS)
  _, state = optimizer.update(_grads(), optimizer.init(_params()), _params())
  moments = {p: x for p, x in tree.flatten(state).items() if "/mu/" in p}
  assert len(moments) == 2
  for path, moment in moments.items():
    grad = tree.flatten(_grads())[path.split("/mu/")[1]]
    np.testing.assert_allclose(moment, factor * grad, rtol=1e-5)


@functools.cache
def _model():
  """Stacked and unrolled parameters of three layers with every kind of leaf."""
  spec = transformer.Transformer(
      num_layers=3, width=16, num_heads=2, mlp_width=24, vocab_size=16, tied=False, norm="layer",
      use_bias=True, head_bias=True, position="learned", max_length=8, time_conditioning=True,
      scan_layers=False)
  network = spec.network()
  params = jax.jit(network.init)(rng.root(0))
  draw = np.random.default_rng(0)
  stacked = jax.tree.map(lambda x: np.float32(draw.normal(size=x.shape)), params)
  return {"model": stacked}, lambda tree: {**tree, "model": network.unstack(tree["model"])}


def _gradients(params, step):
  draw = np.random.default_rng(step + 1)
  return jax.tree.map(lambda x: np.float32(draw.normal(size=x.shape)), params)


@functools.partial(jax.jit, static_argnums=0)
def _updated(spec, grads, state, params):
  return spec.build(10, tiny.PARTS).update(grads, state, params)


OPTIMIZERS = [optimizer_lib.Optimizer(layer_decay=0.7, warmup_steps=0, weight_decay=0.1),
              optimizer_lib.Muon(layer_decay=0.7, warmup_steps=0, weight_decay=0.1)]
FACTORED = optimizer_lib.Adafactor(layer_decay=0.7, warmup_steps=0, weight_decay=0.1,
                                   factored_from=8, update_rms=0.9)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*OPTIMIZERS, FACTORED])
def test_stacked_and_unrolled_layers_get_the_same_steps(spec):
  params, unstack = _model()
  flat_params, scale = unstack(params), spec.learning_rate
  state, flat_state = spec.build(10, tiny.PARTS).init(params), spec.build(10, tiny.PARTS).init(flat_params)
  for step in range(2):
    grads = _gradients(params, step)
    updates, state = _updated(spec, grads, state, params)
    flat_updates, flat_state = _updated(spec, unstack(grads), flat_state, flat_params)
    expected = tree.flatten(unstack(updates))
    assert "model/layers_2/mlp/up/kernel" in expected
    for path, update in tree.flatten(flat_updates).items():
      np.testing.assert_allclose(update / scale, expected[path] / scale, rtol=1e-6, atol=1e-6,
                                 err_msg=path)


@pytest.mark.parametrize("spec", tiny.mostly_slow(OPTIMIZERS, OPTIMIZERS[:1]))
@pytest.mark.slow
def test_layer_decay_multiplies_steps_and_weight_decay_by_exact_powers(spec):
  params, _ = _model()
  plain = dataclasses.replace(spec, layer_decay=1.0)
  grads = _gradients(params, 0)
  found, _ = _updated(spec, grads, spec.build(10, tiny.PARTS).init(params), params)
  whole, _ = _updated(plain, grads, plain.build(10, tiny.PARTS).init(params), params)
  whole = tree.flatten(whole)
  for path, update in tree.flatten(found).items():
    power = np.float32(1)
    if "embed" in path:
      power = np.float32(0.7 ** 5)
    elif "/layers/" in path:
      power = np.float32([0.7 ** 4, 0.7 ** 3, 0.7 ** 2]).reshape((3,) + (1,) * (update.ndim - 1))
    np.testing.assert_allclose(update, power * whole[path], rtol=1e-6, err_msg=path)


def test_parts_count_the_layers_of_their_own_network_and_muon_takes_their_layers_matrices_only():
  layers = lambda n: {"mlp": {"up": {"kernel": jnp.ones((n, 2, 2))}}}
  params = {
      "model": {"layers": layers(4), "rtd_head": {"kernel": jnp.ones((2, 1))},
                "embed_project": {"kernel": jnp.ones((2, 2))}},
      "generator": {"layers": layers(2), "embed": {"embedding": jnp.ones((3, 2))},
                    "lm_head": {"bias": jnp.ones(3)}},
      "shared": {"embed": {"embedding": jnp.ones((3, 2))}},
      "schedule": {"exponent": jnp.ones(3)}}
  found = {path: np.ravel(x).tolist()
           for path, x in tree.flatten(optimizer_lib.layer_factors(params, 0.5)).items()}
  assert found == {
      # optimization.py of ELECTRA: depth 0 the embeddings, i + 1 layer i, n + 2 what is on top;
      # the rate is decay ** (n + 2 - depth).
      "model/layers/mlp/up/kernel": [1 / 32, 1 / 16, 1 / 8, 1 / 4], "model/rtd_head/kernel": [1.0],
      "model/embed_project/kernel": [1 / 64], "generator/layers/mlp/up/kernel": [1 / 8, 1 / 4],
      "generator/embed/embedding": [1 / 16], "generator/lm_head/bias": [1.0],
      "shared/embed/embedding": [1 / 64], "schedule/exponent": [1.0]}
  matrices = [path for path, x in tree.flatten(optimizer_lib.is_matrix(params)).items() if x]
  assert matrices == ["generator/layers/mlp/up/kernel", "model/layers/mlp/up/kernel"]
  assert {np.ravel(x).tolist()[0] for x in jax.tree.leaves(
      optimizer_lib.layer_factors(params, 1.0))} == {1.0}


def test_muons_later_steps_are_those_of_the_published_code():
  draw = np.random.default_rng(0)
  params = {"model": {"layers": {"kernel": jnp.zeros((2, 6, 4))}}}
  spec = optimizer_lib.Muon(learning_rate=1.0, schedule="constant", warmup_steps=0, clip_norm=0,
                            weight_decay=0.0, rms=0.5, momentum=0.9)
  state = spec.build(10, tiny.PARTS).init(params)
  buffer = np.zeros((2, 6, 4))
  for step in range(4):
    gradient = draw.normal(size=buffer.shape) * 10.0 ** step
    updates, state = _updated(spec, {"model": {"layers": {"kernel": jnp.float32(gradient)}}}, state,
                              params)
    buffer = 0.9 * buffer + gradient  # Liu et al. 2025: buf.mul_(momentum).add_(g)
    ahead = gradient + 0.9 * buffer  # g.add(buf, alpha=momentum)
    for found, matrix in zip(-updates["model"]["layers"]["kernel"], ahead):
      np.testing.assert_allclose(found, 0.5 * 6 ** 0.5 * _newton_schulz(matrix), atol=2e-4)


def _newton_schulz(matrix):
  """Five iterations of the published coefficients, on the wide matrix."""
  x = matrix.T / np.linalg.norm(matrix)
  for _ in range(5):
    square = x @ x.T
    x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
  return x.T


def _of_known_spectrum(x):
  """Singular values from 0.2 to 1, and layers of very different size."""
  if x.ndim < 3:
    return x
  left, values, right = np.linalg.svd(x, full_matrices=False)
  return (left * np.linspace(1, 0.2, values.shape[-1], dtype=np.float32)) @ right * np.float32(
      [[[1e-2]], [[1]], [[1e2]]])


@pytest.mark.slow
def test_muons_steps_of_every_layer_are_orthogonal_with_adamws_size_and_the_rest_is_adamws():
  params, _ = _model()
  spec = optimizer_lib.Muon(learning_rate=0.5, schedule="constant", warmup_steps=0,
                            weight_decay=0.1, rms=0.3, clip_norm=0)
  grads = jax.tree.map(_of_known_spectrum, _gradients(params, 0))
  updates, state = _updated(spec, grads, spec.build(10, tiny.PARTS).init(params), params)
  adamw = optimizer_lib.Optimizer(learning_rate=0.5, schedule="constant", warmup_steps=0,
                                  weight_decay=0.1, clip_norm=0)
  others, _ = _updated(adamw, grads, adamw.build(10, tiny.PARTS).init(params), params)
  updates, others, flat = tree.flatten(updates), tree.flatten(others), tree.flatten(params)
  gradients, matrices = tree.flatten(grads), 0
  for path, update in updates.items():
    if not ("/layers/" in path and path.endswith("kernel")):
      np.testing.assert_array_equal(update, others[path], err_msg=path)
      continue
    matrices += 1
    direction = update / -0.5 - 0.1 * flat[path]
    size = 0.3 * np.sqrt(max(direction.shape[1:]))
    for layer, gradient in zip(direction, gradients[path]):
      values = np.linalg.svd(layer / size, compute_uv=False)
      assert 0.65 < values.min() and values.max() < 1.25, path
      # In the first step momentum is the gradient, whose nearest orthogonal matrix this is.
      left, _, right = np.linalg.svd(gradient, full_matrices=False)
      assert np.vdot(layer / size, left @ right) > 0.99 * values.sum(), path
  assert matrices == 8
  # Constants are no state: everything in it is shaped like a parameter, or a count.
  shapes = {x.shape for x in flat.values()} | {()}
  assert {x.shape for x in jax.tree.leaves(state)} <= shapes


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*OPTIMIZERS, FACTORED])
def test_sharded_parameters_and_moments_get_the_steps_of_one_device(spec):
  params, _ = _model()
  grads = _gradients(params, 0)
  state = jax.jit(spec.build(10, tiny.PARTS).init)(params)
  expected, _ = _updated(spec, grads, state, params)
  mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
  jax.set_mesh(mesh)
  structs = sharding.with_shardings(jax.eval_shape(lambda x: x, params), tiny.PARTS, mesh)
  place = jax.tree.map(lambda x: x.sharding, structs)
  cut = sharding.state_sharding(jax.eval_shape(lambda x: x, state), params, tiny.PARTS, mesh)
  moments = [x for path, x in tree.flatten(cut).items() if "/mu/" in path and "mlp/up/k" in path]
  whole = place["model"]["layers"]["mlp"]["up"]["kernel"].spec
  assert [x.spec for x in moments] == ([] if spec is FACTORED else [whole])
  found, _ = jax.jit(spec.build(10, tiny.PARTS).update, out_shardings=(place, cut))(
      jax.device_put(grads, place), jax.device_put(state, cut), jax.device_put(params, place))
  for path, update in tree.flatten(found).items():
    np.testing.assert_allclose(update, tree.flatten(expected)[path], rtol=1e-5, atol=1e-8,
                               err_msg=path)


@pytest.mark.parametrize("fields,message", [
    (dict(schedule="step"), "optimizer.schedule is 'step'; choose from constant, linear, cosine, wsd"),
    (dict(learning_rate=0.0), "learning_rate must lie in (0, inf), got 0.0"),
    (dict(b2=1.0), "b2 must lie in [0, 1), got 1.0"),
    (dict(clip_norm=-1.0), "optimizer.clip_norm must be at least 0, got -1.0"),
    (dict(warmup_steps=-5), "optimizer.warmup_steps must be at least 0, got -5"),
    (dict(layer_decay=0.0), "layer_decay must lie in (0, 1], got 0.0"),
    (dict(layer_decay=1.5), "layer_decay must lie in (0, 1], got 1.5"),
    (dict(name="muon", momentum=1.0), "momentum must lie in [0, 1), got 1.0"),
    (dict(name="adafactor", b2=0.99), "optimizer.b2 is 0.99, which adafactor does not read; leave"),
    (dict(name="adafactor", moment_power=0.0), "moment_power must lie in (0, inf), got 0.0"),
    (dict(name="adafactor", factored_from=0), "optimizer.factored_from must be at least 1, got 0"),
    (dict(name="muon", rms=0.0), "rms must lie in (0, inf), got 0.0"),
])
def test_a_wrong_field_is_refused_in_one_line(fields, message):
  with pytest.raises(ValueError, match=re.escape(message)) as error:
    config_lib.build(optimizer_lib.OPTIMIZERS, {"name": "adamw"} | fields)
  assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_selection_trains_some_layers_at_some_steps(monkeypatch):
  def turns(path, leaf, step):
    layers = jnp.arange(leaf.shape[0]) % 2 == step % 2
    return layers.astype(jnp.float32).reshape((-1,) + (1,) * (leaf.ndim - 1))

  monkeypatch.setitem(optimizer_lib.SELECTIONS, "turns", turns)
  spec = optimizer_lib.Optimizer(selection="turns", clip_norm=0.0, weight_decay=0.1,
                                 schedule="constant", warmup_steps=0)
  params = {"model": {"layers": {"mlp": {"up": {"kernel": jnp.ones((4, 2, 3))}}}}}
  transform = spec.build(10, tiny.PARTS)
  state, moved = transform.init(params), []
  for _ in range(2):
    updates, state = transform.update(params, state, params)
    moved.append(np.any(updates["model"]["layers"]["mlp"]["up"]["kernel"] != 0, axis=(1, 2)))
  np.testing.assert_array_equal(moved, [[True, False, True, False], [False, True, False, True]])
  with pytest.raises(ValueError, match="optimizer.selection is 'turn'; choose from all, turns"):
    optimizer_lib.Optimizer(selection="turn")
  frozen = optimizer_lib.Optimizer(trainable="model/a")
  assert frozen.share("model/b", jnp.ones(2), 0) == 0 and frozen.share("model/a", None, 0) == 1
