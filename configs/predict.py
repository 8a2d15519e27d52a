r"""Labels for new rows, by a run of configs/finetune.py.

The file is a .csv, .tsv or .jsonl with the columns that the run was trained on, and no label:
  python -m mdx.main --config=configs/predict.py --workdir=runs/labelled \
    --config.init.checkpoint=runs/sst2 --config.path=new.csv
Writes predictions.jsonl: the columns, the label and the probability of every label. A tagger reads
a column of texts whose words are separated by blanks.
"""

from ml_collections import config_dict

from mdx.configs import common


def get_config(arg=None):
  """No arguments."""
  if arg:
    raise ValueError(f"configs/predict.py takes no argument, got {arg!r}.")
  return config_dict.ConfigDict(dict(
      mode="predict",  # the only one of this config
      # Workdir of a run of configs/finetune.py, whose best weights on validation are read; or one
      # of its checkpoints, or an export.
      init=dict(checkpoint=""),
      path="",  # .csv, .tsv or .jsonl (also .gz, .xz) with the new rows
      fields=(),  # columns with the texts; () = those that the run was trained on
      has_header=True,  # whether the first line names the columns; otherwise they are "0", "1", ...
      batch_size=64,  # rows read together
      dtype="",  # of activations: float32 or bfloat16; "" = as in training
      mesh=dict(common.get_config().mesh),
  ))
