"""Readings of compiled programs: loops, branches, collectives, cycles."""

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import jax.numpy as jnp
import pytest

from mdx import sharding
from mdx import types
from mdx.costs import hlo

# As libtpu writes it, shortened: a loop from 1 in steps of 2 below 8, one that goes round a ring, a
# gather that two fusions carry out together, and a kernel whose metadata has line breaks.
_TPU = '''HloModule jit_step, is_scheduled=true

%fused.1 (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  ROOT %all-gather.1 = f32[64]{0:T(128)} all-gather(%p), channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
}

%fused.2 (p.1: f32[8]) -> f32[64] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %all-gather.2 = f32[64]{0:T(128)} all-gather(%p.1), channel_id=7, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
}

%cond (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8]{0:T(8,128)(2,1)}) parameter(0)
  %bound = s32[] constant(8)
  %i = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%body (r: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(8,128)(2,1)}) parameter(0)
  %j = s32[] get-tuple-element(%r), index=0
  %x = f32[8]{0} get-tuple-element(%r), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%j, %one)
  %after = s32[] add(%next, %one)
  %permute = (f32[8]{0}, f32[8]{0}, u32[]) collective-permute-start(%x), channel_id=3, source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(step)/mlp/dot_general"}
  %done = f32[8]{0} collective-permute-done(%permute)
  %work = f32[8]{0} fusion(%done), kind=kLoop, calls=%fused.3, backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %out = (s32[], f32[8]) tuple(%after, %work)
}

%fused.3 (p.2: f32[8]) -> f32[8] {
  ROOT %p.2 = f32[8]{0} parameter(0)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %zero = s32[] constant(1)
  %begin = s32[] copy(%zero)
  %init = (s32[], f32[8]) tuple(%begin, %a)
  %loop = (s32[], f32[8]) while(%init), condition=%cond, body=%body
  %y = f32[8]{0} get-tuple-element(%loop), index=1
  %g.1 = f32[64]{0} fusion(%y), kind=kCustom, calls=%fused.1
  %g.2 = f32[64]{0} fusion(%y), kind=kCustom, calls=%fused.2, backend_config={"estimated_cycles":"9223372036854775807"}
  %kernel = f32[8]{0} custom-call(%y), custom_call_target="tpu_custom_call", kernel_metadata={
"x":"{\\"block\\": 512}"
}}, metadata={op_name="jit(step)/attention/splash"}
  %sum = f32[8]{0} all-reduce(%kernel), channel_id=9, replica_groups={{0,2},{1,3}}, to_apply=%fused.3
  %scattered = f32[2]{0} reduce-scatter(%sum), channel_id=10, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, to_apply=%fused.3
  ROOT %end = f32[8]{0} fusion(%sum), kind=kLoop, calls=%fused.3, backend_config={"estimated_cycles":"7"}
}
'''


def _found(costs):
  return {c.kind: c for c in costs.collectives}


def test_a_tpu_program_is_read_with_loops_counted_through():
  costs = hlo.read(_TPU)
  assert costs.cycles == 4 * 100 + 7  # 1, 3, 5, 7; the largest number means that there is none
  assert costs.kernels == {"splash": 1}
  found = _found(costs)
  assert len(costs.collectives) == 4
  permute = found["collective-permute"]
  assert (permute.size, permute.count, permute.in_ring) == (32, 4, True)
  assert permute.groups == ((0, 1), (1, 0))
  gather = found["all-gather"]
  assert (gather.size, gather.count) == (256, 1)  # two fusions, one gather
  assert gather.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
  assert (found["all-reduce"].size, found["all-reduce"].groups) == (32, ((0, 2), (1, 3)))
  assert found["reduce-scatter"].size == 4 * 8  # what goes in
  assert found["reduce-scatter"].groups == ((0, 2, 4, 6), (1, 3, 5, 7))


@pytest.mark.parametrize("text, groups", [
    ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
    ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
    ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
    ("[4,2]<=[8]", ((0, 1), (2, 3), (4, 5), (6, 7))),
    ("{}", ()),
])
def test_groups_in_every_notation(text, groups):
  assert hlo._groups(f"channel_id=1, replica_groups={text}, dimensions={{0}}") == groups  # pylint: disable=protected-access


def test_a_compiled_scan_counts_as_often_as_it_runs():
  mesh = sharding.make_mesh({"data": 8})
  spec = lambda *names: NamedSharding(mesh, P(*names))

  def run(x, layers):  # every layer is gathered
    def layer(x, w):
      for _ in range(2):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=3)
      return x, x.sum()
    return jax.lax.scan(layer, x, layers)

  x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=spec("data"))
  layers = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=spec(None, "data"))
  with jax.set_mesh(mesh):
    compiled = jax.jit(run).lower(x, layers).compile()
  found = list(hlo.read(compiled.as_text()).collectives)
  gathered = sum(c.size * c.count for c in found if c.kind == "all-gather")
  assert gathered in (5 * 64 * 64 * 4, 5 * 2 * 64 * 64 * 4)  # once a layer, or once a use
  sums = [c for c in found if c.kind == "all-reduce"]
  assert sum(c.count * c.size for c in sums) == 5 * 4
  assert len(found) and all(len(c.groups[0]) == 8 for c in found)


_NESTED = """HloModule nested

%inner_condition (a: f32[2]) -> pred[] {
  %a = f32[2]{0} parameter(0)
  ROOT %c = pred[] constant(true)
}

%inner_body (b: f32[2]) -> f32[2] {
  %b = f32[2]{0} parameter(0)
  ROOT %d = f32[2]{0} all-reduce(%b), replica_groups={{0,1}}
}

%outer_body (e: f32[2]) -> f32[2] {
  %e = f32[2]{0} parameter(0)
  %f = f32[2]{0} all-reduce(%e), replica_groups={{0,1}}
  ROOT %g = f32[2]{0} while(%f), condition=%inner_condition, body=%inner_body
}

ENTRY %main (h: f32[2]) -> f32[2] {
  %h = f32[2]{0} parameter(0)
  ROOT %i = f32[2]{0} while(%h), condition=%inner_condition, body=%outer_body
}
"""


def test_loops_in_one_another_have_trips_of_their_own():
  (one,) = hlo.read(_NESTED, unknown_trips=(6, 2.5)).collectives
  assert one.count == 6 * (1 + 2.5)
  (one,) = hlo.read(_NESTED, unknown_trips=3).collectives
  assert one.count == 3 * (1 + 3)


def test_loops_of_unknown_length_and_branches():
  mesh = sharding.make_mesh({"data": 8})
  total = lambda x: jax.shard_map(lambda x: jax.lax.psum(x, "data"), mesh=mesh,
                                  in_specs=P("data"), out_specs=P())(x).sum()

  def run(x, n):
    rare = jax.named_scope(types.RARE)(lambda x: total(x) * 3 + total(x * 2) + total(x + 1))
    x = x + jax.lax.cond(n > 3, rare, lambda x: total(x), x)
    return jax.lax.while_loop(lambda x: x.sum() < n, lambda x: x * total(jnp.sin(x)), x)

  x = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=NamedSharding(mesh, P("data")))
  n = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
  with jax.set_mesh(mesh):
    text = jax.jit(run).lower(x, n).compile().as_text()
  size = lambda trips: sum(c.size * c.count for c in hlo.read(text, unknown_trips=trips).collectives)
  one, ten = size(1), size(10)
  assert ten - one == 9 * 8  # of two numbers, nine times more
  assert one == 2 * 8  # a loop's, and the ordinary branch's
