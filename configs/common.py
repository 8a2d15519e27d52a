"""Keys that all training configs share; every key is explained here.

A method's config calls `get_config()` and changes what differs. Small configs run on
two CPU cores in minutes.
"""

from ml_collections import config_dict

from mdx import config as config_lib
from mdx.networks import presets


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
  """Defaults of a small run on the packaged text.

  Args:
    arg: what follows the file name. "preset=NAME" takes a size of `networks.presets` and
      the recipe of MDLM (arXiv:2406.07524): bfloat16, batch 512, AdamW 3e-4 constant after
      2500 steps of warm-up, EMA 0.9999, a million steps. Bring your own data then.
  """
  config = _small()
  preset = config_lib.parse_arg(arg, preset="")["preset"]
  if preset:
    network = dict(name="transformer", max_length=1024, init_std=0.02, remat="dots",
                   scan_layers=True, attention_backend="xla") | presets.preset(preset)
    config.network = network
    config.data.length = network["max_length"]
    config.update(dtype="bfloat16", steps=1_000_000, batch_size=512, ema_decay=0.9999,
                  log_steps=100, eval_steps=10_000, checkpoint_steps=5_000)
    config.optimizer = dict(name="adamw", learning_rate=3e-4, schedule="constant",
                            warmup_steps=2500, decay_share=0.2, weight_decay=0.0, b1=0.9,
                            b2=0.999, clip_norm=1.0)
  return config


def read_requests(config: config_dict.ConfigDict) -> None:
  """The data become the packaged requests, one a row, without those of test of task "intent"."""
  config.tokenizer.path = "asset:snips_bpe2048.json"
  config.data.update(length=24, packing="crop")
  config.data.source = dict(name="text", path="asset:snips.txt.xz", document_chars=1,
                            holdout_every=10)


def _small() -> config_dict.ConfigDict:
  return config_dict.ConfigDict(dict(
      mode="train",  # train, eval, export or compile
      seed=0,  # of weights, order of the data, and all draws
      steps=1000,  # any positive number; warm-up and intervals shrink with it
      batch_size=64,  # rows a step over all devices
      microbatches=1,  # gradient accumulation: passes that a batch is cut into
      dtype="float32",  # of activations: float32, bfloat16, "" = as init.checkpoint stores weights
      ema_decay=0.99,  # of the averaged weights; 0 keeps none

      objective=dict(name=""),
      network=dict(  # fields of networks.transformer.Transformer
          name="transformer", num_layers=4, width=128, num_heads=4, mlp_width=384,
          max_length=1024, scan_layers=False, attention_backend="xla",  # or cudnn, splash
          init_std=0.5),  # embeddings; 0.02 keeps a small model on the unigram plateau for long
      optimizer=dict(
          name="adamw",  # or muon
          learning_rate=2e-3, schedule="cosine", warmup_steps=100, final_rate=0.05,
          decay_share=0.2,  # of the steps, of schedule wsd or wsd_sqrt: constant, then a decay
          weight_decay=0.05, b1=0.9, b2=0.98, clip_norm=1.0,
          trainable="",  # pattern of the paths of the parameters that are trained; "" = all
          layer_decay=1.0,  # rate of a layer over that of the one above it
          masks=()),  # which entries move: one table, dict(name=..., **fields), of train.masks

      mesh=dict(  # devices on each axis; -1: those that remain
          replica=1,  # copies, such as slices of TPUs; rows are cut over them
          data=-1,  # rows are cut over them
          fsdp=1,  # rows, parameters and moments are cut over them
          tensor=1,  # heads, MLP and vocabulary are cut over them
          sequence=1),  # positions of a row are cut over them
      sharding=dict(  # axis of the mesh that a dimension of the parameters is cut over
          vocab="tensor",  # ids
          embed="fsdp",  # width of the residual
          mlp="tensor",  # hidden width of the MLP
          heads="tensor"),  # heads of attention

      init=dict(
          # Weights to start from (or to evaluate, to export); "" = the seed. Of a Hugging Face
          # directory, network and tokenizer are taken too.
          checkpoint="",
          params="ema",  # which weights of it, and which are evaluated: ema or raw
          adapter="",  # directory of a PEFT adapter for it, to go on with
          weights=""),  # int8: weights of one byte, where adapters alone are trained
      # Models that are read and not trained: name -> dict(checkpoint=..., params="ema" or "raw"),
      # or dict(base=CONFIG), trained first from the weights that the run starts from, or with
      # alone=True from its own start, as a model of its own.
      frozen=dict(),
      lora=dict(  # new adapters, which alone are trained if nothing else is said
          rank=0,  # 0 = none
          alpha=0.0,  # their factor is alpha / rank; 0 = rank
          targets=("q", "k", "v", "o", "gate", "up", "down")),  # linear maps that have one
      adaptations=(),  # further ones, dict(name=..., **fields) each (networks.adaptation)

      tokenizer=dict(
          path="asset:holmes_bpe512.json",  # byte, char, char:FILE, asset:NAME, tokenizer.json
          mask_id=-1, pad_id=-1, eos_id=-1, bos_id=-1,  # -1: found by their usual names
          chat_template=""),  # Jinja file; "" = the one beside a tokenizer.json
      data=dict(
          length=64,  # tokens a row
          source=dict(  # fields of data.sources; "" and -1 leave a field at its default
              name="text",  # text, jsonl, chat, parquet, arrow, array_record, tfds or memory
              path="asset:holmes.txt.xz", validation_path="", field="",
              data_dir="", builder="",  # of tfds
              holdout_every=-1),  # one document in this many is held out (20)
          packing="concat",  # concat, first_fit, pad or crop
          append_eos=False,  # documents are slices of one text
          isolate_documents=True,
          on_error="stop",  # or skip: records that cannot be read or do not fit
          num_shards=1),  # streams a batch is cut from; on a pod a multiple of its processes

      eval=dict(
          estimator="stratified",  # stratified, monte_carlo, lattice_k or quadrature
          num_samples=2,  # draws a row during training, over `num_batches` batches
          num_batches=8,  # of the held-out part that are read during training
          final_samples=16,  # draws a row at the end, over the whole held-out part
          gradient_draws=0,  # at the end also the variance of the gradient over so many draws
          # Linear probe of the frozen encoder from so many labels (0: none), during and after
          # training, averaged over `num_draws`; see eval.linear.
          probe=dict(num_labels=0, num_draws=20, pool=512, ridge=1.0, seed=0),
          evaluators=(),  # names in eval.evaluators, beside those of the objective
          baselines=True),  # unigram and bigram bits per character
      sampler=dict(  # of the samples at the end
          num_samples=4,  # rows; 0 = none
          steps=64, temperature=1.0),

      log_steps=50,  # steps between two lines of metrics
      eval_steps=250,  # between two evaluations of the held-out part; 0 = only at the end
      checkpoint_steps=250,  # between two checkpoints
      checkpoint=dict(
          keep=2,  # the newest so many stay
          directory=""),  # where they are, also gs://bucket/run (extra gcs); "" = the workdir
      profile_steps=(),  # first,last: a trace of these steps in workdir/profile
      tensorboard=False,  # event files (extra `log`)
      wandb="",  # project of Weights & Biases (extra `wandb`)
      export=dict(  # of mode=export
          # huggingface: adapters are merged; sentence_transformers: what embeds texts; peft: the
          # adapters alone; orbax: for mdx.
          format="orbax",
          path="",  # a new directory
          model_type="",  # of interop.FAMILIES; "" = where it came from, or what holds it
          dtype=""),  # float32, bfloat16, float16; "" = as in the directory it came from
      compile=dict(  # of mode=compile
          topology="v5e:4x4",  # or v4, v5p, v6e, tpu7x; gpu:8 = devices simulated on the host
          slices=1,  # of TPUs; mesh.replica (or data) is cut over them
          price=0.0,  # of a chip for an hour, in any currency; 0 = not known
          vocab_size=0,  # ids, where the tokenizer is not here
          sweep=False,  # compile a table of meshes, remat policies and microbatches:
          data=(1,), tensor=(1, 2, 4), sequence=(1,),  # of a sweep: sizes; the rest is fsdp
          remat=("dots", "full"),  # of a sweep
          microbatches=()),  # of a sweep; () = as in training
  ))
