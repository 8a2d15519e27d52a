"""Models that embed, for tests.

Contents: GOLDEN, plain.
"""

import json
import pathlib
import shutil

GOLDEN = pathlib.Path(__file__).parent / "golden" / "sentence-bert-tiny"


def plain(path, *modules, row=None, said=None, **pooling):
  """A copy of GOLDEN whose embeddings are pooled states; returns its path.

  Args:
    path: to make.
    *modules: names of the modules behind the pooling.
    row: content of sentence_bert_config.json.
    said: content of config_sentence_transformers.json.
    **pooling: content of 1_Pooling/config.json, in the keys before release 6.
  """
  shutil.copytree(GOLDEN, path)
  kinds = ("Transformer", "Pooling", *modules)
  folders = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
  write = lambda name, value: (path / name).write_text(json.dumps(value))
  write("modules.json", [dict(idx=i, name=str(i), path=folders.get(kind, f"{i}_{kind}"),
                              type=f"sentence_transformers.models.{kind}")
                         for i, kind in enumerate(kinds)])
  write("1_Pooling/config.json", pooling or dict(pooling_mode_mean_tokens=True))
  write("sentence_bert_config.json", row or {})
  write("config_sentence_transformers.json", said or {})
  return str(path)
