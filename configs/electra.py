r"""ELECTRA (Clark et al. 2020, arXiv:2003.10555) on the packaged text.

  python -m mdx.main --config=configs/electra.py --workdir=runs/electra
The discriminator is the model. `:electric` has the generator of two towers of Electric
(arXiv:2012.08561), `:small` the network of ELECTRA-Small and its recipe, which Hugging Face
reads; bring your own data then:
  python -m mdx.main --config=configs/electra.py:small --workdir=runs/small \
    --config.data.source.path='/texts/*.txt' --config.tokenizer.path=tokenizer.json
"""

from mdx import config as config_lib
from mdx.configs import common


def get_config(arg=None):
  """A quarter of the width for the generator, shared embeddings, or a variant."""
  values = config_lib.parse_arg(arg, small=False, electric=False)
  config = common.get_config()
  config.network.head = "rtd"
  config.objective = dict(
      name="electra",
      unit="token", mask_rate=0.15, mask_draw="exact_count",  # what is selected: see mlm.py
      span_max=1, span_rate=0.2, final_mask_rate=0.0, rate_schedule="linear", anneal_steps=0,
      num_masks=0,
      generator="model",  # model, two_tower (Electric) or uniform (no generator)
      generator_width=0.25, generator_depth=1.0,  # shares of the model's
      tie="embeddings",  # none, embeddings or all
      keep_rate=0.15,  # of the selected, what the generator sees
      temperature=1.0, disallow_correct=False,  # of its samples
      loss_on="all",  # or masked
      rtd_weight=50.0)
  if values["electric"]:
    config.objective.generator = "two_tower"
  if values["small"]:
    config.network = dict(
        name="transformer", num_layers=12, width=256, num_heads=4, mlp_width=1024, mlp="gelu_erf",
        norm="layer", norm_eps=1e-12, post_norm=True, embed_norm=True, embed_width=128,
        token_types=2, position="learned", max_length=512, use_bias=True, head="rtd",
        init_std=0.02, scan_layers=True, attention_backend="xla")
    config.update(steps=1_000_000, batch_size=128, dtype="bfloat16", log_steps=100,
                  eval_steps=10_000, checkpoint_steps=5_000)
    config.data.length = 128
    config.optimizer.update(learning_rate=5e-4, schedule="linear", warmup_steps=10_000,
                            final_rate=0.0, weight_decay=0.01, b1=0.9, b2=0.999)
  return config
