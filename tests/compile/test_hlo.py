"""Reading HLO: groups of all spellings, trip counts, and a schedule whose times can be reckoned by hand."""

import numpy as np
import pytest

from ja_llm.compile import hlo, schedule
from ja_llm.compile.activations import kept_bytes
from ja_llm.compile.hardware import CHIPS, group_bandwidth, parse_topology
from ja_llm.errors import UsageError

# 100 rounds of: gather 3 MB from 4 chips beside a product of 2 * 1024^3 FLOPs, then reduce-scatter with nothing beside it.
TEXT = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%scatter (p: f32[1024,1024]) -> f32[256,1024] {
  %p = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %all = f32[1024,1024]{1,0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[256,1024]{1,0} dynamic-slice(%all, %zero, %zero), dynamic_slice_sizes={256,1024}
}

%body (state: (s32[], f32[256,1024], f32[1024,1024])) -> (s32[], f32[256,1024], f32[1024,1024]) {
  %state = (s32[]{:T(128)}, f32[256,1024]{1,0}, /*index=2*/f32[1024,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = f32[256,1024]{1,0} get-tuple-element(%state), index=1
  %x = f32[1024,1024]{1,0} get-tuple-element(%state), index=2
  %start = (f32[256,1024]{1,0}, f32[1024,1024]{1,0}) all-gather-start(%w), replica_groups=[1,4]<=[4], dimensions={0}
  %y = f32[1024,1024]{1,0} convolution(%x, %x), dim_labels=bf_io->bf
  %done = f32[1024,1024]{1,0} all-gather-done(%start)
  %part.1 = f32[256,1024]{1,0} fusion(%y), kind=kCustom, calls=%scatter
  ROOT %next = (s32[], f32[256,1024]{1,0}, f32[1024,1024]{1,0}) tuple(%i, %part.1, %y)
}

%condition (state.1: (s32[], f32[256,1024], f32[1024,1024])) -> pred[] {
  %limit = s32[]{:T(128)} constant(100)
  %state.1 = (s32[], f32[256,1024], f32[1024,1024]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (w.1: f32[256,1024], x.1: f32[1024,1024]) -> f32[1024,1024] {
  %w.1 = f32[256,1024]{1,0} parameter(0)
  %x.1 = f32[1024,1024]{1,0} parameter(1)
  %zero.1 = s32[] constant(0)
  %begin = (s32[], f32[256,1024], f32[1024,1024]) tuple(%zero.1, %w.1, %x.1)
  %loop = (s32[], f32[256,1024], f32[1024,1024]) while(%begin), condition=%condition, body=%body
  ROOT %out = f32[1024,1024]{1,0} get-tuple-element(%loop), index=2
}
"""
MIB = 2**20


def mesh(peak: float) -> schedule.Mesh:
    chip, shape = parse_topology("v5e:2x2")
    return schedule.Mesh({"data": 1, "fsdp": 4}, np.array([(0, 0), (1, 0), (0, 1), (1, 1)]), chip, shape, peak)


def test_a_schedule_costs_what_is_reckoned_by_hand():
    link = CHIPS["v5e"].link_bytes_per_second * 2  # two dimensions, no ring in either
    one_way = 3 * MIB / link  # three quarters of 4 MiB
    product = 2.0 * 1024**3
    found = schedule.cost(hlo.parse(TEXT), mesh(peak=product / 1e-5))  # a round computes for 10 us: less than the gather takes
    gather, scatter = found.traffic["all-gather", "fsdp"], found.traffic["reduce-scatter", "fsdp"]
    assert set(found.traffic) == {("all-gather", "fsdp"), ("reduce-scatter", "fsdp")}
    assert found.flops == 100 * product
    assert (gather.count, gather.split, scatter.count, scatter.split) == (100, 100, 100, 0)
    assert (gather.bytes, gather.wire_bytes) == (400 * MIB, 300 * MIB) == (scatter.bytes, scatter.wire_bytes)
    hidden = max(12 * MIB / CHIPS["v5e"].hbm_bytes_per_second, 1e-5)  # the product reads two arrays and writes one
    assert gather.exposed_seconds == pytest.approx(100 * (one_way - hidden))
    assert scatter.exposed_seconds == pytest.approx(100 * one_way)
    assert found.seconds == pytest.approx(found.compute_seconds + gather.exposed_seconds + scatter.exposed_seconds)
    slow = schedule.cost(hlo.parse(TEXT), mesh(peak=product))  # a second a round: the gather hides whole
    assert slow.traffic["all-gather", "fsdp"].exposed_seconds == 0


@pytest.mark.parametrize(
    "text, group",
    [
        ("replica_groups={{0,2},{1,3}}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [0, 4]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [0, 2]),
        ("replica_groups={}", list(range(8))),
    ],
)
def test_groups_of_each_spelling(text, group):
    assert hlo.first_group(f", channel_id=1, {text}, dimensions={{0}}", 8).tolist() == group


def test_a_group_is_named_by_the_axes_that_it_spans():
    wide = schedule.Mesh({"data": 2, "fsdp": 2, "tensor": 2}, None, CHIPS["v5e"], (8, 1), 1.0)
    assert wide.axes_of(np.array([0, 4])) == "data"
    assert wide.axes_of(np.array([0, 2, 4, 6])) == "data+fsdp"
    assert wide.axes_of(np.array([0, 1])) == "tensor"


def test_a_ring_carries_twice_what_a_line_does():
    chip, shape = parse_topology("v5e:16x16")
    row = np.array([(i, 0) for i in range(16)])
    assert group_bandwidth(chip, shape, row) == 2 * chip.link_bytes_per_second
    assert group_bandwidth(chip, shape, row[:8]) == chip.link_bytes_per_second
    whole = np.array([(i, j) for i in range(16) for j in range(16)])
    assert group_bandwidth(chip, shape, whole) == 4 * chip.link_bytes_per_second == 1600e9 / 8


@pytest.mark.parametrize("text", ["v9:2x2", "v5e", "v5e:16", "v5p:4x4x4x4", "v5e-256"])
def test_what_is_no_topology_is_refused(text):
    with pytest.raises(UsageError, match="GENERATION:SHAPE"):
        parse_topology(text)


def test_activations_are_what_one_loop_writes_and_the_other_is_given():
    # Three layers: the forward loop stacks f32[3,8,4]; the backward loop reads it, and sums gradients of its own.
    text = """HloModule jit_step, is_scheduled=true

%forward (s: (s32[], f32[8,4], f32[3,8,4], f32[3,4])) -> (s32[], f32[8,4], f32[3,8,4], f32[3,4]) {
  %s = (s32[], f32[8,4], f32[3,8,4], f32[3,4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%s), index=1
  %stack = f32[3,8,4]{2,1,0} get-tuple-element(%s), index=2
  %w = f32[3,4]{1,0} get-tuple-element(%s), index=3
  %more = f32[3,8,4]{2,1,0} fusion(%stack, %x, %i), kind=kLoop, calls=%push
  ROOT %next = (s32[], f32[8,4], f32[3,8,4], f32[3,4]) tuple(%i, %x, %more, %w)
}

%backward (b: (s32[], f32[3,4], f32[3,8,4], f32[3,4])) -> (s32[], f32[3,4], f32[3,8,4], f32[3,4]) {
  %b = (s32[], f32[3,4], f32[3,8,4], f32[3,4]) parameter(0)
  %j = s32[] get-tuple-element(%b), index=0
  %g = f32[3,4]{1,0} get-tuple-element(%b), index=1
  %read = f32[3,8,4]{2,1,0} get-tuple-element(%b), index=2
  %w.1 = f32[3,4]{1,0} get-tuple-element(%b), index=3
  %sum = f32[3,4]{1,0} fusion(%g, %read), kind=kLoop, calls=%pull
  ROOT %next.1 = (s32[], f32[3,4], f32[3,8,4], f32[3,4]) tuple(%j, %sum, %read, %w.1)
}

%until (u: (s32[], f32[8,4], f32[3,8,4], f32[3,4])) -> pred[] {
  %u = (s32[], f32[8,4], f32[3,8,4], f32[3,4]) parameter(0)
  %k = s32[] get-tuple-element(%u), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%k, %three), direction=LT
}

ENTRY %main (x.1: f32[8,4], w.2: f32[3,4]) -> f32[3,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %w.2 = f32[3,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %empty = f32[3,8,4]{2,1,0} broadcast(%zero), dimensions={}
  %none = f32[3,4]{1,0} broadcast(%zero), dimensions={}
  %begin = (s32[], f32[8,4], f32[3,8,4], f32[3,4]) tuple(%zero, %x.1, %empty, %w.2)
  %there = (s32[], f32[8,4], f32[3,8,4], f32[3,4]) while(%begin), condition=%until, body=%forward
  %kept = f32[3,8,4]{2,1,0} get-tuple-element(%there), index=2
  %same = f32[3,8,4]{2,1,0} copy(%kept)
  %weights = f32[3,4]{1,0} get-tuple-element(%there), index=3
  %turn = (s32[], f32[3,4], f32[3,8,4], f32[3,4]) tuple(%zero, %none, %same, %weights)
  %back = (s32[], f32[3,4], f32[3,8,4], f32[3,4]) while(%turn), condition=%until, body=%backward
  ROOT %out = f32[3,4]{1,0} get-tuple-element(%back), index=1
}
"""
    module = hlo.parse(text)
    assert kept_bytes(module, 3) == 3 * 8 * 4 * 4  # the stack, and neither the weights that both are given nor the gradients
    assert kept_bytes(module, 4) == 0


@pytest.mark.parametrize("loop", [False, True])
def test_products_that_are_fused_with_a_gather_hide_it(loop):
    # As libtpu writes it: a fusion that starts, one that multiplies and hands the gather on, one that ends it. The second may be in a loop.
    gather = "all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}"
    text = f"""HloModule jit_step, is_scheduled=true

%started (p: f32[256,1024]) -> (f32[256,1024], f32[1024,1024]) {{
  %p = f32[256,1024]{{1,0}} parameter(0)
  %whole = f32[1024,1024]{{1,0}} {gather}
  ROOT %both = (f32[256,1024], f32[1024,1024]) tuple(%p, %whole)
}}

%async_collective_fusion (p.1: f32[256,1024], q: f32[1024,1024], x: f32[1024,1024]) -> (f32[1024,1024], f32[1024,1024]) {{
  %p = f32[256,1024]{{1,0}} parameter(0)
  %q = f32[1024,1024]{{1,0}} parameter(1)
  %x = f32[1024,1024]{{1,0}} parameter(2)
  %whole.1 = f32[1024,1024]{{1,0}} {gather}
  %y = f32[1024,1024]{{1,0}} convolution(%x, %x), dim_labels=bf_io->bf
  ROOT %both.1 = (f32[1024,1024], f32[1024,1024]) tuple(%y, %q)
}}

%ended (p.2: f32[256,1024], q.2: f32[1024,1024]) -> f32[1024,1024] {{
  %p = f32[256,1024]{{1,0}} parameter(0)
  %q.2 = f32[1024,1024]{{1,0}} parameter(1)
  ROOT %whole.2 = f32[1024,1024]{{1,0}} {gather}
}}

ENTRY %main (w: f32[256,1024], x.1: f32[1024,1024]) -> f32[1024,1024] {{
  %w = f32[256,1024]{{1,0}} parameter(0)
  %x.1 = f32[1024,1024]{{1,0}} parameter(1)
  %async-collective-start = (f32[256,1024], f32[1024,1024]) fusion(%w), kind=kCustom, calls=%started
  %a = f32[256,1024]{{1,0}} get-tuple-element(%async-collective-start), index=0
  %b = f32[1024,1024]{{1,0}} get-tuple-element(%async-collective-start), index=1
  %fusion.1 = (f32[1024,1024], f32[1024,1024]) fusion(%a, %b, %x.1), kind=kOutput, calls=%async_collective_fusion
  %c = f32[1024,1024]{{1,0}} get-tuple-element(%fusion.1), index=1
  ROOT %async-collective-done = f32[1024,1024]{{1,0}} fusion(%a, %c), kind=kCustom, calls=%ended
}}
"""
    rounds = 1
    if loop:
        rounds = 0.5  # every other time: so few that memory does not bound them
        state = "(f32[256,1024], f32[1024,1024], f32[1024,1024])"
        multiplied = text[text.index("  %fusion.1 = ") :].split("\n")[0]
        body = f"""%body (state: {state}) -> {state} {{
  %state = {state} parameter(0)
  %a = f32[256,1024]{{1,0}} get-tuple-element(%state), index=0
  %b = f32[1024,1024]{{1,0}} get-tuple-element(%state), index=1
  %x.1 = f32[1024,1024]{{1,0}} get-tuple-element(%state), index=2
{multiplied}
  %next = f32[1024,1024]{{1,0}} get-tuple-element(%fusion.1), index=1
  ROOT %again = {state} tuple(%a, %next, %x.1)
}}

"""
        named = f'metadata={{op_name="rounds_{rounds}_{rounds}/while"}}'
        text = text.replace(
            multiplied,
            f"  %begin = {state} tuple(%a, %b, %x.1)\n  %fusion.1 = {state} while(%begin), condition=%until, body=%body, {named}",
        ).replace("ENTRY", body + "ENTRY")
    product, one_way = 2.0 * 1024**3, 3 * MIB / (2 * CHIPS["v5e"].link_bytes_per_second)
    for seconds in (one_way / 2, 2 * one_way):
        found = schedule.cost(hlo.parse(text), mesh(peak=rounds * product / seconds))
        gather = found.traffic["all-gather", "fsdp"]
        assert (found.flops, gather.count, gather.split, gather.bytes) == (rounds * product, 1, 1, 4 * MIB)
        assert gather.exposed_seconds == pytest.approx(max(0, one_way - seconds))
        assert found.seconds == pytest.approx(max(seconds, one_way))


# 2 slices of 4 chips: 4 MB of each chip are summed with its fellow's while 2 * 1024^3 FLOPs run beside.
_MEGASCALE = '_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.7_0",_xla_megascale_transfer_type="ALL_REDUCE"'
SLICES = f"""HloModule jit_step, is_scheduled=true

ENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {{
  %x = f32[1024,1024]{{1,0}} parameter(0)
  %token = token[] after-all()
  %send = (f32[1024,1024]{{1,0}}, u32[], token[]) send(%x, %token), channel_id=1, is_host_transfer=true, frontend_attributes={{{_MEGASCALE}}}
  %recv = (f32[1024,1024]{{1,0}}, u32[], token[]) recv(%token), channel_id=2, is_host_transfer=true, frontend_attributes={{{_MEGASCALE}}}
  %y = f32[1024,1024]{{1,0}} convolution(%x, %x), dim_labels=bf_io->bf
  %sent = token[] send-done(%send), channel_id=1, is_host_transfer=true
  %got = (f32[1024,1024]{{1,0}}, token[]) recv-done(%recv), channel_id=2, is_host_transfer=true
  ROOT %sum = f32[1024,1024]{{1,0}} get-tuple-element(%got), index=0
}}
"""


def test_what_goes_between_slices_through_the_hosts_is_counted():
    chip, shape = parse_topology("v5e:2x2")
    coords = np.array([(0, 0), (1, 0), (0, 1), (1, 1)] * 2)
    peak = 1e13
    two = schedule.Mesh({"data": 2, "fsdp": 4}, coords, chip, shape, peak, slices=np.repeat([0, 1], 4))
    found = schedule.cost(hlo.parse(SLICES), two)
    ((key, traffic),) = found.traffic.items()
    assert key == ("all-reduce", "data") and traffic.count == traffic.split == 1
    assert traffic.wire_bytes == traffic.bytes == 4 * MIB  # of two chips each sends half, twice
    compute = max(2 * 1024**3 / peak, 12 * MIB / chip.hbm_bytes_per_second)
    assert traffic.seconds == pytest.approx(4 * MIB / chip.dcn_bytes_per_second)
    assert found.compute_seconds == pytest.approx(compute) and found.seconds == pytest.approx(traffic.seconds)
    assert traffic.exposed_seconds == pytest.approx(traffic.seconds - compute)


LOOP = """HloModule jit_step, is_scheduled=true

%grow (a: u32[], by: u32[]) -> u32[] {
  %a = u32[] parameter(0)
  %by = u32[] parameter(1)
  ROOT %sum = u32[] add(%a, %by)
}

%body (state: (f32[4], u32[])) -> (f32[4], u32[]) {
  %state = (f32[4]{0}, u32[]) parameter(0)
  %x = f32[4]{0} get-tuple-element(%state), index=0
  %i = u32[] get-tuple-element(%state), index=1
  %step = u32[] constant(STEP)
  %next = u32[] NEXT
  %kept = u32[] copy(%next)
  ROOT %out = (f32[4]{0}, u32[]) tuple(%x, %kept)
}

%condition (state.1: (f32[4], u32[])) -> pred[] {
  %limit = u32[] constant(8)
  %state.1 = (f32[4]{0}, u32[]) parameter(0)
  %i.1 = u32[] get-tuple-element(%state.1), index=1
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0} parameter(0)
  %zero = u32[] constant(0)
  %begin = (f32[4]{0}, u32[]) tuple(%x.1, %zero)
  %loop = (f32[4]{0}, u32[]) while(%begin), condition=%condition, body=%body
  ROOT %y = f32[4]{0} get-tuple-element(%loop), index=0
}
"""


@pytest.mark.parametrize("grown", ["add(%i, %step)", "fusion(%i, %step), kind=kLoop, calls=%grow"])
@pytest.mark.parametrize(("step", "trips"), [(1, 8), (2, 4), (3, 3)])
def test_a_loop_whose_counter_grows_by_more_runs_less_often(grown, step, trips):
    module = hlo.parse(LOOP.replace("STEP", str(step)).replace("NEXT", grown))
    assert module.trips(module.computations["main"].by_name["loop"]) == trips


@pytest.mark.parametrize(("step", "trips"), [(1, 8), (3, 3)])
def test_the_growth_is_found_in_a_fusion_of_several_results(step, trips):
    text = LOOP.replace("STEP", str(step)).replace(
        "%next = u32[] NEXT",
        "%both = (u32[], u32[]) fusion(%i, %step), kind=kLoop, calls=%two\n  %next = u32[] get-tuple-element(%both), index=1",
    )
    two = """%two (b: u32[], more: u32[]) -> (u32[], u32[]) {
  %b = u32[] parameter(0)
  %more = u32[] parameter(1)
  %less.1 = u32[] subtract(%b, %more)
  %sum.1 = u32[] add(%b, %more)
  ROOT %pair = (u32[], u32[]) tuple(%less.1, %sum.1)
}

"""
    module = hlo.parse(text.replace("%body (state", two + "%body (state", 1))
    assert module.trips(module.computations["main"].by_name["loop"]) == trips


def test_a_loop_over_experts_tokens_runs_as_often_as_its_name_expects():
    loop = "while(%begin), condition=%condition, body=%body"
    named = loop + ', metadata={op_name="jit(step)/jvp(layers)/rounds_32.000000_34.000000/while" stack_frame_id=8}'
    text = LOOP.replace("STEP", "1").replace("NEXT", "add(%i, %step)")
    for line, rounds in ((loop, 8), (named, 34.0)):
        module = hlo.parse(text.replace(loop, line))
        found = module.computations["main"].by_name["loop"]
        assert module.rounds(found) == rounds and module.trips(found) == 8


NESTED = """HloModule jit_step, is_scheduled=true

%slice (all: f32[64,1024,1024], at: s32[]) -> f32[1024,1024] {
  %all = f32[64,1024,1024]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,1024,1024]{2,1,0} dynamic-slice(%all, %at, %zero, %zero), dynamic_slice_sizes={1,1024,1024}
  ROOT %flat = f32[1024,1024]{1,0} bitcast(%one)
}

%product (x: f32[1024,1024], stack: f32[64,1024,1024], place: s32[]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0} parameter(0)
  %stack = f32[64,1024,1024]{2,1,0} parameter(1)
  %place = s32[] parameter(2)
  %kernel = f32[1024,1024]{1,0} fusion(%stack, %place), kind=kLoop, calls=%slice
  ROOT %y = f32[1024,1024]{1,0} convolution(%x, %kernel), dim_labels=bf_io->bf
}

ENTRY %main (x.1: f32[1024,1024], stack.1: f32[64,1024,1024], place.1: s32[]) -> f32[1024,1024] {
  %x.1 = f32[1024,1024]{1,0} parameter(0)
  %stack.1 = f32[64,1024,1024]{2,1,0} parameter(1)
  %place.1 = s32[] parameter(2)
  ROOT %out = f32[1024,1024]{1,0} fusion(%x.1, %stack.1, %place.1), kind=kOutput, calls=%product
}
"""


def test_of_a_slice_in_a_fusion_inside_a_fusion_only_the_slice_is_read():
    found = schedule.cost(hlo.parse(NESTED), mesh(peak=1e18))
    assert found.flops == 2 * 1024**3
    assert found.compute_seconds == pytest.approx(12 * MIB / CHIPS["v5e"].hbm_bytes_per_second, rel=1e-5)  # two read, one written
