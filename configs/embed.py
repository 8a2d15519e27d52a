r"""Embeddings of the texts of a file, by any model that reads text.

The file is a .txt (a text a line), .csv, .tsv or .jsonl, also .gz or .xz:
  python -m mdx.main --config=configs/embed.py --workdir=runs/embedded \
    --config.init.checkpoint=all-MiniLM-L6-v2 --config.path=texts.jsonl
Writes embeddings.npy (float32, a row a text), ids.json in the same order, and embeddings.json: what
made them. Goes on where it was stopped, to the same bytes. In Python: mdx.load(PATH).encode(TEXTS)
"""

from ml_collections import config_dict

from mdx.configs import common


def get_config(arg=None):
  """No arguments."""
  if arg:
    raise ValueError(f"configs/embed.py takes no argument, got {arg!r}.")
  return config_dict.ConfigDict(dict(
      mode="embed",  # the only one of this config
      # A run's workdir, a checkpoint, an export, or a directory of Hugging Face or
      # sentence-transformers, whose pooling, prompts and normalisation count.
      init=dict(checkpoint=""),
      path="",  # .txt, .csv, .tsv or .jsonl (also .gz, .xz) with the texts
      field="text",  # column with the texts
      id_field="",  # column with the ids, none twice; "" = the rows are numbered
      has_header=True,  # whether the first line names the columns; otherwise they are "0", "1", ...
      kind="",  # of the texts, for the model's prompts: query, document or another of its own
      embedding=dict(  # how texts become vectors; "" and 0 = as the model has it
          # first, last, mean, weighted_mean, max, last_layers(num_layers=4), suffix,
          # suffix(num_tokens=3), special(ids=(5, 6))
          pooling="",
          # A text before every text, or a template: 'This sentence : "{text}" means in one word: "'
          prompt="",
          attention="",  # causal, bidirectional, or echo (the text twice, the second is pooled)
          layer=-1,  # whose states are pooled, from 0, or from -1 at the end
          normalize="",  # yes or no: whether vectors have length 1
          dim=0,  # columns that are kept (Matryoshka)
          max_length=0),  # tokens of a text that are read
      batch_size=32,  # rows of about one length read together
      dtype="",  # of activations: float32 or bfloat16; "" = as in training
      mesh=dict(common.get_config().mesh),
  ))
