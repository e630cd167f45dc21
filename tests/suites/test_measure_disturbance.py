"""Other processes' CPU time, read from a ``/proc`` made by hand."""

import os

import pytest

from suites.measure.disturbance import TICK_SECONDS, OtherLoad, is_disturbed

WORKER = 4242


def proc(folder, cpu: str, worker: str, own: str):
    (folder / "stat").write_text(f"cpu  {cpu}\ncpu0 1 2 3\n")
    for pid, line in ((WORKER, worker), (os.getpid(), own)):
        (folder / str(pid)).mkdir()
        (folder / str(pid) / "stat").write_text(line)
    return OtherLoad(folder)


def stat(name: str, user: int, system: int) -> str:
    return f"1 ({name}) S 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 0 0 0"


def test_others_are_all_that_is_busy_less_the_worker_and_this_process(tmp_path):
    # user nice system idle iowait irq softirq steal guest guest_nice
    load = proc(
        tmp_path, "1000 10 200 9999 888 3 4 5 77 0", stat("python", 600, 50), stat("assay", 20, 2)
    )
    busy = 1000 + 10 + 200 + 3 + 4 + 5
    assert load.seconds(WORKER) == pytest.approx((busy - 650 - 22) * TICK_SECONDS)


def test_worker_named_with_parentheses_and_spaces_is_read_right(tmp_path):
    load = proc(tmp_path, "100 0 0 0 0 0 0 0 0 0", stat("a) S (b 9 9", 30, 0), stat("assay", 0, 0))
    assert load.seconds(WORKER) == pytest.approx(70 * TICK_SECONDS)


def test_load_is_unknown_when_the_worker_is_gone(tmp_path):
    load = proc(tmp_path, "100 0 0 0 0 0 0 0 0 0", stat("a", 0, 0), stat("b", 0, 0))
    assert load.seconds(WORKER + 1) is None
    assert OtherLoad(tmp_path / "nowhere").seconds(WORKER) is None


def test_load_is_unknown_when_the_file_is_garbage(tmp_path):
    load = proc(tmp_path, "many", stat("a", 0, 0), stat("b", 0, 0))
    assert load.seconds(WORKER) is None


def test_block_is_disturbed_only_beyond_the_share_and_the_tick_error():
    assert not is_disturbed(others_s=0.02, elapsed_s=0.1, cores=0.25)
    assert not is_disturbed(others_s=0.025 + 2 * TICK_SECONDS, elapsed_s=0.1, cores=0.25)
    assert is_disturbed(others_s=0.026 + 2 * TICK_SECONDS, elapsed_s=0.1, cores=0.25)
