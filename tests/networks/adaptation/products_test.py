"""VeRA, AdaLoRA and Kronecker products against their formulas, and starts of LoRA from kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import sharding
from mdx import types
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks.adaptation import dora
from mdx.networks.adaptation import int8
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import products
from mdx.networks.adaptation import sites
from mdx.objectives.tokens import mlm
from mdx.train import optimizer as optimizer_lib
from mdx.train import state as state_lib
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

DRAW = np.random.default_rng(0)
KERNEL = DRAW.normal(size=(12, 8)).astype(np.float32)


def _spec(*adaptations, **fields):
  return transformer.Transformer(**dict(
      num_layers=2, width=8, num_heads=2, mlp_width=12, vocab_size=11, adaptations=adaptations)
                                 | fields)


@pytest.mark.slow
def test_the_matrices_of_vera_are_cut_from_one_draw_and_are_no_parameters():
  one = products.VeRA(rank=3, seed=4)
  a, b = one.draws(12, 8)
  small_a, small_b = one.draws(5, 2)
  np.testing.assert_allclose(small_a * 5 ** 0.5, a[:5] * 12 ** 0.5, rtol=1e-6)
  np.testing.assert_allclose(small_b, b[:, :2], rtol=1e-6)
  assert 0.9 < np.abs(a).max() / (6 / 12) ** 0.5 <= 1
  assert np.abs(products.VeRA(rank=3, seed=5).draws(12, 8)[0] - a).max() > 0.1
  own = {"vera_d": jnp.array([1.0, 0.0, 2.0]), "vera_b": jnp.arange(8.0)}
  want = KERNEL + np.asarray(a) @ np.diag([1, 0, 2]) @ np.asarray(b) @ np.diag(np.arange(8))
  np.testing.assert_allclose(one.merged(own, KERNEL), want, atol=1e-5)
  assert [leaf.shape for leaf in one.leaves((12, 8), (None, None)).values()] == [(3,), (8,)]


def test_a_kronecker_product_is_that_of_numpy():
  own = dict(krona_a=DRAW.normal(size=(3, 2)).astype(np.float32),
             krona_b=DRAW.normal(size=(4, 4)).astype(np.float32))
  one, x = products.KronA(rows=3, columns=2, scale=0.5), DRAW.normal(size=(2, 5, 12))
  want = 0.5 * np.kron(own["krona_a"], own["krona_b"])
  np.testing.assert_allclose(one.merged(own, KERNEL), KERNEL + want, atol=1e-5)
  np.testing.assert_allclose(one.output(own, x, np.zeros((2, 5, 8))), x @ want, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_takes_from_the_kernel_what_its_product_gives_back(start):
  one = lora.LoRA(rank=3, alpha=6.0, start=start)
  own, left = one.started({}, KERNEL)
  np.testing.assert_allclose(left + 2 * own["lora_a"] @ own["lora_b"], KERNEL, atol=1e-5)
  np.testing.assert_allclose(one.merged(own, left), KERNEL, atol=1e-5)
  if start == "pissa":  # the rest has the other singular values
    values = np.linalg.svd(KERNEL, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(left, compute_uv=False)[:5], values[3:], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(own["lora_a"], axis=0),
                               np.linalg.norm(own["lora_b"], axis=1), rtol=1e-5)
  else:  # the columns of an orthonormal basis
    np.testing.assert_allclose(own["lora_b"] @ own["lora_b"].T, np.eye(3), atol=1e-5)


@pytest.mark.slow
def test_new_parameters_alone_take_their_start_and_the_function_stays():
  put = lora.LoRA(rank=2, start="pissa", targets=("q", "down"))
  plain, spec = _spec(), _spec(put)
  base = plain.network().init(rng.root(0))
  kernels = {path for path in tree.flatten(base) if "/q/kernel" in path or "/down/kernel" in path}
  assert len(kernels) == 2
  shapes = {f"{path.removesuffix('kernel')}{name}": jax.ShapeDtypeStruct(
      (2, *(KERNEL.shape if "down" in path else (8, 8))[:1], 2) if name == "lora_a" else (2, 2, 8),
      jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
            for path in kernels for name in ("lora_a", "lora_b")}
  new = sites.fresh(tree.nest(shapes), (put,), 0)
  whole = sites.started(tree.merge(base, new), (put,))
  run = lambda spec, params: jax.jit(lambda params: spec.network().encode(
      params, types.Inputs(jnp.arange(10).reshape(2, 5)), attention=attention.Full()).last)(params)
  np.testing.assert_allclose(run(spec, whole), run(plain, base), atol=1e-5)
  for path, leaf in tree.flatten(base).items():
    same = np.array_equal(tree.flatten(whole)[path], leaf)
    assert same != (path in kernels), path
  again = sites.started(whole, (put,), lambda path: False)
  assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(whole)))
  with pytest.raises(ValueError, match="LoRA starts from the kernels, and those of layers/"):
    sites.started(new, (put,))


def test_the_budget_of_adalora_at_its_knees():
  one = products.AdaLoRA(rank=12, target_rank=4, steps=100, first_steps=10, last_steps=30)
  got = [float(one.budget(step)) for step in (0, 10, 40, 70, 99)]
  np.testing.assert_allclose(got, [12, 12, 4 + 8 * 0.5 ** 3, 4, 4], rtol=1e-6)


@pytest.mark.slow
def test_a_step_of_adalora_keeps_the_most_important_triples_of_all_maps():
  one = products.AdaLoRA(rank=2, target_rank=1, steps=3, first_steps=0, last_steps=1, beta=0.5)
  names = ("svd_a", "svd_e", "svd_b")
  shapes = dict(svd_a=(1, 3, 2), svd_e=(1, 2), svd_b=(1, 2, 4))
  draw = lambda shape: DRAW.normal(size=shape).astype(np.float32)
  owned = {site: {name: draw(shapes[name]) for name in names}
           | {f"{name}_{of}": np.abs(draw(shapes[name])) for name in names
              for of in ("mean", "deviation")} for site in ("q", "v")}
  grads = {site: {name: draw(shapes[name]) for name in names} for site in ("q", "v")}
  found = one.stepped(owned, grads, jnp.int32(2))  # half of the four triples stay
  scores = {}
  for site, own in owned.items():
    score = {}
    for name in names:
      importance = np.abs(own[name] * grads[site][name])
      mean = 0.5 * own[f"{name}_mean"] + 0.5 * importance
      deviation = 0.5 * own[f"{name}_deviation"] + 0.5 * np.abs(importance - mean)
      np.testing.assert_allclose(found[site][f"{name}_mean"], mean, rtol=1e-6)
      np.testing.assert_allclose(found[site][f"{name}_deviation"], deviation, rtol=1e-5)
      score[name] = mean * deviation
    scores |= {(site, k): score["svd_e"][0, k] + score["svd_a"][0, :, k].mean()
               + score["svd_b"][0, k].mean() for k in range(2)}
  best = sorted(scores, key=scores.get)[-2:]
  for site, k in scores:
    want = owned[site]["svd_e"][0, k] if (site, k) in best else 0.0
    assert found[site]["svd_e"][0, k] == want
  # Orthogonal vectors cost nothing.
  eye = dict(svd_a=jnp.eye(3, 2)[None], svd_b=jnp.eye(2, 4)[None])
  one = products.AdaLoRA(rank=2, target_rank=1, targets=("q",), orthogonal=0.5)
  assert float(one.penalty(eye, jnp.zeros((1, 3, 4)))[0]) < 1e-5
  double = dict(eye, svd_a=2 * eye["svd_a"])  # A'A - I is 3 I
  np.testing.assert_allclose(one.penalty(double, jnp.zeros((1, 3, 4))), [0.25 * 18 ** 0.5],
                             rtol=1e-5)


@pytest.mark.slow
def test_a_training_step_moves_what_an_adaptation_keeps_beside_its_parameters():
  put = products.AdaLoRA(rank=4, target_rank=1, steps=4, first_steps=0, last_steps=2, beta=0.5,
                         targets=("q",))
  spec = _spec(put)
  objective = mlm.MaskedLM(network=spec.network(), mask_id=10, mask_rate=0.4)
  rule = optimizer_lib.Optimizer(learning_rate=1e-2, trainable=sites.pattern(put), clip_norm=0.0)
  mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    optimizer = rule.build(4, objective.parts())
    state = state_lib.create(state_lib.init_fn(objective, optimizer, keep_ema=True,
                                               trains=rule.trains), rng.root(0),
                             objective.parts(), mesh)
    batch = dict(tokens=jnp.arange(12).reshape(2, 6) % 10, segment_ids=jnp.ones((2, 6), jnp.int32),
                 example_index=jnp.arange(2))
    step = step_lib.jitted(objective, optimizer, state, dict(seed=0, microbatches=1, ema_decay=0.9),
                           rate=rule.rate(4), trains=rule.trains)
    before = jax.device_get(state.params["model"]["layers"]["attention"]["q"])
    for _ in range(3):
      state, metrics = step(state, batch, {})
  after = jax.device_get(state.params["model"]["layers"]["attention"]["q"])
  assert all(np.any(before[name] != after[name]) == (name != "kernel") for name in after)
  assert (after["svd_e"] != 0).sum() == 2  # of eight: both layers share the budget
  assert np.isfinite(float(metrics["loss"][0]))
  moving = tree.flatten(state.ema)
  assert moving.keys() == {f"model/layers/attention/q/svd_{x}" for x in "aeb"}


@pytest.mark.parametrize("make, message", [
    (lambda: _spec(lora.LoRA(rank=9, start="pissa")), "lora.rank 9 is above 8, the rank of a "
     r"matrix 8 x 8 \(q\); use at most that"),
    (lambda: _spec(products.AdaLoRA(rank=9, target_rank=2)), "adalora.rank 9 is above 8"),
    (lambda: products.AdaLoRA(rank=2, target_rank=3), "adalora.target_rank 3 is above rank 2"),
    (lambda: products.AdaLoRA(steps=100), "first_steps 100 and last_steps 300 leave nothing"),
    (lambda: _spec(products.KronA(rows=3, columns=2)), "rows 3 and columns 2 do not divide a "
     "matrix 8 x 8"),
    (lambda: dora.DoRA(start="olora"), "dora.start is 'olora', and the sizes are those of"),
    (lambda: lora.LoRA(start="svd"), "lora.start is 'svd'; choose from zero, pissa, olora"),
    (lambda: _spec(lora.LoRA(targets=("gate", "q")), mlp="gelu"), "LoRA targets gate, which this "
     "network does not have"),
    (lambda: _spec(int8.Int8(), lora.LoRA(start="pissa")).network().init(rng.root(0)),
     "LoRA starts from the kernels")])
def test_what_does_not_fit_is_one_line(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)


def test_adapters_of_lora_fa_train_b_alone():
  pattern = optimizer_lib.Optimizer(trainable=sites.pattern(lora.LoRA(rank=2, freeze_a=True)))
  assert pattern.trains("model/layers/attention/q/lora_b")
  assert not pattern.trains("model/layers/attention/q/lora_a")
