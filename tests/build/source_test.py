"""Hugging Face directories as what runs start from: network, tokenizer, weights, and back out."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
import hf_numbers
import tiny

import mdx
from mdx import checkpoint as checkpoint_lib
from mdx import interop
from mdx import modes
from mdx import types
from mdx.build import setup as setup_lib
from mdx.build import source as source_lib
from mdx.build import workdir as workdir_lib
from mdx.configs import eval as eval_config
from mdx.configs import mdpo
from mdx.configs import sample as sample_config
from mdx.data import tokenizer as tokenizer_lib
from mdx.utils import rng
from mdx.utils import tree

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
IDS = tuple(" ".join(map(str, np.random.default_rng(i).integers(4, 43, 20))) for i in range(30))


def _path(name):
  return str(GOLDEN / f"{name}-tiny")


def _tensors(path):
  return {k: v for file in sorted(pathlib.Path(path).glob("*.safetensors"))
          for k, v in safetensors_numpy.load_file(file).items()}


def _assert_same_tensors(have, want):
  have, want = _tensors(have), _tensors(want)
  assert have.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(have[name], want[name], err_msg=name, strict=True)


def _in_bfloat16(name, path):
  """The same model, stored in bfloat16."""
  shutil.copytree(_path(name), path)
  stored = {k: v.astype(jnp.bfloat16) for k, v in _tensors(path).items()}
  safetensors_numpy.save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
  config = interop.load_config(path) | {"dtype": "bfloat16"}
  (path / "config.json").write_text(json.dumps(config))
  return str(path)


def _with_tokenizer(name, path, words):
  """The same model with a tokenizer.json of some words."""
  import tokenizers  # pylint: disable=g-import-not-at-top
  shutil.copytree(_path(name), path)
  vocab = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
  model = tokenizers.models.WordLevel(vocab, unk_token="<unk>")
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.save(str(path / "tokenizer.json"))
  return str(path)


def _train_config(name, source, **changes):
  small = dict(init__checkpoint=source, ema_decay=0.0, init__params="raw", sampler__num_samples=0,
               eval__baselines=False, steps=1, data__append_eos=False)
  config = tiny.config(name, **small | changes)
  return tiny.changed(config, {"data.source.documents": IDS})


def _hardly_trained(config, workdir):
  """The workdir of a run that saved what it began with, a little changed."""
  run = setup_lib.setup(config, str(workdir))
  workdir_lib.claim_workdir(run.workdir, run.config, run.tokenizer, run.shapes)
  source = run.config["init"]["checkpoint"]
  params = (source_lib.open_source(source).load(run.shapes.params, "") if source
            else jax.jit(run.objective.init)(rng.root(0)))
  params = jax.tree.map(lambda x, shape: jax.device_put(np.asarray(x) + 1, shape.sharding), params,
                        run.shapes.params)
  checkpoint_lib.save_params(str(run.workdir / "checkpoints" / "1"), params, {"hash": ""})
  return params


@pytest.mark.slow
@pytest.mark.parametrize("name, generates", [
    ("llada", "Confidence"), ("dream", "Confidence"), ("sdar", "Ancestral"),
    ("qwen2", "LeftToRight")])
def test_a_directory_without_a_tokenizer_is_sampled_from_by_ids(name, generates):
  model = mdx.load(_path(name))
  rows = interop.network_fields(_path(name))["vocab_size"]
  sampled = model.sample(["5 6 7", [rows - 1, 0]], gen_length=6, steps=3)
  assert [row.prompt_tokens.tolist() for row in sampled] == [[5, 6, 7], [rows - 1, 0]]
  for row in sampled:
    assert set(row.tokens.tolist()) <= set(range(rows)) - {model.tokenizer.mask_id}
    ids = row.tokens.tolist()
    ended = ids[:ids.index(model.tokenizer.eos_id)] if model.tokenizer.eos_id in ids else ids
    assert row.text == " ".join(map(str, ended))
  assert type(model.sampler()).__name__ == generates
  with pytest.raises(ValueError, match="'word' is no id below .*; this model has no tokenizer"):
    model.encode("5 word")


@pytest.mark.slow
def test_a_causal_model_scores_every_id_and_begins_with_its_first_token():
  """Against the stored logits: place i is scored by the logits of place i - 1."""
  data = np.load(GOLDEN / "qwen2-tiny" / "logits.npz")
  model = mdx.load(_path("qwen2"))
  ids = [1, *data["input_ids"][0].tolist()]  # 1: the first token, which config.json names
  have = model.log_likelihood([" ".join(map(str, ids[1:]))])[0]
  want = hf_numbers.causal_log_likelihood(_path("qwen2"), ids)
  np.testing.assert_allclose(have, want, rtol=1e-4)
  assert model.tokenizer.mask_id == 43 and model.objective.start_id == 1


def test_no_row_of_the_embedding_is_suppressed_or_cut(tmp_path):
  """Also rows beyond the tokenizer; a mask that a causal model lacks is one more."""
  source = _with_tokenizer("qwen2", tmp_path / "in", [f"w{i}" for i in range(10)])
  model = mdx.load(source)
  assert (model.tokenizer.vocab.size, model.tokenizer.mask_id, model.tokenizer.vocab_size) == (
      14, 43, 44)
  assert model.tokenizer.decode([4, 42, 43, 5]) == "w0_w1"
  with jax.set_mesh(model.mesh):
    logits = jax.jit(model.objective.answer)(
        model.params, types.Request(jnp.array([[1, 2, 3]]), jnp.zeros(1))).logits
  logits = np.asarray(logits)
  assert (logits[..., :43] > -1e3).all() and (logits[..., 43:] < -1e29).all()
  again = tokenizer_lib.from_json(model.tokenizer.to_json())
  assert again.fingerprint == model.tokenizer.fingerprint and again.vocab_size == 44


@pytest.mark.slow
def test_stored_types_are_computed_with_and_written(tmp_path):
  source = _in_bfloat16("dream", tmp_path / "in")
  model = mdx.load(source)
  assert model.config["dtype"] == "bfloat16"
  assert {x.dtype for x in jax.tree.leaves(model.params)} == {np.dtype(jnp.bfloat16)}
  assert model.config["objective"]["shift"] and model.objective.shift
  trained = mdx.load(source, trains=lambda path: True)
  assert {x.dtype for x in jax.tree.leaves(trained.params)} == {np.dtype(np.float32)}
  config = sample_config.get_config()
  config.init.checkpoint, config.export.path = source, str(tmp_path / "out")
  modes.run("export", config, str(tmp_path / "run"))
  _assert_same_tensors(tmp_path / "out", source)
  assert interop.load_config(tmp_path / "out") == interop.load_config(source)
  config.export.update(path=str(tmp_path / "wide"), dtype="float32")
  modes.run("export", config, str(tmp_path / "run"))
  assert {x.dtype for x in _tensors(tmp_path / "wide").values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name, make", [
    ("bert", sample_config), ("electra-discriminator", eval_config), ("modernbert", mdpo)])
def test_every_config_exports_a_directory_unchanged(name, make, tmp_path):
  config = make.get_config()
  config.mode = "export"
  config.mesh.update(data=-1, fsdp=2, tensor=2)
  config.init.checkpoint, config.export.path = _path(name), str(tmp_path / "out")
  modes.run(config.mode, config, str(tmp_path / "run"))
  _assert_same_tensors(tmp_path / "out", _path(name))
  assert interop.load_config(tmp_path / "out") == interop.load_config(_path(name))


@pytest.mark.slow
def test_a_causal_model_adapts_to_diffusion_and_is_exported_with_its_mask(tmp_path):
  config = _train_config("adapt", _path("qwen2"), objective__diffusion__shift=True)
  params = _hardly_trained(config, tmp_path / "run")
  stored = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
  assert stored["network"]["qkv_bias"] and stored["network"]["vocab_size"] == 44
  config.init.checkpoint, config.export.format = str(tmp_path / "run"), "huggingface"
  config.export.path = str(tmp_path / "out")
  modes.run("export", config, str(tmp_path / "elsewhere"))
  written = interop.load_config(tmp_path / "out")
  assert (written["model_type"], written["mask_token_id"], written["vocab_size"]) == (
      "Dream", 43, 44)
  have, want = _tensors(tmp_path / "out"), _tensors(_path("qwen2"))
  assert have.keys() == want.keys()
  np.testing.assert_array_equal(have["model.embed_tokens.weight"],
                                np.concatenate([want["model.embed_tokens.weight"] + 1,
                                                np.ones((1, 16))]))
  model = mdx.load(str(tmp_path / "out"))
  assert model.tokenizer.mask_id == 43 and model.objective.shift
  heads = [np.asarray(x["model"]["lm_head"]["kernel"])[:, :44] for x in (model.params, params)]
  np.testing.assert_array_equal(*heads)


def test_a_causal_model_that_stays_one_is_exported_without_the_row_of_our_mask(tmp_path):
  config = _train_config("ar", _path("llama"), dtype="")
  _hardly_trained(config, tmp_path / "run")
  config.export.update(format="huggingface", path=str(tmp_path / "out"))
  config.init.checkpoint = ""
  modes.run("export", config, str(tmp_path / "run"))
  assert interop.load_config(tmp_path / "out") == interop.load_config(_path("llama"))
  for name, value in _tensors(_path("llama")).items():
    np.testing.assert_array_equal(_tensors(tmp_path / "out")[name], value + 1, err_msg=name)


@pytest.mark.slow
def test_a_run_from_a_directory_trains_resumes_and_is_exported_in_the_stored_type(tmp_path):
  source = _in_bfloat16("dream", tmp_path / "in")
  config = _train_config("diffusion", source, steps=2, checkpoint_steps=1,
                         optimizer__learning_rate=0.1)
  modes.run("train", config, str(tmp_path / "run"))
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
  (tmp_path / "run" / "results.json").unlink()
  modes.run("train", config, str(tmp_path / "run"))
  config.export.update(format="huggingface", path=str(tmp_path / "out"))
  config.init.checkpoint = str(tmp_path / "run")
  modes.run("export", config, "unused")
  have, want = _tensors(tmp_path / "out"), _tensors(source)
  assert {k: v.dtype for k, v in have.items()} == {k: v.dtype for k, v in want.items()}
  assert not any(np.array_equal(have[k], want[k]) for k in want)
  assert interop.load_config(tmp_path / "out") == interop.load_config(source)


@pytest.mark.slow
def test_a_directory_is_evaluated_by_ids_with_the_shift_of_its_family(tmp_path):
  config = _train_config("diffusion", _path("dream"), eval__final_samples=1)
  result = modes.run("eval", config, str(tmp_path / "run"))
  assert "bits_per_char" not in result and np.isfinite(result["nats_per_token"])
  run = setup_lib.setup(config, str(tmp_path / "run"))
  assert run.objective.shift and run.objective.mask_column
  assert run.config["network"]["num_kv_heads"] == 2 and run.config["network"]["width"] == 16
  assert run.config["network"]["scan_layers"] is False  # how it is computed stays the config's


@pytest.mark.parametrize("changes, message", [
    (dict(data__append_eos=True), "has no end token; set data.append_eos=False"),
    (dict(objective=dict(name="genmd4")), "parameters 'schedule', which the Hugging Face dir"),
    (dict(network__max_length=7), None)])
def test_what_does_not_go_together_is_said_before_anything_is_written(changes, message, tmp_path):
  shutil.copytree(_path("dream"), tmp_path / "in")
  written = interop.load_config(tmp_path / "in") | {"eos_token_id": None}
  (tmp_path / "in" / "config.json").write_text(json.dumps(written))
  config = _train_config("diffusion", str(tmp_path / "in"), **changes)
  if message is None:  # the length of the directory counts, not that of the config
    assert setup_lib.setup(config, str(tmp_path / "run")).spec.max_length == 64
  else:
    with pytest.raises(ValueError, match=message):
      setup_lib.setup(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_of_ours_is_exported_with_its_tokenizer_and_read_back(tmp_path):
  config = tiny.config("diffusion", init__params="raw", network__rope_theta=50.0)
  _hardly_trained(config, tmp_path / "run")
  config.export.update(format="huggingface", path=str(tmp_path / "out"))
  modes.run("export", config, str(tmp_path / "run"))
  assert interop.load_config(tmp_path / "out")["model_type"] == "llada"
  ours, theirs = (mdx.load(str(tmp_path / name), params="raw") for name in ("run", "out"))
  assert theirs.tokenizer.fingerprint == ours.tokenizer.fingerprint
  size = ours.tokenizer.vocab_size
  same = lambda path, a: np.asarray(a)[:size] if path.startswith("model/embed") else a
  a, b = (tree.fingerprint(tree.map_with_path(same, x.params)) for x in (ours, theirs))
  assert a == b
  config.export.update(path=str(tmp_path / "other"), model_type="bert")
  with pytest.raises(ValueError, match="network.norm = 'rms' cannot be exported as 'bert'"):
    modes.run("export", config, str(tmp_path / "run"))
  assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_an_encoder_fills_the_masks_of_its_tokenizer(tmp_path):
  source = _with_tokenizer("bert", tmp_path / "in", ["<mask>", *(f"w{i}" for i in range(9))])
  model = mdx.load(source)
  assert model.tokenizer.mask_id == 4
  sampled = model.sample(["w1 [MASK] w2"], steps=1, temperature=0.0)[0]
  assert sampled.prompt_tokens.tolist() == [6, 4, 7]
  assert sampled.tokens.tolist()[::2] == [6, 7] and sampled.tokens[1] != 4


def test_a_discriminator_and_a_model_without_a_mask_write_nothing():
  with pytest.raises(ValueError, match="holds a discriminator, which tells replaced tokens"):
    mdx.load(_path("electra-discriminator"))
  with pytest.raises(ValueError, match="no mask token among its 43 ids"):
    mdx.load(_path("bert"))


@pytest.mark.slow
def test_a_run_from_a_relative_directory_is_exported_the_same_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shutil.copytree(_path("llada"), "base")
  config = tiny.config("diffusion", **{
      "init.checkpoint": "base", "steps": 1, "tokenizer.path": "byte", "sampler.num_samples": 0})
  config.data.source = dict(name="memory", documents=IDS, holdout_every=5)
  modes.run("train", config, "run")
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  tiny.changed(config, {"export.format": "huggingface", "export.path": str(tmp_path / "out"),
                        "init.checkpoint": str(tmp_path / "run")})
  modes.run("export", config, str(tmp_path / "run"))
  written, base = (json.loads((tmp_path / name / "config.json").read_text())
                   for name in ("out", "base"))
  assert written["model_type"] == base["model_type"] and written["d_model"] == base["d_model"]
  shutil.rmtree(tmp_path / "base")
  tiny.changed(config, {"export.path": str(tmp_path / "other")})
  with pytest.raises(ValueError, match="began from .*base, which is not there"):
    modes.run("export", config, str(tmp_path / "run"))
  assert not (tmp_path / "other").exists()
