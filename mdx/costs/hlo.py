"""Work of a compiled program, read from its text: cycles and collectives, loops counted through.

Contents: Collective, Costs, read.

Convention: everything is per device and run of the program. A loop's body counts as often as it
runs, which its condition says where a counter is compared with a constant; other loops run
`unknown_trips` times, of several numbers the second within such a loop, and so on. Of a conditional
the mean over its branches is taken, without those that belong to a scope `types.RARE`. The compiler
notes `estimated_cycles` on TPU programs only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import NamedTuple

import numpy as np

from mdx import types

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2,
          "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
          "c128": 16}
_SHAPE = re.compile(r"\b(f8\w+|[a-z]+\d+|pred)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.-]+)")
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
          "collective-broadcast", "ragged-all-to-all")


class Collective(NamedTuple):
  """One kind of exchange between devices.

  Attributes:
    kind: such as "all-gather".
    size: bytes of one: the gathered, reduced or sent array on one device.
    count: number of times it is made in a run.
    groups: devices that exchange with one another, as indices into the mesh; of a permute the
      pairs (source, target); () = all devices together.
    in_ring: whether it belongs to a matmul whose operand goes round in both directions.
  """
  kind: str
  size: float
  count: float
  groups: tuple[tuple[int, ...], ...]
  in_ring: bool = False


class Costs(NamedTuple):
  """Costs of a run of a program on one device.

  Attributes:
    cycles: estimated by the compiler; 0 where it gives no estimate.
    collectives: the exchanges.
    kernels: custom kernels without an estimate: target -> how often they run.
  """
  cycles: float
  collectives: tuple[Collective, ...]
  kernels: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  shape: str
  opcode: str
  operands: str
  rest: str


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
  """Computations by name, each a dict of its instructions, and the name of the entry."""
  lines, current, entry = {}, None, ""
  for line in text.splitlines():
    if line.rstrip() == "}":
      current = None
    elif current is None:
      if match := _COMPUTATION.match(line):
        current = lines.setdefault(match[2], [])
        entry = match[2] if match[1] else entry
    elif line.startswith("  "):
      current.append(line)
    elif current:  # the metadata of a kernel has line breaks
      current[-1] += " " + line
  parsed = {name: [x for x in map(_instruction, body) if x] for name, body in lines.items()}
  return {name: {x.name: x for x in body} for name, body in parsed.items()}, entry


def _instruction(line: str) -> _Instruction | None:
  name, equals, right = line.strip().removeprefix("ROOT ").partition(" = ")
  if not equals:
    return None
  end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
  shape, right = right[:end], right[end:].lstrip()
  opcode, paren, _ = right.partition("(")
  if not paren:
    return None
  close = _closing(right, len(opcode))
  return _Instruction(name.lstrip("%"), shape, opcode, right[len(opcode) + 1:close],
                      right[close + 1:])


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == "(") - (text[i] == ")")
    if not depth:
      return i
  return len(text)


def _sizes(shape: str) -> list[float]:
  """Bytes of the arrays in a type."""
  found = []
  for dtype, dims in _SHAPE.findall(shape):
    width = 1 if dtype.startswith("f8") else _BYTES.get(dtype, 4)
    found.append(width * math.prod(int(d) for d in dims.split(",") if d))
  return found


def _names(operands: str) -> list[str]:
  return re.findall(r"%([\w.-]+)", operands)


class _Reader:
  """Walks the computations of a module."""

  def __init__(self, text: str, unknown_trips: float | tuple[float, ...]):
    self._computations, self._entry = _parse(text)
    self._unknown_trips, self._depth = np.atleast_1d(unknown_trips).tolist(), 0
    self._cycles, self._kernels = 0.0, {}
    self._collectives = {}
    self._fused = set()  # channels of gathers that several fusions carry out together

  def costs(self) -> Costs:
    self._visit(self._entry, 1.0)
    found = tuple(Collective(*key[:2], count, *key[2:]) for key, count in self._collectives.items())
    return Costs(self._cycles, found, self._kernels)

  def _visit(self, name: str, times: float) -> None:
    for one in self._computations.get(name, {}).values():
      cycles = re.search(r'"estimated_cycles":"?(\d{1,15})\b', one.rest)  # 2^63 - 1: unknown
      self._cycles += times * int(cycles[1]) if cycles else 0
      kind = one.opcode.removesuffix("-start")
      if kind in _KINDS:
        self._add(kind, one, times)
      elif one.opcode == "while":
        body, condition = (re.search(rf"{k}=%?([\w.-]+)", one.rest)[1]
                           for k in ("body", "condition"))
        trips = self._trips(name, one, body, condition)
        if trips is not None:
          self._visit(body, times * trips)
          continue
        trips = self._unknown_trips[min(self._depth, len(self._unknown_trips) - 1)]
        self._depth += 1
        self._visit(body, times * trips)
        self._depth -= 1
      elif one.opcode == "conditional":
        branches = [b for b in self._branches(one) if not self._is_rare(b)]
        for branch in branches:
          self._visit(branch, times / len(branches))
      elif one.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', one.rest)
        if target and target[1] == "tpu_custom_call" and not cycles:
          kernel = re.search(r'op_name="[^"]*?([^/"]+)"', one.rest)
          key = kernel[1] if kernel else target[1]
          self._kernels[key] = self._kernels.get(key, 0) + times
      elif one.opcode in ("fusion", "call", "async-start"):
        for called in _CALLED.findall(one.rest):
          self._visit(called, times)

  def _add(self, kind: str, one: _Instruction, times: float) -> None:
    channel = re.search(r"channel_id=(\d+)", one.rest)
    if channel and "async_collective_fusion_config" in one.rest:
      if channel[1] in self._fused:
        return
      self._fused.add(channel[1])
    sizes = _sizes(one.shape)
    if one.opcode == "collective-permute-start":  # (operand, result, contexts ...)
      size = sizes[1]
    elif one.opcode == "all-gather-start":  # (operands ..., results ...)
      size = sum(sizes[len(sizes) // 2:])
    else:
      size = sum(sizes)
    groups = _groups(one.rest)
    if kind == "reduce-scatter":  # what goes in
      size *= len(groups[0]) if groups else 1
    in_ring = kind == "collective-permute" and "dot_general" in one.rest
    key = (kind, size, groups, in_ring)
    self._collectives[key] = self._collectives.get(key, 0.0) + times

  def _branches(self, one: _Instruction) -> list[str]:
    if found := re.search(r"branch_computations=\{([^}]*)\}", one.rest):
      return _names(found[1]) or found[1].replace(" ", "").split(",")
    return re.findall(r"(?:true|false)_computation=%?([\w.-]+)", one.rest)

  def _is_rare(self, branch: str) -> bool:
    return any(re.search(rf'op_name="[^"]*/{types.RARE}/', x.rest)
               for x in self._computations.get(branch, {}).values())

  def _trips(self, parent: str, one: _Instruction, body: str, condition: str
             ) -> float | None:
    """Iterations of a loop, as the compiler says, or from counter, bound and increment."""
    if known := re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', one.rest):
      return float(known[1])
    inside = self._computations.get(condition, {})
    for test in inside.values():
      if test.opcode != "compare" or "direction=LT" not in test.rest:
        continue
      counter, bound = (inside.get(n) for n in _names(test.operands))
      end = self._constant(inside, bound)
      if end is None or counter is None or counter.opcode != "get-tuple-element":
        continue
      index = int(re.search(r"index=(\d+)", counter.rest)[1])
      begin = self._initial(parent, one, index)
      return max(math.ceil((end - begin) / self._increment(body, index)), 0)
    return None

  def _constant(self, inside, one: _Instruction | None) -> int | None:
    while one is not None and one.opcode in ("copy", "bitcast", "convert"):
      one = inside.get(_names(one.operands)[0])
    if one is None or one.opcode != "constant" or not re.fullmatch(r"-?\d+", one.operands):
      return None
    return int(one.operands)

  def _element(self, inside, start: _Instruction | None, index: int) -> _Instruction | None:
    """Element of a tuple, by way of what only hands tuples on."""
    while start is not None and start.opcode in ("copy", "opt-barrier"):
      start = inside.get(_names(start.operands)[0])
    if start is None or start.opcode != "tuple":
      return None
    return inside.get(_names(start.operands)[index])

  def _initial(self, parent: str, one: _Instruction, index: int) -> int:
    inside = self._computations[parent]
    element = self._element(inside, inside.get(_names(one.operands)[0]), index)
    value = self._constant(inside, element)
    return 0 if value is None else value

  def _increment(self, body: str, index: int) -> int:
    inside = self._computations.get(body, {})
    root = list(inside.values())[-1] if inside else None
    one = self._element(inside, root, index)
    total = 0
    while one is not None and one.opcode in ("add", "copy"):
      names = _names(one.operands)
      constants = [c for c in (self._constant(inside, inside.get(n)) for n in names)
                   if c is not None]
      total += sum(constants)
      rest = [n for n in names if self._constant(inside, inside.get(n)) is None]
      one = inside.get(rest[0]) if rest else None
    return total or 1


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
  """Groups of a collective; () where they are all devices or not understood."""
  if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
    return tuple(tuple(int(x) for x in pair.split(","))
                 for pair in re.findall(r"\{?(\d+,\d+)", pairs[1]))
  if listed := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
    return tuple(tuple(int(x) for x in group.split(","))
                 for group in re.findall(r"\{([\d,]+)\}", listed[1]))
  if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
    shape, source = (tuple(map(int, x.split(","))) for x in iota.group(1, 2))
    ids = np.arange(math.prod(source)).reshape(source)
    if iota[3]:
      ids = ids.transpose(tuple(map(int, iota[3].split(","))))
    return tuple(map(tuple, ids.reshape(shape[0], -1).tolist()))
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*)\))? \{([^}]*)\}",
                       rest):
    return _mesh_groups(*mesh.groups())
  return ()


def _mesh_groups(axes: str, device_ids: str | None, chosen: str) -> tuple[tuple[int, ...], ...]:
  """Groups along some axes (or parts of them, written 'x':(before)size) of a named mesh."""
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
  wanted = [(name, int(before or 1), int(size) if size else None)
            for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)]
  shape, names = [], []
  for name, size in sizes.items():  # each axis in the factors that are used of it
    cuts = {1, size} | {c for n, before, part in wanted if n == name
                        for c in ((before, before * part) if part else ())}
    for low, high in itertools.pairwise(sorted(cuts)):
      shape.append(high // low)
      names.append((name, low))
  is_chosen = [any(n == name and (part is None or before <= low < before * part)
                   for n, before, part in wanted) for name, low in names]
  if device_ids and not re.fullmatch(r"[\d, ]+", device_ids):
    return ()
  ids = (np.array([int(x) for x in device_ids.split(",")]) if device_ids
         else np.arange(math.prod(shape)))
  ids = ids.reshape(shape)
  order = sorted(range(len(shape)), key=lambda i: is_chosen[i])
  width = math.prod(s for s, c in zip(shape, is_chosen) if c)
  return tuple(map(tuple, ids.transpose(order).reshape(-1, width).tolist()))


def read(text: str, *, unknown_trips: float | tuple[float, ...] = 1.0) -> Costs:
  """Costs of an optimised module.

  Args:
    text: `compiled.as_text()`.
    unknown_trips: iterations of a loop whose end depends on values; of loops in one another the
      outer first.
  """
  return _Reader(text, unknown_trips).costs()
