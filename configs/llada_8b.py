r"""Pre-training of LLaDA-8B (Nie et al. 2025, arXiv:2502.09992): rows of 4096 tokens, 1280 a step.

Not run here at this size. What the compiler says of it, on a machine without a TPU:
  pip install -e '.[aot]'
  python -m mdx.main --config=configs/llada_8b.py:v5p --config.mode=compile
On a pod, with your data and LLaDA's tokenizer:
  python -m mdx.main --config=configs/llada_8b.py:v5p --distributed --workdir=/mnt/bucket/llada \
    --config.data.source.path='/data/*.txt' --config.tokenizer.path=LLaDA-8B-Base
The argument sets bfloat16, microbatches, rematerialisation and the attention kernel for a machine:
v5p (64 chips), v5e (256 chips) or multislice (two slices of 256 v5e chips, gradients reduced
between them); without one it is float32 and the recipe of any machine.
"""

from mdx.configs import diffusion
from mdx.networks import presets

# With fewer than 128 columns of a matrix a chip (4096 / fsdp) libtpu gathers it at twice the bytes.
_MACHINES = {
    "v5p": dict(compile=dict(topology="v5p:4x4x4"), microbatches=4, remat="dots", data=2),
    "v5e": dict(compile=dict(topology="v5e:16x16"), microbatches=5, remat="full", data=8),
    "multislice": dict(compile=dict(topology="v5e:16x16", slices=2), microbatches=5,
                       remat="full", replica=2, data=8, batch_size=2560),
}


def get_config(arg=None):
  """The recipe of the paper's section 2.2, with a constant learning rate after the warm-up."""
  if arg and arg not in _MACHINES:
    raise ValueError(f"configs/llada_8b.py takes one of {', '.join(_MACHINES)}, got {arg!r}.")
  config = diffusion.get_config("llada")
  config.network = dict(name="transformer", scan_layers=True, attention_backend="xla",
                        init_std=0.02) | presets.preset("llada_8b")
  config.mesh.update(data=1, fsdp=-1)
  config.compile.vocab_size = 126464
  config.tokenizer.path = "LLaDA-8B-Base"
  config.data.update(length=4096, append_eos=True)
  config.data.source.path = ""
  config.eval.baselines = False
  config.update(steps=440_000, batch_size=1280, ema_decay=0.0,
                log_steps=10, eval_steps=5_000, checkpoint_steps=1_000)
  config.optimizer = dict(name="adamw", learning_rate=4e-4, schedule="constant", warmup_steps=2000,
                          weight_decay=0.1, b1=0.9, b2=0.95, clip_norm=1.0, trainable="")
  if arg:
    machine = dict(_MACHINES[arg], dtype="bfloat16")
    config.compile.update(machine.pop("compile"))
    config.network.update(remat=machine.pop("remat"), attention_backend="splash")
    config.mesh.update(replica=machine.pop("replica", 1), data=machine.pop("data"))
    config.update(machine)
  return config
