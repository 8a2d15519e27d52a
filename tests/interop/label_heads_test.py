"""Classes that label texts or words: their body starts a fine-tuning, and their head where it fits."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
import tiny

from mdx import interop
from mdx import modes
from mdx.build import source as source_lib
from mdx.configs import finetune as finetune_config
from mdx.objectives.labels import finetune
from mdx.utils import rng
from mdx.utils import tree
import hf_dirs

ROOT = pathlib.Path(__file__).parents[1] / "golden"
PREFIXES = {"bert": "bert.", "distilbert": "distilbert.", "modernbert": "model.",
            "roberta": "roberta.", "deberta": "deberta."}
LABELS = ("no", "yes", "maybe")


def _matrix(*shape):
  return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def _directory(name, path, architecture, head, **config):
  """A stored body with other tensors beside it."""
  tensors = {key: value for key, value in hf_dirs.tensors_of(ROOT / f"{name}-tiny").items()
             if key.startswith(PREFIXES[name])}
  path.mkdir()
  safetensors_numpy.save_file(tensors | head, path / "model.safetensors")
  written = interop.load_config(ROOT / f"{name}-tiny") | dict(
      architectures=[architecture], id2label={str(i): name for i, name in enumerate(LABELS)})
  (path / "config.json").write_text(json.dumps(written | config))
  return path


def _linear(name, rows, columns=16):
  return {f"{name}.weight": _matrix(rows, columns), f"{name}.bias": _matrix(rows)}


HEADS = {
    "BertForSequenceClassification": (
        "bert", finetune.Classification, _linear("bert.pooler.dense", 16) | _linear("classifier", 3),
        {"dense": "bert.pooler.dense", "out": "classifier"}),
    "RobertaForSequenceClassification": (
        "roberta", finetune.Classification,
        _linear("classifier.dense", 16) | _linear("classifier.out_proj", 3),
        {"dense": "classifier.dense", "out": "classifier.out_proj"}),
    "BertForTokenClassification": ("bert", finetune.Tagging, _linear("classifier", 3),
                                   {"out": "classifier"}),
    "DebertaV2ForTokenClassification": ("deberta", finetune.Tagging, _linear("classifier", 3),
                                        {"out": "classifier"}),
    "DistilBertForSequenceClassification": (
        "distilbert", finetune.Classification,
        _linear("pre_classifier", 16) | _linear("classifier", 3), {}),
    "ModernBertForSequenceClassification": (
        "modernbert", finetune.Classification,
        {"head.dense.weight": _matrix(16, 16), "head.norm.weight": _matrix(16)}
        | _linear("classifier", 3), {}),
    "DebertaV2ForSequenceClassification": (
        "deberta", finetune.Classification,
        _linear("pooler.dense", 16) | _linear("classifier", 3), {})}


def _objective(path, cls, labels=LABELS):
  return cls(network=hf_dirs.spec_of(path).network(), mask_id=3, labels=labels)


def _started(path, objective):
  """Parameters that a run would begin from."""
  shapes = jax.eval_shape(objective.init, rng.root(0))
  source = source_lib.open_source(str(path))
  source.check(shapes, (), ("task",))
  return source.load(shapes, "raw", fresh=("task",)) | source.head(objective, shapes, says=True)()


@pytest.mark.parametrize("architecture", tiny.first(HEADS, 2))
def test_the_body_is_taken_and_the_head_where_its_form_is_that_of_the_task(architecture, tmp_path,
                                                                           capsys):
  name, cls, head, kept = HEADS[architecture]
  source = _directory(name, tmp_path / "in", architecture, head)
  params = _started(source, _objective(source, cls))
  whole = tree.flatten(hf_dirs.loaded(ROOT / f"{name}-tiny"))
  for path, value in tree.flatten(params["model"]).items():
    np.testing.assert_array_equal(value, whole[path])
  assert params.get("task", {}).keys() == kept.keys()
  for ours, theirs in kept.items():
    np.testing.assert_array_equal(params["task"][ours]["kernel"], head[f"{theirs}.weight"].T)
    np.testing.assert_array_equal(params["task"][ours]["bias"], head[f"{theirs}.bias"])
  said = capsys.readouterr().out
  assert ("is kept, for 3 labels" if kept else "has another form than the task's, so its body "
          "alone is taken") in said
  interop.save(tmp_path / "out", hf_dirs.loaded(source), hf_dirs.spec_of(source), like=source)
  want, have = hf_dirs.tensors_of(source), hf_dirs.tensors_of(tmp_path / "out")
  assert want.keys() == have.keys()
  assert interop.load_config(tmp_path / "out") == interop.load_config(source)


def test_a_head_for_other_labels_or_another_task_is_left_and_a_damaged_one_is_named(
    tmp_path, capsys):
  name, cls, head, _ = HEADS["BertForSequenceClassification"]
  source = _directory(name, tmp_path / "in", "BertForSequenceClassification", head)
  assert "task" not in _started(source, _objective(source, cls, ("yes", "no", "maybe")))
  assert "has the labels no, yes, maybe, not yes, no, maybe, so its body" in capsys.readouterr().out
  for other in (_objective(source, finetune.Tagging), _objective(source, finetune.Regression, ())):
    assert "task" not in _started(source, other)
  last = finetune.Classification(network=_objective(source, cls).network, mask_id=3, labels=LABELS,
                                 pooling="last")
  assert "task" not in _started(source, last)
  unnamed = _directory(name, tmp_path / "unnamed", "BertForSequenceClassification", head, id2label={
      str(i): f"LABEL_{i}" for i in range(3)})
  assert "task" in _started(unnamed, _objective(unnamed, cls, ("a", "b", "c")))
  wrong = _directory(name, tmp_path / "wrong", "BertForSequenceClassification",
                     head | _linear("classifier", 2))
  with pytest.raises(ValueError, match=r"'classifier.weight' in .* has shape \(2, 16\)"):
    _started(wrong, _objective(wrong, cls))
  odd = _directory(name, tmp_path / "odd", "BertForSequenceClassification", head, id2label=["a"])
  with pytest.raises(ValueError, match="id2label is .*; expected a name for every number from 0"):
    _started(odd, _objective(odd, cls))
  with pytest.raises(ValueError, match="holds a model without a head.*begin a fine-tuning"):
    source_lib.open_source(str(source)).describe()


@pytest.mark.slow
def test_a_run_begins_from_the_head_and_may_train_it(tmp_path):
  tokenizers = pytest.importorskip("tokenizers")
  name, _, head, _ = HEADS["BertForSequenceClassification"]
  source = _directory(name, tmp_path / "in", "BertForSequenceClassification", head)
  words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{i}" for i in range(38))]
  vocab = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
  vocab.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  vocab.save(str(source / "tokenizer.json"))
  rows = "".join(f"w{i} w{i + 1},{LABELS[i % 3]}\n" for i in range(24))
  (tmp_path / "rows.csv").write_text("sentence,label\n" + rows)
  config = finetune_config.get_config("glue")
  tiny.changed(config, {
      "init.checkpoint": str(source), "data.length": 16, "steps": 1, "batch_size": 8,
      "data.source.path": str(tmp_path / "rows.csv"), "data.source.holdout_every": 3,
      "objective.labels": LABELS, "optimizer.learning_rate": 1e-30, "optimizer.weight_decay": 0.0})
  modes.run("train", config, str(tmp_path / "run"))
  _, items = tiny.stored(tmp_path / "run")
  task = items["params"]["task"]
  np.testing.assert_array_equal(task["out"]["kernel"], head["classifier.weight"].T)
  np.testing.assert_array_equal(task["dense"]["bias"], head["bert.pooler.dense.bias"])


@pytest.mark.slow
@pytest.mark.parametrize("name, form, cls", [
    ("Bert", "Sequence", finetune.Classification), ("Roberta", "Sequence", finetune.Classification),
    ("XLMRoberta", "Sequence", finetune.Classification), ("Bert", "Token", finetune.Tagging),
    ("DistilBert", "Token", finetune.Tagging), ("DebertaV2", "Token", finetune.Tagging)])
def test_scores_of_a_head_that_is_kept_are_those_of_transformers(name, form, cls, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  sizes = dict(dim=16, n_layers=2, n_heads=4, hidden_dim=24) if name == "DistilBert" else dict(
      hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
  model = getattr(transformers, f"{name}For{form}Classification")(getattr(
      transformers, f"{name}Config")(vocab_size=20, num_labels=3, pad_token_id=1, **sizes)).eval()
  with torch.no_grad():
    for value in model.parameters():
      value += 0.3 * torch.randn_like(value)
  model.save_pretrained(tmp_path / "in")
  ids = np.array([[0, 5, 7, 9, 11, 2]])
  with torch.no_grad():
    want = model(torch.tensor(ids)).logits.numpy()
  objective = _objective(tmp_path / "in", cls)
  batch = {"tokens": jnp.asarray(ids, jnp.int32), "labels": jnp.zeros(ids.shape),
           "loss_mask": jnp.ones(ids.shape, bool)}
  scores, *_ = jax.jit(objective.score)(_started(tmp_path / "in", objective), batch)
  np.testing.assert_allclose(scores, want, atol=1e-4)
