"""The door of adaptations: all that mdx has and one that it has not, in the scan and on a mesh.

Reference: Fang et al. 2024, arXiv:2409.17481 (MaskLLM).
"""

import dataclasses
import functools
import importlib
import re
from typing import Any, ClassVar

import jax
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import sharding
from mdx import types
from mdx.build import identity
from mdx.build import programs
from mdx.build import resolve
from mdx.build import source as source_lib
from mdx.networks import adaptation
from mdx.networks import attention
from mdx.networks import transformer
from mdx.networks.adaptation import diff_pruning
from mdx.networks.adaptation import dora
from mdx.networks.adaptation import inserted
from mdx.networks.adaptation import int8
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import mask_tuning
from mdx.networks.adaptation import nm_masks
from mdx.networks.adaptation import products
from mdx.networks.adaptation import sites
from mdx.networks.adaptation import vectors
from mdx.objectives import reading
from mdx.objectives.tokens import mlm
from mdx.train import step as step_lib
from mdx.utils import rng
from mdx.utils import tree

import tiny

_NORMAL = lambda key, shape, dtype: 0.5 * jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask24(types.Adaptation):
  """A learned 2:4 mask; the distribution of a group's six patterns is sampled in training."""
  targets: tuple[str, ...] = ("q", "down")
  has_noise: ClassVar[bool] = True
  patterns: ClassVar[Any] = np.array([[i in pair for i in range(4)] for pair in (
      (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))], np.float32)

  def leaves(self, shape, axes):
    return {"patterns": types.Leaf((shape[0] // 4, 6, shape[1]), _NORMAL, (axes[0], None, axes[1]))}

  def kernel(self, own, kernel, noise):
    logits = own["patterns"]
    if noise is None:
      choice = jax.nn.one_hot(logits.argmax(axis=1), 6, axis=1)
    else:
      choice = jax.nn.softmax(logits + jax.random.gumbel(noise, logits.shape), axis=1)
    return kernel * jnp.einsum("gco,ci->gio", choice, self.patterns).reshape(kernel.shape)


METHODS = {"lora": lora.LoRA(rank=2), "dora": dora.DoRA(rank=2), "ia3": vectors.IA3(),
           "bitfit": vectors.BitFit(), "mask": Mask24(), "bottleneck": inserted.Bottleneck(width=4),
           "prefix_tuning": inserted.Prefix(length=3), "vera": products.VeRA(rank=5),
           "adalora": products.AdaLoRA(rank=3, target_rank=2), "krona": products.KronA(
               rows=4, columns=2), "compacter": inserted.Compacter(width=4, summands=2),
           "gated_prefix": inserted.GatedPrefix(length=3),
           "prompt_tuning": inserted.Prompt(length=3),
           "parallel": inserted.Bottleneck(width=4, is_parallel=True, scale=4.0, targets=("mlp",)),
           "nm_mask": nm_masks.NMMask(n=1, kappa=(1.0, 2.0)),
           "mask_tuning": mask_tuning.MaskTuning(), "diff_pruning": diff_pruning.DiffPruning(),
           "p_tuning": inserted.Prompt(length=3, hidden=5)}
# Those that change nothing at first.
AT_START = ("lora", "dora", "ia3", "bitfit", "bottleneck", "vera", "adalora", "krona", "compacter",
            "gated_prefix", "parallel", "mask_tuning", "diff_pruning")
MERGEABLE = ("lora", "dora", "ia3", "mask", "vera", "adalora", "krona", "nm_mask",
             "mask_tuning", "diff_pruning")
FAST = ("lora", "dora", "ia3", "bitfit", "mask", "bottleneck", "prefix_tuning", "vera",
        "prompt_tuning", "gated_prefix")
REPLICATED = ("compacter",)  # small matrices, whole on every device
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 10, (8, 8)), jnp.int32)
SEGMENTS = jnp.asarray(np.repeat([[1, 1, 1, 1, 2, 2, 2, 0]], 8, axis=0), jnp.int32)


def _spec(*adaptations, **fields):
  return transformer.Transformer(**dict(
      num_layers=2, width=16, num_heads=4, num_kv_heads=2, mlp_width=24, vocab_size=11,
      vocab_multiple=16, max_length=8, adaptations=adaptations) | fields)


def _is_own(path, *adaptations):
  return sites.owner(path, adaptations) is not None


@functools.cache
def _params(name):
  """Of an adapted network: new, and with every parameter of the method moved."""
  put = METHODS[name]
  new = _spec(put).network().init(rng.root(0))
  move = lambda path, leaf: leaf + 0.3 * jax.random.normal(
      rng.stream(rng.root(1), path), leaf.shape) if _is_own(path, put) else leaf
  return new, tree.map_with_path(move, new)


def _hidden(spec, params, noise=None):
  run = jax.jit(lambda params: spec.network().encode(
      params, types.Inputs(TOKENS, segment_ids=SEGMENTS), attention=attention.Full(),
      noise=noise).last)
  return np.asarray(run(params))


@pytest.mark.parametrize("name", tiny.mostly_slow(METHODS, FAST))
def test_a_method_changes_nothing_at_first_where_it_says_so_and_the_same_as_its_merge(name):
  put, (new, moved) = METHODS[name], _params(name)
  base = tree.part(new, lambda path: not _is_own(path, put))
  assert base.keys() and len(tree.flatten(base)) < len(tree.flatten(new))
  plain = _hidden(_spec(), base)
  gap = np.abs(_hidden(_spec(put), new) - plain).max()
  assert gap < 1e-5 if name in AT_START else gap > 0.01
  changed = _hidden(_spec(put), moved)
  assert np.abs(changed - plain).max() > 0.01
  if name in MERGEABLE:
    merged = sites.merge(moved, (put,))
    assert tree.flatten(merged).keys() == tree.flatten(base).keys()
    np.testing.assert_allclose(_hidden(_spec(), merged), changed, atol=5e-6)
  else:
    with pytest.raises(ValueError, match="cannot be merged") as error:
      sites.merge(moved, (put,))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", tiny.mostly_slow(METHODS, FAST))
def test_scanned_and_unstacked_layers_are_adapted_alike(name):
  spec = _spec(METHODS[name], scan_layers=False)
  moved = _params(name)[1]
  flat = spec.network().unstack(moved)
  assert "layers_1" in flat
  np.testing.assert_allclose(_hidden(spec, flat), _hidden(_spec(METHODS[name]), moved), atol=1e-5)


def _loss_and_gradient(name, mesh, num_microbatches=1):
  put = METHODS[name]
  objective = mlm.MaskedLM(network=_spec(put, dropout=0.1).network(), mask_id=10, mask_rate=0.4)
  params = {"model": _params(name)[1]}
  state = sites.upkeep((put,))
  trains = lambda path: _is_own(path, put) and not (
      state and state.moves(path.removeprefix("model/")))
  with jax.set_mesh(mesh):
    shapes = sharding.with_shardings(jax.eval_shape(lambda: params), objective.parts(), mesh)
    placed = jax.device_put(params, jax.tree.map(lambda x: x.sharding, shapes))
    batch = sharding.place_batch({
        "tokens": np.asarray(TOKENS), "segment_ids": np.asarray(SEGMENTS),
        "example_index": np.arange(8, dtype=np.int32)}, mesh)

    @jax.jit
    def run(params, batch):
      key = rng.root(5)
      context = types.context(0, key=key)
      batch, weights = objective.prepare(params, batch, key, context)
      loss, _, grads = step_lib.loss_and_grad(objective, params, batch, weights, context,
                                              num_microbatches, trains)
      return loss, grads

    return jax.device_get(run(placed, batch)), shapes


@pytest.mark.parametrize("name", tiny.mostly_slow(
    [name for name in METHODS if name not in ("krona", "parallel", "p_tuning")], ["mask"],
    ci=["lora", "dora", "prefix_tuning", "bitfit"]))
@pytest.mark.slow
def test_on_a_mesh_and_by_microbatch_it_is_the_same_and_its_own_leaves_alone_have_gradients(name):
  one = sharding.make_mesh({}, devices=jax.devices()[:1])
  (loss, grads), _ = _loss_and_gradient(name, one)
  assert tree.flatten(grads) and all(_is_own(path, METHODS[name]) for path in tree.flatten(grads))
  assert len(tree.flatten(grads)) and all(np.any(leaf != 0) for leaf in tree.flatten(grads).values())
  for mesh, microbatches in ((sharding.make_mesh(dict(fsdp=4, tensor=2)), 1),
                             (sharding.make_mesh(dict(fsdp=4, tensor=2)), 2)):
    (other, others), shapes = _loss_and_gradient(name, mesh, microbatches)
    np.testing.assert_allclose(other, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), others, grads)
  cut = {leaf.sharding.spec for path, leaf in tree.flatten(shapes).items()
         if _is_own(path, METHODS[name])}
  assert name in REPLICATED or any(any(axis is not None for axis in spec) for spec in cut), cut


def test_every_shipped_method_is_here():
  assert {type(one) for one in METHODS.values()} >= set(adaptation.ADAPTATIONS.values()) - {
      int8.Int8}


def test_the_trained_parameters_are_as_many_as_the_papers_say():
  layers, width, keys, mlp = 2, 16, 8, 24  # of `_spec`
  shapes = dict(q=(width, width), k=(width, keys), v=(width, keys), o=(width, width),
                gate=(width, mlp), up=(width, mlp), down=(mlp, width))
  outputs = sum(out for _, out in shapes.values())
  expected_weights = sum(a * b for a, b in shapes.values())
  low_rank = 2 * sum(map(sum, shapes.values()))
  expected = dict(lora=low_rank, dora=low_rank + outputs, ia3=2 * keys + mlp, bitfit=outputs,
                  bottleneck=2 * 2 * width * 4, prefix_tuning=2 * 3 * keys,
                  vera=5 * len(shapes) + outputs, adalora=3 * (low_rank // 2 + len(shapes)),
                  krona=sum(4 * 2 + (a // 4) * (b // 2) for a, b in shapes.values()),
                  compacter=2 * (2 ** 3 + 2 * (width + 4)), parallel=2 * width * 4,
                  gated_prefix=2 * 3 * keys + 2)
  expected["diff_pruning"] = 2 * expected_weights
  expected["mask_tuning"] = width * (2 * width + 2 * keys)
  expected["nm_mask"] = expected_weights  # 4 patterns of 4 weights
  whole = dict(prompt_tuning=3 * width, p_tuning=3 * width + 2 * 5 * width + 25 + 10 + width)
  assert expected.keys() | whole.keys() | {"mask"} == METHODS.keys()
  for name, number in (expected | {k: v / layers for k, v in whole.items()}).items():
    pattern = sites.pattern(METHODS[name])
    shapes = jax.eval_shape(_spec(METHODS[name]).network().init, rng.root(0))
    own = tree.part(shapes, lambda path, pattern=pattern: re.fullmatch(pattern, path))
    assert tree.count(own) == layers * number, name


def test_dora_scales_the_columns_of_the_changed_kernel_and_rslora_by_the_root_of_the_rank():
  draw = np.random.default_rng(0)
  own = {"lora_a": draw.normal(size=(6, 2)), "lora_b": draw.normal(size=(2, 5)),
         "lora_size": draw.normal(size=5)}
  own, kernel = jax.tree.map(np.float32, own), draw.normal(size=(6, 5)).astype(np.float32)
  one = dora.DoRA(rank=2, alpha=6.0)
  moved = kernel + 3 * own["lora_a"] @ own["lora_b"]
  length = lambda x: np.sqrt((x ** 2).sum(axis=0))
  expected = moved / length(moved) * (length(kernel) + own["lora_size"])
  np.testing.assert_allclose(one.merged(own, kernel), expected, rtol=2e-5)
  # No gradient goes through the size of the changed kernel: along itself B changes the output.
  along = lambda t: (one.merged({**own, "lora_b": own["lora_b"] * t}, kernel) * expected).sum()
  free = jax.grad(along)(1.0)
  share = (length(kernel) + own["lora_size"]) / length(moved)
  want = ((3 * own["lora_a"] @ own["lora_b"]) * share * expected).sum()
  np.testing.assert_allclose(free, want, rtol=1e-4)
  assert lora.LoRA(rank=16, alpha=8.0, scaling="sqrt").scale == 2
  with pytest.raises(ValueError, match="lora.scaling is 'root'; choose from rank, sqrt"):
    lora.LoRA(scaling="root")


def test_noise_in_the_weights_is_shared_by_the_rows_and_drawn_anew_for_each_key():
  put = METHODS["mask"]
  same = {"tokens": jnp.zeros((4, 8), jnp.int32), "example_index": jnp.arange(4)}
  run = jax.jit(lambda key: reading.encode(
      _spec(put).network(), _params("mask")[0], same, attention=attention.Full(), noise=key))
  one, other = np.asarray(run(rng.root(0))), np.asarray(run(rng.root(1)))
  np.testing.assert_allclose(one, np.broadcast_to(one[:1], one.shape), atol=1e-6)
  assert np.abs(one - other).max() > 1e-3


def test_axes_and_decay_are_those_of_the_leaf():
  part = _spec(dora.DoRA(rank=2), inserted.Prefix(length=2)).network().part
  assert part.axes("layers/attention/q/lora_size", (2, 16)) == (None, "heads")
  assert part.axes("layers/attention/memory/keys", (2, 3, 2, 4)) == (None, None, "heads", None)
  assert not part.decays("layers/attention/q/lora_size") and part.decays(
      "layers/attention/q/lora_a")
  mesh = sharding.make_mesh(dict(fsdp=4, tensor=2))
  network = _spec(dora.DoRA(rank=2)).network()
  specs = sharding.specs({"model": jax.eval_shape(network.init, rng.root(0))},
                         {"model": network.part}, mesh)["model"]["layers"]
  assert specs["mlp"]["down"]["lora_a"] == P(None, "tensor", None)


@pytest.mark.parametrize("values, message", [
    ((lora.LoRA(), dora.DoRA()), "two adaptations of q have parameters of one name, lora_a"),
    ((int8.Int8(), int8.Int8()), "two adaptations of q have parameters of one name"),
    ((inserted.Prefix(targets=("memory", "q")),), "targets of Prefix"),
    ((inserted.Prefix(), dict(name="prefixes")), "unknown adaptation name 'prefixes'; choose from "
     "adalora, bitfit, bottleneck, compacter, diff_pruning, dora, gated_prefix, ia3, int8, krona, lora, "
     "mask_tuning, nm_mask, prefix_tuning, prompt_tuning, vera")])
def test_adaptations_that_exclude_each_other_are_one_line(values, message):
  with pytest.raises(ValueError, match=message) as error:
    _spec(*values)
  assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="memory need the attention_backend xla"):
    _spec(inserted.Prefix(), attention_backend="splash")


def test_a_stored_network_of_before_is_read_as_adaptations():
  old = dict(name="transformer", width=16, weights="int8", lora_rank=3, lora_alpha=5.0,
             lora_targets=["q", "v"])
  new = source_lib.translated(old)
  assert new == dict(name="transformer", width=16, adaptations=(
      dict(name="int8"), dict(name="lora", rank=3, alpha=5.0, targets=("q", "v"))))
  assert source_lib.translated(new) == new
  plain = dict(width=16, weights="float", lora_rank=0, lora_alpha=0.0, lora_targets=["q"])
  assert source_lib.translated(plain) == dict(width=16)
  built = adaptation.build(new["adaptations"])
  assert built == (int8.Int8(), lora.LoRA(rank=3, alpha=5.0, targets=("q", "v")))


def test_a_run_with_adapters_of_before_is_the_same_run():
  config = dict(init=dict(checkpoint=""), lora=dict(rank=2, alpha=0.0, targets=["q", "v"]),
                optimizer=dict(name="adamw", trainable=""), network=dict(name="transformer"))
  old = config | {
      "network": config["network"] | dict(lora_rank=2, lora_alpha=0.0, lora_targets=["q", "v"]),
      "optimizer": config["optimizer"] | dict(trainable="task/.*|.*/lora_[ab]")}
  new = config | {"network": resolve.adapted(config["network"], config, "")}
  new |= {"optimizer": resolve.trained(new, fresh=("task",))}
  assert identity.run_hash(old) == identity.run_hash(new)
  assert identity.run_hash(old | {"lora": {}, "seed": 1}) != identity.run_hash(new)
  assert resolve.translated_run(new) == new


def test_a_config_names_further_adaptations_which_are_trained_alone():
  config = dict(init=dict(checkpoint=""), lora=dict(rank=2, targets=("q",)), optimizer={},
                network=dict(name="transformer"), adaptations=[dict(name="ia3", targets=["k"])])
  config["network"] = resolve.adapted(config["network"], config, "")
  assert [one["name"] for one in config["network"]["adaptations"]] == ["lora", "ia3"]
  assert resolve.adapted(config["network"], config, "") == config["network"]
  pattern = resolve.trained(config)["trainable"]
  paths = ("layers/attention/q/lora_a", "layers/attention/k/factor")
  assert len(paths) and all(re.fullmatch(pattern, f"model/{path}") for path in paths)
  assert not re.fullmatch(pattern, "model/layers/attention/q/kernel")


# objective -> (config, its argument).
CONFIGS = {name: (name, None) for name in (
    "ar", "mlm", "bitimebert", "electra", "ernie_gram", "rts", "structural", "diffusion", "d3pm",
    "sedd", "genmd4", "block_diffusion", "adapt", "meap")} | {
        "decoded_mlm": ("drbert", None), "cluster_rts": ("rts", "clusters"),
        "meap_sft": ("meap", "sft"), "classification": ("finetune", "next"),
        "regression": ("finetune", "overlap"), "tagging": ("finetune", "speech"),
        "joint_head": ("joint", None), "preference": ("preference", None),
        "contrastive": ("mirror", None), "gem": ("gem", None), "grl": ("ullme", None),
        "distilled": ("mirror", "distil"), "unlearn": ("unlearn", None),
        "generic_labels": ("unlearn", "generic"), "gradient_dropout": ("mask_tuning", None),
        "masked_document": ("masked_finetuning", None), "w2v_bert": ("w2v_bert", "wav2vec2"),
        "ctc": ("ctc", None), "simmim": ("mim", None),
        "mae": ("mim", "mae"), "mto_style": ("mim", "mto"), "mdiff4str": ("mdiff4str", None),
        "connector": ("llava", "lora"), "uniform_diffusion": ("duo", None),
        "seq2seq": ("seq2seq", None), "recurrent": ("recurrent", None)}


def test_every_objective_has_a_config_here():
  assert CONFIGS.keys() == objectives.OBJECTIVES.keys()


@pytest.mark.parametrize("name", tiny.mostly_slow(
    list(objectives.OBJECTIVES), ["ar"],
    ci=["diffusion", "bitimebert", "ernie_gram", "electra", "w2v_bert", "connector"]))
def test_lora_sets_up_and_traces_with_every_objective(name, tmp_path):
  module, arg = CONFIGS[name]
  config = importlib.import_module(f"mdx.configs.{module}").get_config(arg)
  config.network.update(num_layers=1, width=16, num_heads=2, mlp_width=16)
  if "base" in config.init and not config.frozen:  # a frozen "init" says that there is a base
    config.init.base = None
  if "parts" in config.init:
    config.init.parts = {}
  config.lora.rank = 2
  assert config.objective.name == name
  program, = programs.of_config(config, str(tmp_path / "run"),
                                sharding.make_mesh({"data": -1}))
  state, batch, frozen = program.arguments
  trained = state.opt_state
  assert any("lora_b" in path for path in tree.flatten(trained))
  assert not any(path.endswith("model/layers/mlp/up/kernel") for path in tree.flatten(trained))
  gradient = jax.eval_shape(program.plain, state, batch, frozen)
  assert any(path.endswith("attention/q/lora_a") for path in tree.flatten(gradient))
