"""Adapters in PEFT's format: its numbers, in and out, and through runs."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import mdx
from mdx import config as config_lib
from mdx import interop
from mdx import modes
from mdx import types
from mdx.build import resolve
from mdx.configs import finetune as finetune_config
from mdx.configs import sample as sample_config
from mdx.interop import peft
from mdx.networks import attention
from mdx.networks.adaptation import lora
from mdx.networks.adaptation import sites
from mdx.utils import tree
import hf_dirs
import tiny

ROOT = pathlib.Path(__file__).parents[1] / "golden"
BASE, ADAPTER = ROOT / "llama-tiny", ROOT / "llama-lora-tiny"


def _spec(adapter=ADAPTER, base=BASE):
  return hf_dirs.spec_of(base, adaptations=(interop.adapter_fields(str(adapter), base),))


def _params(spec, base=BASE, adapter=ADAPTER):
  shapes = hf_dirs.shapes(spec)
  return tree.merge(hf_dirs.loaded(base), interop.load_adapter(
      str(adapter), base, tree.part(shapes, _is_adapter)))


def _is_adapter(path):
  return sites.owner(path, (lora.LoRA(),)) is not None


def _scores(model):
  network, tokens = model.objective.network, jnp.asarray([[5, 6, 7, 8], [9, 10, 11, 12]])
  params = jax.device_get(model.params["model"])
  logits = network.head(params, network.encode(
      params, types.Inputs(tokens), attention=attention.Full()).last)
  return np.asarray(logits)[..., :model.tokenizer.vocab_size]


@pytest.mark.slow
def test_logits_are_those_of_peft_and_of_the_merged_model():
  spec = _spec()
  assert spec.adaptations == (lora.LoRA(rank=3, alpha=5.0, targets=("q", "v", "down")),)
  params, tokens = _params(spec), np.load(BASE / "logits.npz")["input_ids"]
  want = np.load(ADAPTER / "logits.npz")["logits"]
  score = lambda spec, params: np.asarray(spec.network().head(params, spec.network().encode(
      params, types.Inputs(tokens), attention=attention.Causal()).last))[..., :spec.vocab_size]
  np.testing.assert_allclose(score(spec, params), want, atol=1e-4)
  merged = sites.merge(params, spec.adaptations)
  np.testing.assert_allclose(score(dataclasses.replace(spec, adaptations=()), merged), want, atol=1e-4)
  assert np.abs(score(hf_dirs.spec_of(BASE), hf_dirs.loaded(BASE)) - want).max() > 1


def test_an_adapter_comes_out_as_it_went_in(tmp_path):
  spec = _spec()
  interop.save_adapter(tmp_path / "out", _params(spec), spec, like=BASE)
  one, other = (hf_dirs.tensors_of(path / peft.FILE) for path in (ADAPTER, tmp_path / "out"))
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name])
  have, want = (json.loads((path / peft.CONFIG).read_text()) for path in (tmp_path / "out", ADAPTER))
  for name in ("r", "lora_alpha", "peft_type", "task_type", "bias", "use_rslora"):
    assert have[name] == want[name]
  assert set(have["target_modules"]) == set(want["target_modules"])


@pytest.mark.parametrize("change, message", [
    (dict(peft_type="LOHA"), "peft_type 'LOHA' is not known"),
    (dict(peft_type="IA3"), r"lacks tensor '.*ia3_l'"),
    (dict(peft_type="PROMPT_TUNING"), "num_virtual_tokens is None; expected a positive number"),
    (dict(use_dora=True), "use_dora = True is not supported"),
    (dict(rank_pattern={"q_proj": 2}), "rank_pattern"), (dict(r=0), "r = 0"),
    (dict(r=2**70), "expected positive numbers"), (dict(lora_alpha=float("nan")), "lora_alpha = nan"),
    (dict(init_lora_weights="corda"), "init_lora_weights = 'corda' is not supported"),
    (dict(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    (dict(init_lora_weights=1), "init_lora_weights = 1"),
    (dict(a_later_one={"x": 1}), "a_later_one = .* is not supported; expected None"),
    (dict(loftq_config={"loftq_bits": 4}), "loftq_config"),
    (dict(target_modules="(((a*)*)*)*(((.*)*)*)*b"), "takes too much time or memory"),
    (dict(target_modules="(q_proj"), "is no regular expression"),
    (dict(target_modules=3), "neither names nor an expression"),
    (dict(layers_to_transform=[0]), "has no place in the model"),
    (dict(exclude_modules=["q_proj"]), "has no place in the model"),
    (dict(target_modules=["c_attn"]), "match none of the projections"),
    (dict(target_modules=["q_proj"]), "has no place in the model"),
    (dict(target_modules="all-linear"), "lacks tensor"),
    (dict(r=4), "has shape")])
def test_an_adapter_that_does_not_fit_is_one_line(tmp_path, change, message):
  shutil.copytree(ADAPTER, tmp_path / "a")
  config = json.loads((tmp_path / "a" / peft.CONFIG).read_text()) | change
  (tmp_path / "a" / peft.CONFIG).write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message) as error:
    mdx.load(str(BASE), init=dict(adapter=str(tmp_path / "a")))
  assert "\n" not in str(error.value)


def test_rslora_is_another_alpha(tmp_path):
  shutil.copytree(ADAPTER, tmp_path / "a")
  config = json.loads((ADAPTER / peft.CONFIG).read_text()) | dict(use_rslora=True)
  (tmp_path / "a" / peft.CONFIG).write_text(json.dumps(config))
  assert _spec(tmp_path / "a").adaptations[0].scale == pytest.approx(5 / 3 ** 0.5)


def _adapter_with(path, draw, modules, **changes):
  """An adapter directory with random matrices {name of a module: rank}, and these matrices."""
  path.mkdir()
  tensors, spec = {}, hf_dirs.spec_of(BASE)
  for name, rank in modules.items():
    width = spec.hidden_width if name.endswith("down_proj") else spec.width
    outer = {"k": spec.kv_heads * spec.per_head, "v": spec.kv_heads * spec.per_head}.get(
        name.rpartition(".")[2][0], spec.width)
    for part, shape in (("A", (rank, width)), ("B", (outer, rank))):
      tensors[f"base_model.model.{name}.lora_{part}.weight"] = draw.normal(size=shape).astype("f4")
  config = json.loads((ADAPTER / peft.CONFIG).read_text()) | changes
  (path / peft.CONFIG).write_text(json.dumps(config))
  safetensors_numpy.save_file(tensors, path / peft.FILE)
  return tensors


def _deltas(path):
  """Changes of the kernels of the adapted base, by path, [layers, in, out]."""
  spec = _spec(path)
  params = tree.flatten(sites.merge(_params(spec, adapter=path), spec.adaptations))
  return {k: np.asarray(x) - np.asarray(tree.flatten(hf_dirs.loaded(BASE))[k])
          for k, x in params.items() if k.endswith("kernel")}


def test_ranks_factors_and_layers_of_their_own_are_read(tmp_path):
  name = "model.layers.{}.self_attn.{}_proj".format
  tensors = _adapter_with(
      tmp_path / "a", np.random.default_rng(0), {name(1, "q"): 2, name(1, "v"): 3}, r=2, lora_alpha=4,
      rank_pattern={"v_proj": 3}, alpha_pattern={r"layers\.\d+\.self_attn\.v_proj": 9},
      target_modules=["q_proj", "k_proj", "v_proj"], exclude_modules=["k_proj"],
      layers_to_transform=1)
  found = _deltas(tmp_path / "a")
  for projection, scale in (("q", 2), ("v", 3), ("k", 0)):
    delta = found[f"layers/attention/{projection}/kernel"]
    want = np.zeros_like(delta)
    if scale:
      a, b = (tensors[f"base_model.model.{name(1, projection)}.lora_{x}.weight"] for x in "AB")
      want[1] = scale * (b @ a).T
    np.testing.assert_allclose(delta, want, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_is_taken_from_the_base_is_taken_away_again(tmp_path, start):
  name, rank = "model.layers.{}.self_attn.q_proj".format, 2
  tensors = _adapter_with(tmp_path / "a", np.random.default_rng(0), {name(0): rank, name(1): rank},
                          r=rank, lora_alpha=6, init_lora_weights=start, target_modules=["q_proj"])
  found = _deltas(tmp_path / "a")["layers/attention/q/kernel"]
  base = hf_dirs.tensors_of(BASE)
  for layer in range(2):
    kernel = base[f"{name(layer)}.weight"]
    if start == "pissa":
      u, s, v = np.linalg.svd(kernel)
      begun = (u[:, :rank] * s[:rank]) @ v[:rank]
    else:
      q, r = np.linalg.qr(kernel)
      begun = 3 * q[:, :rank] @ r[:rank]
    a, b = (tensors[f"base_model.model.{name(layer)}.lora_{x}.weight"] for x in "AB")
    np.testing.assert_allclose(found[layer], (3 * b @ a - begun).T, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    dict(init_lora_weights="pissa"), dict(init_lora_weights="olora"), dict(use_rslora=True),
    dict(rank_pattern={"v_proj": 2}, alpha_pattern={"layers.0.self_attn.q_proj": 7}),
    dict(layers_to_transform=[1], layers_pattern="layers")])
def test_numbers_are_those_of_peft(tmp_path, options):
  torch, theirs = pytest.importorskip("torch"), pytest.importorskip("peft")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  load = lambda: transformers.AutoModelForCausalLM.from_pretrained(BASE)
  config = theirs.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"],
                             **options)
  model = theirs.get_peft_model(load(), config)
  with torch.no_grad():
    for tensor in (p for n, p in model.named_parameters() if "lora_" in n):
      tensor += 0.1 * torch.randn_like(tensor)
  model.save_pretrained(tmp_path / "a")
  tokens = torch.tensor([[1, 5, 6, 7, 8]])
  with torch.no_grad():
    law = theirs.PeftModel.from_pretrained(load(), tmp_path / "a")(tokens).logits.log_softmax(-1)
  want = law[0, torch.arange(4), tokens[0, 1:]].sum().item()
  ours = mdx.load(str(BASE), init=dict(adapter=str(tmp_path / "a")))
  np.testing.assert_allclose(ours.score_pairs([([1], [5, 6, 7, 8])]), [want], rtol=1e-4)


@pytest.mark.slow
def test_adapters_are_switched_and_share_the_weights_of_the_base(tmp_path):
  names = [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]
  for name, seed in (("a", 0), ("b", 1)):
    _adapter_with(tmp_path / name, np.random.default_rng(seed), dict.fromkeys(names, 4), r=4,
                  target_modules=["q_proj"])
  model, pairs = mdx.load(str(BASE)), [([1], [5, 6, 7])]
  plain, scores = model.score_pairs(pairs), {}
  for name in ("a", "b"):
    put = model.with_adapter(str(tmp_path / name))
    scores[name] = put.score_pairs(pairs)
    loaded = mdx.load(str(BASE), init=dict(adapter=str(tmp_path / name)))
    np.testing.assert_array_equal(scores[name], loaded.score_pairs(pairs))
    ours, base = tree.flatten(put.params), tree.flatten(model.params)
    assert all(ours[path] is leaf for path, leaf in base.items()) and len(ours) > len(base)
    with pytest.raises(ValueError, match="has an adaptation lora already"):
      put.with_adapter(str(tmp_path / "a"))
  assert not np.allclose(scores["a"], scores["b"]) and not np.allclose(scores["a"], plain)
  np.testing.assert_array_equal(model.score_pairs(pairs), plain)


def test_ambiguous_last_names_are_written_as_a_pattern():
  family, spec = interop.FAMILIES["llada"], hf_dirs.spec_of(
      adaptations=(lora.LoRA(rank=2, targets=("q", "down")),))
  written = peft.config_of(family, spec, "x", False)["target_modules"]  # the head is ff_out too
  assert isinstance(written, str)
  assert peft._is_target("model.transformer.blocks.1.ff_out", written)
  assert not peft._is_target("model.transformer.ff_out", written)


@pytest.mark.slow
def test_adapters_are_trained_on_a_directory_merged_and_exported(tmp_path):
  """From LLaDA's weights: the base never changes, the adapters do, and both exports hold them."""
  source = str(hf_dirs.GOLDEN)
  config = tiny.config("diffusion", **{
      "init.checkpoint": source, "lora.rank": 2, "lora.targets": ("q", "down"), "ema_decay": 0.5,
      "steps": 2, "data.source.documents": [[5, 6, 7, 8, 9, 10, 11, 12] * 8] * 10})
  modes.run("train", config, str(tmp_path / "run"))
  for which in ("ema", "raw"):
    model = mdx.load(str(tmp_path / "run"), params=which)
    params = model.params["model"]
    base = hf_dirs.loaded(hf_dirs.GOLDEN)
    for path, leaf in tree.flatten(params).items():
      if not _is_adapter(path):
        np.testing.assert_array_equal(leaf, tree.flatten(base)[path])
      elif path.endswith("lora_b"):
        assert np.abs(leaf).max() > 0
  export = sample_config.get_config()
  export.init.checkpoint, export.init.params = str(tmp_path / "run"), "raw"
  for format_name in ("huggingface", "peft"):
    export.export.update(format=format_name, path=str(tmp_path / format_name))
    modes.run("export", export, str(tmp_path / "export"))
  merged = mdx.load(str(tmp_path / "huggingface"))
  adapted = mdx.load(source, init=dict(adapter=str(tmp_path / "peft")))
  one, two, three, old = map(_scores, (model, merged, adapted, mdx.load(source)))
  np.testing.assert_allclose(two, one, atol=1e-5)
  np.testing.assert_allclose(three, one, atol=1e-6)
  assert np.abs(one - old).max() > 1e-3
  with pytest.raises(ValueError, match=r"has the adaptation LoRA\(rank=2") as error:
    modes.run("train", tiny.changed(config, {"init.checkpoint": str(tmp_path / "run"), "lora.rank": 0}),
                str(tmp_path / "more"))
  assert "\n" not in str(error.value)


def test_adapters_and_the_new_layers_of_a_task_are_trained_and_nothing_else():
  config = finetune_config.get_config()
  config.lora.rank = 2
  pattern = resolve.trained(config_lib.to_dict(config), fresh=("task",))["trainable"]
  trained = ["task/out/kernel", "model/layers/mlp/up/lora_a"]
  for path in [*trained, "model/layers/mlp/up/kernel", "model/embed/embedding"]:
    assert bool(re.fullmatch(pattern, path)) == (path in trained)


@pytest.mark.slow
def test_int8_weights_are_sampled_from_and_trained_below_adapters(tmp_path):
  pytest.importorskip("qwix")
  model = mdx.load(str(hf_dirs.GOLDEN), init=dict(weights="int8"))
  leaves = tree.flatten(model.params)
  kinds = {path.rpartition("/")[2]: leaf.dtype for path, leaf in leaves.items() if "mlp/" in path}
  assert kinds == {"kernel_int8": np.int8, "kernel_scale": np.float32}
  exact = mdx.load(str(hf_dirs.GOLDEN))
  rows = [((), (5, 6, 7, 9, 10, 11))]
  one, two = (-m.score_pairs(rows, num_samples=4)[0] for m in (model, exact))
  assert 0 < abs(one - two) < 0.05 * two
  assert len(model.sample([[5, 6]], gen_length=4)[0].tokens) == 4
  config = tiny.config("diffusion", **{
      "init.checkpoint": str(hf_dirs.GOLDEN), "init.weights": "int8", "steps": 1,
      "data.source.documents": [[5, 6, 7, 8, 9, 10, 11, 12] * 8] * 10})
  with pytest.raises(ValueError, match="int8 weights .* cannot be trained"):
    modes.run("train", config, str(tmp_path / "run"))
  modes.run("train", tiny.changed(config, {"lora.rank": 2}), str(tmp_path / "run"))
  again = mdx.load(str(tmp_path / "run"), params="raw")
  path = "model/layers/mlp/down/kernel_int8"
  np.testing.assert_array_equal(tree.flatten(again.params)[path], leaves[path])
