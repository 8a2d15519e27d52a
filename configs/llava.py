r"""Answers about images: a frozen encoder, a connector, a masked diffusion model (LLaDA-V).

You et al. 2025, arXiv:2505.16933, on small drawn scenes. Without checkpoints an encoder of images
(SimMIM) and a language model of the answers without images are trained first. Stage 1 trains the
connector alone:
  python -m mdx.main --config=configs/llava.py --workdir=runs/llava
`:lora` trains the connector and LoRA of the language model together; `:stage2` does so from a run
of stage 1, which without a checkpoint is made first:
  python -m mdx.main --config=configs/llava.py:stage2 --workdir=runs/llava2 \
    --config.init.checkpoint=runs/llava \
    --config.frozen.encoder.checkpoint=runs/llava/frozen/encoder
Held-out scenes have combinations of colour and shape that no training image has.
"""

import copy

from mdx import config as config_lib
from mdx.configs import common
from mdx.configs import mim
from mdx.data.toys import scene_words


def get_config(arg=None):
  """The connector alone, or "lora", or "stage2"."""
  variant, _ = config_lib.parse_variant(arg, ("lora", "stage2"))
  config = common.get_config()
  config.update(steps=1500, batch_size=32, eval_steps=500, checkpoint_steps=500, ema_decay=0.0)
  config.init.params = "raw"
  config.network.update(num_layers=3, width=64, num_heads=4, mlp_width=128, max_length=64)
  config.tokenizer.path = scene_words.TOKENIZER
  config.data = dict(
      length=9,  # tokens of the prompt and the answer
      num_patches=16, channels=48,  # patches of an image, and values of a patch
      source=dict(
          name="scenes",
          shown="own",  # image of a scene: own, other (of another scene), blank
          num_train=4000, num_validation=400,  # scenes
          most=2, held_out=True,  # objects of a scene; whether validation has new combinations
          height=16, width=16, colors=3, patch=4),  # in pixels
      packing="pad",
      fill="eos",  # what follows an answer: ends of text, which are predicted
      fill_multiple=16, too_long="error", append_eos=True, isolate_documents=True,
      on_error="stop", num_shards=1)
  config.optimizer.update(learning_rate=3e-3)
  config.eval.update(final_samples=2, num_samples=1, baselines=False, evaluators=("words",))
  config.eval.rules = dict(  # rules of decoding; each has one field with several values
      confidence=dict(steps=(8, 2)))
  config.eval.slots = dict(  # kinds of words whose accuracy is measured
      colour=tuple(scene_words.COLOURS), shape=scene_words.SHAPES, place=scene_words.PLACES)
  config.sampler.num_samples = 0
  base = copy.deepcopy(config)
  encoder = mim.get_config()
  config.objective = dict(
      name="connector",
      connector=dict(name="mlp"),  # linear, mlp, or resampler (num_queries, num_heads)
      encoder="encoder",  # its name in `frozen`
      num_features=encoder.network.get_oneway_ref("width"),  # width of its states
      is_new=variant != "stage2",  # whether the connector begins from the seed
      schedule=dict(name="linear", eps=1e-3), time="lattice", mask_draw="bernoulli",
      normalizer="per_row")
  base.objective = dict(name="diffusion", mask_draw="exact_count")
  base.update(steps=600, eval_steps=0, checkpoint_steps=600)
  base.data.update(num_patches=0, channels=0)
  base.data.source.shown = "none"
  base.eval.update(evaluators=(), slots=dict())
  with base.eval.unlocked():
    del base.eval["rules"]
  encoder.update(steps=600, batch_size=64, eval_steps=0, checkpoint_steps=600, ema_decay=0.0)
  encoder.init.params = "raw"
  encoder.data.update(channels=48, layout="patches")
  encoder.data.source = dict(config.data.source)
  encoder.eval.update(evaluators=(), num_samples=1)
  # The encoder: `base`, a config that is trained first, `alone`, from its own start.
  config.frozen = dict(encoder=dict(checkpoint="", base=encoder, alone=True, params="raw"))
  config.init.base = base  # config of the training of the language model, without a checkpoint
  if variant:
    config.lora.update(rank=8)
  if variant == "stage2":
    config.optimizer.update(learning_rate=1e-3, trainable="connector/.*|.*/lora_[ab]")
    config.init.base = get_config()
  return config
