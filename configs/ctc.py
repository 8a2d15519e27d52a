r"""Speech recognition by CTC, from a pre-trained encoder, on packaged digits (spelled words).

Without a checkpoint the encoder of configs/w2v_bert.py is trained first, under `workdir/base`:
  python -m mdx.main --config=configs/ctc.py --workdir=runs/ctc
`:scratch` begins from the seed. Your recordings have transcripts in a .tsv file:
  python -m mdx.main --config=configs/ctc.py --workdir=runs/asr \
    --config.init.checkpoint=runs/speech --config.data.source.name=speech \
    --config.data.source.path=FOLDER --config.data.source.labels=transcripts.tsv
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import w2v_bert


def get_config(arg=None):
  """Fine-tuning of the small encoder, or training from the seed."""
  variant, _ = config_lib.parse_variant(arg, {"scratch": {}})
  config = common.get_config()
  config.update(steps=400, batch_size=32, ema_decay=0.0, eval_steps=100)
  w2v_bert.digits(config)
  config.data.transcript_length = 5
  base = w2v_bert.get_config()
  config.network = base.network
  config.objective = dict(name="ctc", frontend=dict(base.objective.frontend),
                          init_std=0.02)  # spread of the new map to the labels
  config.optimizer.update(learning_rate=1e-3)
  if not variant:
    config.init.base = base  # config of the training of the encoder, without a checkpoint
  return config
