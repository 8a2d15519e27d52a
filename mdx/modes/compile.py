"""Mode compile: needs of a config on machines that are not there.

Contents: run.

The programs of a run (the train step; or the rollout and the update of RL, and with a
`rollout.mesh` the placement of its weights and, for comparison, the rollout without it) are
compiled ahead of time for a topology, from shapes alone: libtpu compiles for TPUs on any host
(extra `aot`), and "gpu:8" is eight devices simulated on the host. `compile.json` has the compiler's
findings.

Convention: everything is the compiler's estimate and nothing was measured. Bytes and FLOPs are per
chip, seconds those of one run of a program: compute is the compiler's estimated cycles over the
clock (and of attention kernels, for which it has no estimate, their model FLOPs at half of the
peak), collectives their bytes over the links (`costs.chips`); `estimated_seconds` is the sum of
the two, as if nothing overlapped, and the MFU is over it. FLOPs are the model's, from shapes,
without anything computed again. A program fits with what else is on a chip meanwhile
(`bytes_beside`): of a rollout the rest of the train state and the base model.
"""

from __future__ import annotations

import itertools
import pathlib
import re
import time
from typing import Any, Mapping, NamedTuple

import jax
import numpy as np

from mdx import config as config_lib
from mdx import sharding
from mdx.build import programs as programs_lib
from mdx.costs import budget
from mdx.costs import chips
from mdx.costs import flops
from mdx.costs import hlo
from mdx.networks import backends
from mdx.utils import console
from mdx.utils import files

_KERNEL_SPEED = 0.5  # of the peak: a guess, where the compiler says nothing
_COLUMNS = ("mesh", "remat", "microbatches", "program", "GiB a chip", "fits", "compute s",
            "collectives s", "MFU")


def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """Compiles the programs of a config; writes `workdir/compile.json`.

  Raises:
    ValueError: a topology that does not exist, or a config that does not fit it.
    chips.TooLarge: a program needs more memory than a chip has; everything is written before.
  """
  config = config_lib.to_dict(config)
  if jax.distributed.is_initialized():
    raise ValueError("mode compile is for one process; start it without --distributed.")
  options = config.get("compile")
  if not options:
    raise ValueError("mode compile needs config.compile, which this config lacks; take a training "
                     "config or one of RL.")
  target = chips.target(options["topology"], options["slices"])
  console.say(f"{target.name}: {target.num_chips} chips; estimates of the compiler, nothing is "
                "measured")
  if options["sweep"]:
    report = _sweep(config, workdir, target)
  else:
    report = _report(target, _compile(config, workdir, target))
  run_programs = [one for one in report["programs"] if one["repeats"]]
  cost = budget.of_run(config, run_programs, num_chips=target.num_chips,
                       price=options.get("price", 0.0))
  report["run"] = cost and cost._asdict()
  if text := _placement_text(report["programs"]):
    console.say(text)
  console.say(_cost_text(cost))
  path = pathlib.Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  files.write_json(path / "compile.json", report)
  console.say(f"see {path}/compile.json")
  misfits = [one for one in run_programs if one["fits"] is False]
  if misfits:
    raise chips.TooLarge(" ".join(_advice(one, report) for one in misfits))
  return report


def _report(target: chips.Target, found: list[dict[str, Any]]) -> dict[str, Any]:
  return {"topology": target.name, "num_chips": target.num_chips,
          "hbm_bytes": target.chip.hbm if target.chip else None, "programs": found}


def _compile(config: Mapping[str, Any], workdir: str, target: chips.Target) -> list[dict[str, Any]]:
  """Compiles every program of a config, one after another."""
  with backends.compiling_for("tpu" if target.chip else "cpu"):
    mesh = sharding.make_mesh(config["mesh"], devices=target.devices)
    found = []
    programs = programs_lib.of_config(config, workdir, mesh)
    for number, program in enumerate(programs, 1):
      began = time.monotonic()
      console.say(f"compiling {program.name} ({number} of {len(programs)}) ...")
      one = _cost(program, mesh, target)
      console.say(_line(one) + f"  (compiled in {time.monotonic() - began:.0f} s)")
      found.append(one)
  return found


class _Compiled(NamedTuple):
  """Findings of the compiler on a program, per device."""
  arguments: float
  temporaries: float
  costs: hlo.Costs | None


def _cost(program: programs_lib.Program, mesh: jax.sharding.Mesh,
          target: chips.Target) -> dict[str, Any]:
  """The entry of a program in the report."""
  mesh = program.mesh or mesh
  with jax.set_mesh(mesh):
    count = lambda f: flops.count(f, *program.arguments, unknown_trips=program.trips)
    model_flops = count(program.plain) / target.num_chips
    in_kernels = model_flops - count(program.kernels) / target.num_chips if program.kernels else 0
    lowered = program.function.lower(*program.arguments)
  cores = target.devices_per_chip
  kinds = {k: cores * _bytes(v) for k, v in program.kinds.items()}
  compiled = _compiled(lowered, sum(kinds.values()) / cores, program.trips)
  arguments, temporaries = (cores * x for x in (compiled.arguments, compiled.temporaries))
  total, beside = arguments + temporaries, int(cores * _bytes(program.beside))
  entry = {
      "name": program.name,
      "bytes_per_chip": {"arguments": int(arguments), "temporaries": int(temporaries),
                         "total": int(total)},
      "bytes_by_kind": {k: int(v) for k, v in kinds.items()} | {"activations": int(temporaries)},
      "bytes_beside": beside,
      "fits": total + beside <= target.chip.hbm if target.chip and compiled.costs else (
          False if target.chip else None),
      "flops_per_chip": model_flops, "repeats": program.repeats, "collectives": {},
      "estimated_seconds": None, "estimated_mfu": None, "seconds": None}
  if compiled.costs is None:
    return entry
  for one in compiled.costs.collectives:
    entry["collectives"][one.kind] = (entry["collectives"].get(one.kind, 0)
                                      + int(cores * one.size * one.count))
  if target.chip:
    entry |= _times(compiled.costs, model_flops, in_kernels, mesh, target)
  return entry


def _times(costs: hlo.Costs, model_flops: float, in_kernels: float, mesh,
           target: chips.Target) -> dict[str, Any]:
  kernels = in_kernels / (_KERNEL_SPEED * target.chip.peak) if costs.kernels else 0.0
  compute = costs.cycles / target.chip.clock + kernels
  devices = mesh.devices.flatten()
  links = sum(one.count * chips.transfer_seconds(one, devices, target.chip)
              for one in costs.collectives)
  return {"estimated_seconds": compute + links,
          "estimated_mfu": model_flops / target.chip.peak / max(compute + links, 1e-12),
          "seconds": {"compute": compute, "kernels": kernels, "collectives": links,
                      "max": max(compute, links), "sum": compute + links},
          "kernels_without_estimate": costs.kernels}


def _compiled(lowered, arguments: float, trips: float | tuple[float, ...]) -> _Compiled:
  """Compiles; a program that the compiler finds too large has no costs."""
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    used = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", str(error))
    more = re.search(r"for HLO temporaries \(([\d.]+)([KMG])\) exceeds", str(error))
    if not used and not more:
      raise
    number, unit = (used or more).groups()
    size = float(number) * 2 ** {"K": 10, "M": 20, "G": 30}[unit]
    return _Compiled(arguments, max(size - arguments, 0) if used else size, None)
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    raise ValueError("the compiled program cannot be read, so this libtpu is not the release that "
                     f"jax asks for; pip install -e '.[aot]' ({str(error).splitlines()[0]:.120}"
                     ").") from None
  memory = compiled.memory_analysis()
  more = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return _Compiled(memory.argument_size_in_bytes,
                   memory.temp_size_in_bytes + more + memory.generated_code_size_in_bytes,
                   hlo.read(text, unknown_trips=trips))


def _bytes(tree: Any) -> float:
  """Bytes of a tree of shape structs on one device."""
  keys = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
             for x in jax.tree.leaves(tree) if not keys(x))


def _line(one: Mapping[str, Any]) -> str:
  """A program on one line of the console."""
  size = one["bytes_per_chip"]
  total, arguments, temporaries = (size[k] / 2 ** 30 for k in ("total", "arguments", "temporaries"))
  beside = one["bytes_beside"] / 2 ** 30
  text = (f"{one['name']:<11}{total:7.2f} GiB a chip ({arguments:.2f} arguments, "
          f"{temporaries:.2f} temporaries{f'; {beside:.2f} beside' if beside else ''})"
          f"  {one['flops_per_chip'] / 1e12:,.3g} TFLOP a chip")
  if one["seconds"]:
    text += (f"  {one['seconds']['compute']:.3g} s compute + {one['seconds']['collectives']:.3g} s "
             f"collectives ({sum(one['collectives'].values()) / 2 ** 30:,.3g} GiB), MFU "
             f"{100 * one['estimated_mfu']:.0f} %")
  return text + ("  DOES NOT FIT" if one["fits"] is False else "")


def _placement_text(programs: list[dict[str, Any]]) -> str:
  """Rollouts of an iteration with and without `rollout.mesh`, on one line; "" where it is not set.
  """
  found = {one["name"]: one["seconds"] for one in programs}
  if not found.get("rollout_in_place"):
    return ""
  times = next(one["repeats"] for one in programs if one["name"] == "rollout")
  text = []
  for name, moved in (("rollout", found["placement"]), ("rollout_in_place", {})):
    total = times * found[name]["sum"] + moved.get("sum", 0.0)
    links = times * found[name]["collectives"] + moved.get("collectives", 0.0)
    text.append(f"{total:.3g} s, {100 * links / total:.0f} % of them collectives")
  return f"rollouts of an iteration: {text[0]}; without rollout.mesh {text[1]}"


def _cost_text(cost: budget.Budget | None) -> str:
  """The cost of the whole run on one line of the console."""
  if cost is None:
    return "the cost of the run is not known: a program has no estimated time."
  money = "" if cost.money is None else f", {cost.money:,.0f} at config.compile.price"
  return (f"whole run: {cost.iterations:,} iterations, {cost.tokens:.3g} tokens, "
          f"{cost.days:,.2f} days, {cost.chip_hours:,.0f} chip-hours{money}; without evaluation, "
          "checkpoints and restarts")


def _advice(one: Mapping[str, Any], report: Mapping[str, Any]) -> str:
  """Advice on a program that is too large: the excess, and what to turn."""
  over = one["bytes_per_chip"]["total"] + one["bytes_beside"] - report["hbm_bytes"]
  if one["name"] == "placement":
    knob = "cut the weights for decoding more often: a larger rollout.mesh.tensor"
  elif one["bytes_per_chip"]["arguments"] > report["hbm_bytes"] / 2:
    knob = "parameters and optimizer are most of it: more chips, or a larger mesh.fsdp or tensor"
  elif one["name"] == "rollout":
    knob = "decode fewer rows together: a smaller rollout.batch_size"
  else:
    knob = ("activations are most of it: more microbatches, network.remat=full (of RL: "
            "remat=full), or a larger mesh.tensor or sequence")
  return (f"{one['name']} does not fit {report['topology']}: {over / 2 ** 30:.2f} GiB a chip over "
          f"its {report['hbm_bytes'] / 2 ** 30:.0f} GiB; {knob}.")


def _sweep(config: dict[str, Any], workdir: str, target: chips.Target) -> dict[str, Any]:
  """Compiles meshes, remat policies and microbatches; the report of the best, a table of all."""
  options, rows, best = config["compile"], [], None
  cells = list(itertools.product(*(
      options[name] or (config["microbatches"],)
      for name in ("data", "tensor", "sequence", "remat", "microbatches"))))
  for number, (*axes, remat, microbatches) in enumerate(cells, 1):
    sizes = dict(config["mesh"], **dict(zip(("data", "tensor", "sequence"), axes)), fsdp=-1)
    changed = config | {"mesh": sizes, "microbatches": microbatches} | programs_lib.with_remat(
        config, remat)
    label = "".join(f"{k} {v}, " for k, v in sizes.items() if v not in (1, -1)) + "fsdp rest"
    console.say(f"{number} of {len(cells)}: {label}, remat {remat}, microbatches {microbatches}:")
    row = {"mesh": label, "remat": remat, "microbatches": microbatches}
    try:
      found = _compile(changed, workdir, target)
    except ValueError as error:
      console.say(f"  {error}")
      rows.append(row | {"error": str(error)})
      continue
    rows.append(row | {"programs": found})
    score = (all(one["fits"] is not False for one in found if one["repeats"]),
             -sum((one["estimated_seconds"] or 0) * one["repeats"] for one in found))
    if best is None or score > best[0]:
      best = score, found
  if best is None:
    raise ValueError(f"no mesh of the sweep fits the config; the last one: {rows[-1]['error']}")
  console.say("\n" + table(rows))
  return _report(target, best[1]) | {"sweep": rows}


def table(rows: list[dict[str, Any]]) -> str:
  """The rows of a sweep as a table in Markdown."""
  lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
  for row in rows:
    for one in row.get("programs", ()):
      seconds, mfu = one["seconds"] or {}, one["estimated_mfu"]
      shown = [row["mesh"], row["remat"], str(row["microbatches"]), one["name"],
               f"{one['bytes_per_chip']['total'] / 2 ** 30:.1f}",
               {True: "yes", False: "no", None: ""}[one["fits"]]]
      shown += [f"{seconds[k]:.3g}" if seconds else "" for k in ("compute", "collectives")]
      lines.append("| " + " | ".join(shown + [f"{100 * mfu:.0f} %" if mfu else ""]) + " |")
  return "\n".join(lines)
