# SPDX-License-Identifier: MIT
"""Swap on dm-crypt in real guests: data verified, mitigations proved, and nothing left when it is cut off."""
import os
import pathlib
import re
import signal
import time

import pytest

from conftest import assert_nothing_left, cell, guests_of, headroom, lines, only_run, start, wait_until

# More than the kernel leaves of it; over in half a minute.
SMALL_SWAP = """[scenario]
summary = a small cell for the tests
memory = 256
run_s = 60
bystander = 8
expect-after = ok
[swap-crypt]
swap_pct = 100
load_memory_pct = 90
allocators = 2
{options}
"""


def small_swap(directory, *, options=""):
    path = directory / "small-swap.ini"
    path.write_text(SMALL_SWAP.format(options=options))
    return path


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """Both ways of the write path."""
    directory = tmp_path_factory.mktemp("swap")
    scenario = small_swap(directory)
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", "before,after", "--out", directory / "results")
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    return only_run(directory / "results")


def test_every_page_comes_back_as_it_was_written(swapped):
    after = cell(swapped, "002-after-1")
    metrics = after["metrics"]
    assert after["verdict"] == "ok", after["reason"]
    assert metrics["data_verified"] is True
    assert metrics["pages_compared"] * 4 / 1024 == pytest.approx(metrics["load_mib"], rel=0.02)
    assert metrics["swap_out_mib"] > 20 and metrics["swap_in_mib"] > 20
    assert metrics["standstill_max_ms"] > 0
    assert metrics["swap_free_min_kib"] < after["machine"]["memory_mib"] * 1024


def test_each_mitigation_is_what_the_kernel_says_it_is(swapped):
    before, after = cell(swapped, "001-before-1")["mitigations"], cell(swapped, "002-after-1")["mitigations"]
    assert {name: (m["state"], m["read_back"]) for name, m in before.items() if name != "reserves"} == {
        "swap-limit": ("off", "1048576"),
        "crypt-workqueue": ("off", "no"),
        "crypt-split": ("absent", None),  # Linux 6.12 has it
        "throttle-removal": ("on", "absent"),
    }
    assert {name: (m["state"], m["read_back"]) for name, m in after.items() if name != "reserves"} == {
        "swap-limit": ("on", "2048"),
        "crypt-workqueue": ("on", "yes"),
        "crypt-split": ("absent", None),
        "throttle-removal": ("on", "absent"),
    }
    assert after["throttle-removal"]["built_in"] is True
    kept, more = (m["reserves"]["read_back"].split("/") for m in (before, after))
    assert int(more[0]) == 4 * int(kept[0]) and (kept[1], more[1]) == ("10", "200")
    # In flight is counted behind dm-crypt, where its queue is: a cap of 2048 with what tasks have in their hands.
    assert cell(swapped, "002-after-1")["metrics"]["swap_in_flight_peak"] < 2048 + 256


def test_the_record_says_who_encrypted_and_with_what(swapped):
    after = cell(swapped, "002-after-1")
    assert after["settings"]["crypto.driver"].startswith("xts")
    assert after["settings"]["dm_crypt.cipher"] == "aes-xts-plain64"
    assert after["settings"]["dm_crypt.key_bits"] == "256"
    assert after["mitigations"]["crypt-workqueue"]["option"] == "swap-crypt.write_workqueue"
    assert after["metrics"]["thread_cpu_s"]["kcryptd"] > 0
    assert any("kcryptd" in s.get("threads", {}).get("groups", {}) for s in lines(swapped, "002-after-1", "samples.jsonl"))


def test_no_key_is_left_in_the_record(swapped):
    """The table of a crypt device has the key in it: 256 bits, 64 hexadecimal digits."""
    for path in (p for p in swapped.rglob("*") if p.is_file() and p.name != "report.html"):
        assert not re.search(rb"[0-9a-f]{64}", path.read_bytes()), path


def test_swapped_data_that_was_spoilt_is_corrupt(results, tmp_path):
    scenario = small_swap(tmp_path, options="damage = swap")
    done = headroom("run", scenario, "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 1, done.stderr
    record = cell(only_run(results), "001-after-1")
    assert record["verdict"] == "corrupt", record["reason"]
    assert "not the data that round 0 wrote" in record["reason"]
    assert record["metrics"]["data_verified"] is False


def test_other_ciphers_keys_and_sectors_are_real(results, tmp_path):
    # Beside a stressor, which writes as long as the allocators do.
    options = "cipher = aes-cbc-plain64\nkey_bits = 192\nsector_size = 4096\ntime_s = 5\nstress_pct = 10"
    done = headroom("run", small_swap(tmp_path, options=options), "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    record = cell(only_run(results), "001-after-1")
    assert record["verdict"] == "ok", record["reason"]
    assert (only_run(results) / "cells/001-after-1/tools/stress-ng.err").read_text()
    # As the kernel's own table has it.
    assert record["settings"]["dm_crypt.cipher"] == "aes-cbc-plain64"
    assert record["settings"]["dm_crypt.key_bits"] == "192"
    assert record["settings"]["dm_crypt.sector_size"] == "4096"


def test_a_guest_killed_while_it_swaps_leaves_nothing_on_the_host(results, tmp_path):
    def of_the_host():
        return (pathlib.Path("/proc/swaps").read_text(), sorted(os.listdir("/sys/block")),
                sorted(os.listdir("/dev/mapper")) if os.path.isdir("/dev/mapper") else [])

    before = of_the_host()
    program = start("run", small_swap(tmp_path, options="time_s = 40"), "--arms", "after", "--out", results,
                    "--no-report")
    pid = wait_until(lambda: guests_of(results), 60, "the guest runs")[0]
    # Its sparse scratch disk takes blocks as pages are swapped out to it.
    (scratch,) = wait_until(lambda: list(results.glob("*/cells/*/scratch")), 10, "a scratch disk")
    wait_until(lambda: scratch.stat().st_blocks * 512 > 8 << 20, 60, "it swaps")
    time.sleep(1)
    os.kill(pid, signal.SIGKILL)
    program.communicate(timeout=60)
    assert program.returncode == 4
    assert cell(only_run(results), "001-after-1")["interrupted"] is True
    assert_nothing_left(results)
    assert of_the_host() == before
