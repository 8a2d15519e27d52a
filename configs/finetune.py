r"""Fine-tuning on labels: texts, pairs, scores, tagged words, answer selection.

Without arguments it first pre-trains the masked model of configs/mlm.py under `workdir/base` (2
minutes on 2 cores) and tells which of four books a paragraph is from; a task of the packaged
text is named after the colon: book, next (pairs), overlap (scores), speech (entities), reply
(answer selection); intent is of real requests with seven intents, and so is the text of its base.
  python -m mdx.main --config=configs/finetune.py --workdir=runs/finetune
  python -m mdx.main --config=configs/finetune.py:speech --workdir=runs/speech
Yours, from an encoder of Hugging Face or a run of mdx, on files of yours (glue: tsv, csv or jsonl;
sts: the same with scores; conll: entities; ud: tags of Universal Dependencies; answers: pairs that
share a question; tfds; hf: a data set of the library datasets):
  python -m mdx.main --config=configs/finetune.py:glue --workdir=runs/sst2 \
    --config.init.checkpoint=bert-base-uncased --config.data.source.path=train.tsv \
    --config.data.source.validation_path=dev.tsv --config.data.source.test_path=test.tsv \
    --config.data.source.fields="('sentence',)" \
    --config.optimizer.learning_rate=3e-5 --config.optimizer.layer_decay=0.8
New rows are labelled by configs/predict.py, or by mdx.load(WORKDIR).predict(texts).
Models x tasks x seeds, with a table of means, spreads and tests:
  python -m mdx.main --config=configs/finetune.py:table --workdir=runs/table
"""

import copy

from ml_collections import config_dict

from mdx.configs import ar
from mdx.configs import common
from mdx.configs import mlm

_FILES = dict(path="", validation_path="", test_path="", holdout_every=-1)
_TABLE = dict(_FILES, name="table", fields=("sentence",), label="label", group="", has_header=True)
_TEXTS = dict(name="classification", labels=(), pooling="first", attention=dict(name="full"))
_WORDS = dict(name="tagging", labels=(), attention=dict(name="full"))
_SCORES = dict(name="regression", pooling="first", attention=dict(name="full"), middle=2.5,
               spread=2.5)
_RANKS = ("map", "mrr", "p_at_1", "accuracy")
_ENTITIES, _CORRELATIONS = ("entity_f1", "word_accuracy"), ("pearson_spearman", "pearson",
                                                           "spearman")
# Name -> objective, source and measures, the first of which chooses.
_PACKAGED = {
    "book": (_TEXTS, ("accuracy", "macro_f1", "mcc")),
    "next": (_TEXTS, ("accuracy", "mcc")),
    "overlap": (_SCORES, _CORRELATIONS),
    "speech": (_WORDS, _ENTITIES),
    "reply": (_TEXTS, _RANKS),
    "intent": (_TEXTS, ("accuracy", "macro_f1", "mcc")),
}
_YOURS = {
    "glue": (_TEXTS, _TABLE, ("accuracy", "macro_f1", "mcc")),
    "sts": (_SCORES, dict(_TABLE, fields=("sentence1", "sentence2"), label="score"),
            _CORRELATIONS),
    "conll": (_WORDS, dict(_FILES, name="conll", word_column=0, tag_column=-1, scheme="iob2"),
              _ENTITIES),
    "ud": (_WORDS, dict(_FILES, name="conllu", field="upos"), ("word_accuracy",)),
    "answers": (_TEXTS, dict(_TABLE, fields=("question", "answer"), group="question"), _RANKS),
    "tfds": (_TEXTS, dict(name="tfds_labelled", data_dir="", builder="", fields=("text",),
                          label="label", group="", scheme="none", train_split="train",
                          validation_split="validation", test_split="test"),
             ("accuracy", "macro_f1", "mcc")),
    "hf": (_TEXTS, dict(name="hf_labelled", path="", subset="", revision="", fields=("text",),
                        label="label", group="", scheme="none", train_split="train",
                        validation_split="validation", test_split="test"),
           ("accuracy", "macro_f1", "mcc")),
}


def _base(name=""):
  """The masked model that small runs start from, on the texts of a task."""
  config = mlm.get_config()
  config.update(batch_size=32)
  config.data.length = 96
  if name == "intent":
    common.read_requests(config)
  return config


def get_config(arg=None):
  """A task of the packaged text, a kind of file of yours, or the table."""
  name = arg or "book"
  if name == "table":
    return _table()
  if name not in _PACKAGED and name not in _YOURS:
    raise ValueError(f"configs/finetune.py takes one of {', '.join((*_PACKAGED, *_YOURS))} or "
                     f"table, got {name!r}.")
  config = common.get_config()
  config.update(steps=600, batch_size=32, ema_decay=0.0, eval_steps=100, checkpoint_steps=200)
  config.optimizer.update(learning_rate=5e-4, schedule="linear", final_rate=0.0, warmup_steps=60,
                          weight_decay=0.01, b2=0.999, layer_decay=0.8)
  config.init.update(params="raw",
                     network=True)  # take network and tokenizer of the checkpoint, also of a run's
  source = dict(name="packaged", task=name, num_train=0)
  if name in _PACKAGED:
    objective, measures = _PACKAGED[name]
    config.init.base = _base(name)  # config of the training of the encoder, without a checkpoint
    config.tokenizer.path = config.init.base.tokenizer.path
    config.init.params = "ema"
  else:
    objective, source, measures = _YOURS[name]
  config.objective = copy.deepcopy(objective)
  config.data = dict(
      length=config.init.base.data.length if name in _PACKAGED else 96,
      source=copy.deepcopy(source),
      packing="pad",  # a record a row
      too_long="cut",  # or error
      separators=1,  # end tokens between two texts; 2 for RoBERTa
      buckets=() if name in _PACKAGED else (32, 64),  # lengths that short batches are cut to
      bucket_window=0 if name in _PACKAGED else 16)  # batches whose rows are sorted by length
  config.eval.update(
      measures=measures,  # of eval.measures.MEASURES; the first chooses the weights
      test=name not in ("tfds", "hf"),  # whether the test split, if any, is read at the end
      baselines=False)
  config.sampler.num_samples = 0
  return config


def _table():
  """Three small models on three tasks, a few minutes; models and tasks of yours in the same form.

  A model is {"init": {"checkpoint": PATH}}, of Hugging Face or of mdx.
  """
  run = get_config("book")
  run.update(steps=200, eval_steps=50, checkpoint_steps=10_000)
  run.network.update(num_layers=2, width=64, num_heads=2, mlp_width=192)
  run.data.source.num_train = 1000
  run.eval.test = False
  del run.init["base"]
  run.init.base = None
  bases = {"mlm": _base(), "causal": ar.get_config()}
  for base in bases.values():
    base.network = run.network
    base.update(steps=600, batch_size=32)
    base.data.length = run.data.length
    base.sampler.num_samples = 0
  tasks = {}
  for task in ("next", "speech", "overlap"):
    objective, measures = _PACKAGED[task]
    tasks[task] = dict(objective=copy.deepcopy(objective), data=dict(source=dict(task=task)),
                       eval=dict(measures=measures))
  return config_dict.ConfigDict(dict(
      mode="table",
      run=run,  # what all runs have in common, a config of mode train
      models=dict(
          random=dict(),  # from the seed
          mlm=dict(init=dict(base=bases["mlm"])),
          causal=dict(init=dict(base=bases["causal"]), objective=dict(
              attention=dict(name="causal"), pooling="last"))),
      tasks=tasks,
      grid=(dict(key="optimizer.learning_rate", values=(3e-4, 1e-3)),),  # all combinations
      seeds=(0, 1, 2),  # a run each
      num_resamples=10_000,  # of the bootstrap and the permutation
  ))
