"""Unified memory: whose bytes, what the system says of them, and who takes whose bandwidth."""

import io
import os
import struct
import sys
import time

import bench_samples
import pytest
from rich.console import Console

from sdxs.common.backend.options import BackendOptions
from sdxs.common.bench.measure import accounts, contention, ledgers, mac_tools
from sdxs.common.bench.measure.accounts import account_of, device_bytes, of_smaps
from sdxs.common.bench.measure.contention import Traffic
from sdxs.common.bench.measure.requests import Entrant
from sdxs.common.bench.measure.runner import BenchPlan, Runner
from sdxs.common.bench.model.report import Report, read_report
from sdxs.common.bench.model.unified import (
    STATION_OF,
    STATIONS,
    Account,
    Contention,
    ContentionPoint,
    by_station,
    in_all,
    stolen,
)
from sdxs.common.bench.show import html, plots, table
from sdxs.common.bench.show.unified import NOT_TOLD, unified_heads, unified_rows
from sdxs.common.checkpoint.find import Checkpoint

MIB = 2**20

# Composed after the documented formats and published outputs of macOS; no Mac printed them.
VMMAP = """\
Process:         python3.12 [4321]
Path:            /opt/somewhere/python3.12
OS Version:      macOS 15.6 (24G84)

Physical footprint:         1.3G
Physical footprint (peak):  1.5G
----

ReadOnly portion of Libraries: Total=1.1G resident=265.9M(24%) swapped_out_or_unallocated=800M(76%)
Writable regions: Total=2.3G written=90.1M(4%) resident=1.1G(48%) swapped_out=0K(0%)

                                VIRTUAL RESIDENT    DIRTY  SWAPPED VOLATILE   NONVOL    EMPTY   REGI
REGION TYPE                        SIZE     SIZE     SIZE     SIZE     SIZE     SIZE     SIZE    COU
===========                     ======= ========    =====  ======= ========   ======    =====  =====
Activity Tracing                   256K      32K      32K       0K       0K      32K       0K
IOAccelerator                     64.0M    64.0M       0K       0K       0K       0K       0K
IOAccelerator (graphics)         640.0M   512.0M       0K   128.0M       0K   640.0M       0K
IOSurface                         14.5M    14.5M       0K       0K       0K    14.5M       0K
MALLOC_LARGE                       8.7G   320.0M   319.5M    12.5M       0K       0K       0K      1
MALLOC_LARGE (reserved)           12.4M       0K       0K       0K       0K       0K       0K
__FONT_DATA                        2352        0        0        0        0        0        0
owned unmapped (graphics)         72.0M    72.0M       0K       0K       0K       0K       0K
===========                     ======= ========    =====  ======= ========   ======    =====  =====
TOTAL                              9.5G     1.1G   400.5M   140.5M       0K   686.5M       0K     32
TOTAL, minus reserved VM space     9.4G     1.1G   400.5M   140.5M       0K   686.5M       0K     32

                                 VIRTUAL   RESIDENT      DIRTY    SWAPPED ALLOCATION      BYTES DIRT
MALLOC ZONE                         SIZE       SIZE       SIZE       SIZE      COUNT  ALLOCATED  FRA
===========                      =======  =========  =========  =========  =========  =========  ===
DefaultMallocZone_0x106d1c000       9.1G     320.0M     319.0M      12.0M     337217     300.0M
"""
FOOTPRINT = """\
======================================================================
python3.12 [4321]: 64-bit    Footprint: 1250 MB (16384 bytes per page)
======================================================================

  Dirty      Clean  Reclaimable    Regions    Category
    ---        ---          ---        ---    ---
 640 MB        0 B          0 B         55    IOAccelerator (graphics)
 320 MB        0 B          0 B        104    MALLOC_LARGE
  72 MB        0 B          0 B         18    Owned physical footprint (unmapped) (graphics)
  14 MB        0 B          0 B          8    IOSurface
9678 KB        0 B          0 B          1    page table
    0 B    4256 KB          0 B        520    __TEXT
    ---        ---          ---        ---    ---
1250 MB      20 MB        16 KB       3000    TOTAL

Auxiliary data:
    phys_footprint: 1250 MB
    phys_footprint_peak: 1500 MB
"""
FIELDS = """
virtual region_count page_size resident resident_peak device device_peak internal internal_peak
external external_peak reusable reusable_peak volatile_pmap volatile_resident volatile_virtual
compressed compressed_peak compressed_lifetime phys_footprint min_address max_address footprint_peak
nonvolatile nonvolatile_compressed volatile volatile_compressed network network_compressed
network_volatile network_volatile_compressed media media_compressed media_elsewhere
media_elsewhere_compressed graphics graphics_compressed graphics_elsewhere
graphics_elsewhere_compressed neural neural_compressed neural_elsewhere neural_elsewhere_compressed
"""
SMAPS = """\
00400000-7ffd1000 ---p 00000000 00:00 0                          [rollup]
Rss:              152004 kB
Pss:              120500 kB
Shared_Clean:      40000 kB
Private_Dirty:     98304 kB
Swap:               2048 kB
SwapPss:            2048 kB
Locked:               16 kB
"""


# What the system says


def test_vmmap_tells_dirty_compressed_surfaces_and_heaps() -> None:
    found = mac_tools.from_vmmap(VMMAP)
    assert found is not None
    assert (found.dirty_bytes, found.compressed_bytes) == (round(400.5 * MIB), round(140.5 * MIB))
    assert found.surface_bytes == round(14.5 * MIB)
    assert found.metal_bytes == (64 + 640 + 72) * MIB  # resident and swapped


def test_footprint_tells_all_but_what_is_compressed() -> None:
    found = mac_tools.from_footprint(FOOTPRINT)
    assert found == mac_tools.Regions(1250 * MIB, None, 14 * MIB, (640 + 72) * MIB)


@pytest.mark.parametrize(
    "text",
    ["", "vmmap cannot examine process 4321", VMMAP[:1500], VMMAP.replace("SWAPPED", "SWAP", 1)],
    ids=["nothing", "refused", "cut off", "other columns"],
)
def test_what_no_tool_printed_is_no_figure(text: str) -> None:
    assert mac_tools.from_vmmap(text) is None and mac_tools.from_footprint(text) is None


def test_sizes_are_read_in_both_spellings() -> None:
    sizes = {"128K": 2**17, "1.5G": 3 * 2**29, "640 MB": 640 * MIB, "0 B": 0, "2352": 2352}
    assert {text: mac_tools.bytes_of(text) for text in sizes} == sizes
    with pytest.raises(ValueError, match="'a lot' is no size"):
        mac_tools.bytes_of("a lot")


def test_ledgers_are_read_where_the_header_has_them() -> None:
    """The offsets again, from the struct's fields in their order: 4 bytes twice, then 8 each."""
    names = FIELDS.split()
    values = {name: 1000 + number for number, name in enumerate(names)}
    form = "<" + "".join("i" if n in ("region_count", "page_size") else "q" for n in names)
    info = struct.pack(form, *values.values())
    assert len(info) == 84 * ledgers.WORD  # TASK_VM_INFO_REV3_COUNT
    found = ledgers.read(info, 84)
    assert found == {name: values[name.replace(" ", "_")] for name in ledgers.OFFSETS}
    assert set(ledgers.read(info, 38)) == {"resident", "compressed"}  # an older kernel
    assert sys.platform == "darwin" or ledgers.ledgers() == {}


def test_a_mac_is_asked_by_vmmap_first_and_footprint_then(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = {"vmmap": VMMAP, "footprint": FOOTPRINT}
    monkeypatch.setattr(accounts, "asked", lambda tool, *_: printed[tool])
    monkeypatch.setattr(accounts, "wired_and_resident", lambda pid: (pid, 2 * pid))
    monkeypatch.setattr(accounts.sys, "platform", "darwin")
    told = account_of(5)
    assert (told.told_by, told.wired_bytes, told.resident_bytes) == ("rusage, vmmap", 5, 10)
    assert told.compressed_bytes == round(140.5 * MIB) and told.device_bytes is None
    printed["vmmap"] = ""
    told = account_of(5)
    assert told.told_by == "rusage, footprint" and told.compressed_bytes is None
    printed["footprint"] = ""
    assert account_of(5) == Account("rusage", 1, resident_bytes=10, wired_bytes=5)


def test_linux_tells_by_the_sums_of_a_process() -> None:
    assert of_smaps(SMAPS) == Account(
        "smaps_rollup", 1, 152004 * 1024, 96 * MIB, 2 * MIB, 16 * 1024
    )
    assert of_smaps("") == Account("smaps_rollup", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.not_in_macos_shape(reason="reads /proc")
def test_this_process_has_an_account_and_an_ended_one_has_none() -> None:
    told = account_of(os.getpid())
    assert told.resident_bytes and told.dirty_bytes
    assert told.resident_bytes > told.dirty_bytes > 5_000_000
    assert account_of(2**22 + 1) == Account("", 1)


def test_nvidias_list_tells_of_processes_that_it_can_see() -> None:
    listed = "4321, 3072\n99, 5\n4321, 1\n"
    assert device_bytes(listed, 4321) == 3073 * MIB
    assert device_bytes("4321, [N/A]\n", 4321) is None and device_bytes("", 4321) is None


def test_what_one_process_lacks_their_sum_lacks() -> None:
    one, two = Account("a", 1, 10, 5), Account("b", 1, 20, None, 3)
    assert in_all([one, two]) == Account("a, b", 2, 30)


# Where bytes go, and who takes bandwidth


def test_every_copy_site_has_its_station() -> None:
    copies = {"source": 5.0, "to RGB": 1.0, "backend in": 2.0, "backend out": 3.0, "new": 4.0}
    flow = by_station(copies, 70)
    assert list(flow) == list(STATIONS) and set(STATION_OF.values()) < set(STATIONS)
    assert list(flow.values()) == [5, 1, 2, 70, 3, 4]
    assert "networks" not in by_station(copies, None)


def test_stolen_bandwidth_goes_both_ways_with_its_controls() -> None:
    points = [
        ContentionPoint(0.0, False, 0, [10.0]),
        ContentionPoint(1.0, False, 8e9, [20.0], 1e10, 8e9),
        ContentionPoint(1.0, False, 6e9, [20.0], 1e10, 6e9),
        ContentionPoint(1.0, True, 0, [12.5], 5e10, 4.5e10),
    ]
    found = stolen(Contention(3, 1e10, points))
    assert (found.frames, found.frames_control) == (0.5, 0.8)
    assert (found.traffic, found.traffic_control) == (pytest.approx(0.7), pytest.approx(0.9))
    earlier = [ContentionPoint(1.0, False, 8e9, [20.0])]
    assert stolen(Contention(3, 1e10, earlier)).traffic is None


def test_the_control_copies_too_and_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "ALL_BUFFERS_BYTES", 2**24)
    until = time.monotonic() + 30
    with Traffic(1) as traffic:
        traffic.set_rate(float("inf"), cached=True)
        while not (rates := traffic.rates())[1]:
            assert time.monotonic() < until, "no block was copied in half a minute"
        assert rates[0] == 0
        traffic.set_rate(0)
        assert traffic.rates() == (0, 0)


@pytest.mark.not_in_macos_shape(reason="its resource usage holds the footprint alone")
def test_a_run_takes_the_account_of_its_backends(tiny_sdxs: Checkpoint) -> None:
    who = Entrant("a", "sdxs.common.backend.identity:IdentityBackend", BackendOptions(64))
    quick = {"rounds": 1, "turns": 1, "turn_s": 0.01, "fresh": False, "memory_s": 0.05}
    asked = BenchPlan((who,), {}, profile=False, together=False, **quick)  # type: ignore[arg-type]
    (backend,) = Runner(asked, tiny_sdxs).run().backends
    account = backend.account
    assert account is not None and account.processes == 1 and account.resident_bytes
    assert account.resident_bytes > backend.memory[-1].footprint_bytes / 2


# How it is shown


def told(report: Report) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.render(report))
    return console.export_text()


def test_the_same_questions_are_asked_of_every_backend() -> None:
    report = bench_samples.report()
    report.backends[1].account = None
    rows = {row[0]: row[1:] for row in unified_rows(report)}
    assert unified_heads(report) == ["question", "one", "two"]
    assert rows["copied of a frame by the host, in all"] == ["3.16", "3.16"]
    assert rows["moved by the networks, at least"] == ["80.4", "80.4"]
    assert rows["of it, or beside it: resident"] == ["150", ""]
    assert rows["of it, or beside it: a GPU's own memory"] == ["300", ""]
    assert "of it, or beside it: IOSurfaces" not in rows  # nobody's system tells
    assert rows["the framework's account: weights"] == ["5", "5"]
    assert rows["more while both are resident"] == ["+0.0", "+0.0"]
    assert rows["frames under full traffic (control)"] == ["50% (80%)", "50% (80%)"]
    assert rows["traffic beside frames (control)"] == ["80% (95%)", "80% (95%)"]


def test_what_the_system_does_not_tell_is_not_shown_as_none() -> None:
    report = bench_samples.report()
    accounts_of = [backend.account for backend in report.backends]
    assert accounts_of[0] and accounts_of[1]
    accounts_of[0].metal_bytes, accounts_of[1].metal_bytes = 0, None
    rows = {row[0]: row[1:] for row in unified_rows(report)}
    assert rows["of it, or beside it: Metal's heaps"] == ["0", NOT_TOLD]
    for shown in (told(report), html.render(report)):
        assert NOT_TOLD in shown and "nified memory: the same questions" in shown


def test_the_flow_has_a_bar_for_every_station_with_its_sites() -> None:
    report = bench_samples.report()
    figure = next(f for f in plots.figures(report) if f.plot.name == "bytes")
    bars = [mark for mark in figure.plot.marks if mark.kind == "bar"]
    assert len(bars) == 2 * len(STATIONS)
    assert "one, into the backend: 0.197 MB (backend in 0.197)" in [bar.readout for bar in bars]
    heights = {bar.readout.split(",")[1]: bar.points[0][1] - bar.points[1][1] for bar in bars[:6]}
    camera, networks = (h for name, h in heights.items() if name[1:4] in ("cam", "net"))
    assert 0 < camera < networks < 1
    for backend in report.backends:
        backend.copies, backend.account, backend.contention = {}, None, None
    assert unified_rows(report) == [] or not any("copied" in r[0] for r in unified_rows(report))
    assert "bytes" not in [f.plot.name for f in plots.figures(report)]


def test_an_earlier_report_has_no_accounts_and_stays_readable(tmp_path: object) -> None:
    report = read_report(bench_samples.RESULTS / "bench-demo.json")
    assert report.backends[0].account is None and report.backends[0].picture is None
    rows = {row[0]: row[1:] for row in unified_rows(report)}
    assert all(rows["copied of a frame by the host, in all"])
    assert not any("resident" in name and "both" not in name for name in rows)
    assert '<svg id="bytes"' in html.render(report)
