r"""Mask tuning: a trained model learns new texts by leaving out some of its weights (R-AMT).

arXiv:2307.15049. A masked-diffusion model of the packaged books (kept under `workdir/base`) reads
spoken requests; of the attention's weights, all frozen, masks are trained, and their gradient is
dropped where it goes against what the model says already. The books' loss is measured, too:
  python -m mdx.main --config=configs/mask_tuning.py --workdir=runs/mask_tuning
`:ungated` drops nothing (AMT). A model of yours, trained with the objective that is given:
  python -m mdx.main --config=configs/mask_tuning.py --workdir=runs/mine \
    --config.init.checkpoint=runs/diffusion --config.data.source.path='new/*.txt' \
    --config.eval.elsewhere.before.path='old/*.txt'
`mode=export` writes the model with zeros in place of the weights that are left out.
"""

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import diffusion


def get_config(arg=None):
  """With gradient dropout, or "ungated"."""
  variant, _ = config_lib.parse_variant(arg, ("ungated",))
  config, base = common.get_config(), diffusion.get_config()
  config.update(steps=400, eval_steps=100, checkpoint_steps=400, ema_decay=0.0)
  config.objective = dict(
      name="gradient_dropout",
      drop_share=0.0 if variant else 1.0,  # of the gradient that goes against the model's own
      model=base.objective.to_dict())  # as `init.checkpoint` was trained
  config.optimizer.update(learning_rate=8e-5, warmup_steps=0, weight_decay=0.0)
  config.adaptations = (dict(
      name="mask_tuning",
      start=0.01, threshold=0.005,  # scores at first; above which a weight is used
      norm=1e-4,  # factor of the norms of the scores, in the loss
      targets=("q", "k", "v", "o")),)
  config.data.source = dict(name="text", path="asset:snips.txt.xz", validation_path=None,
                            holdout_every=20)
  config.eval.update(baselines=False, evaluators=("elsewhere",),
                     elsewhere=dict(before=base.data.source.to_dict()))  # name -> source
  config.frozen = dict(reference=dict(checkpoint="init"))  # the weights the run starts from
  config.init.base = base  # config of the training of the model, without a checkpoint
  config.init.params = "raw"
  config.sampler.num_samples = 0
  return config
