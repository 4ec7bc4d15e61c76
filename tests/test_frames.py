"""Slots and the pool: the latest wins, drops are exact, nobody waits for ever."""

import threading
import time

import numpy as np

from sdxs.common.live.threads.frames import Pool, Slot


def test_latest_wins_and_the_replaced_item_comes_back() -> None:
    slot: Slot[int] = Slot()
    assert [slot.put(n) for n in range(5)] == [None, 0, 1, 2, 3]
    assert (slot.take(), slot.dropped, slot.put_count) == (4, 4, 5)


def test_without_latest_put_waits_and_nothing_is_lost() -> None:
    slot: Slot[int] = Slot(latest=False)
    taken: list[int | None] = []

    def consume() -> None:
        while (item := slot.take()) is not None:
            taken.append(item)

    thread = threading.Thread(target=consume)
    thread.start()
    for n in range(200):
        assert slot.put(n) is None
    slot.close()
    thread.join()
    assert taken == list(range(200)) and slot.dropped == 0


def test_close_wakes_a_waiting_taker_and_a_waiting_putter() -> None:
    empty: Slot[int] = Slot()
    full: Slot[int] = Slot(latest=False)
    full.put(1)
    results: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: results.append(empty.take())),
        threading.Thread(target=lambda: results.append(full.put(2))),
    ]
    for thread in threads:
        thread.start()
    empty.close()
    full.close()
    for thread in threads:
        thread.join(30)
    assert sorted(results, key=str) == [2, None]  # the putter gets its item back
    assert full.take() == 1 and full.take() is None and full.finished


def test_closing_with_discard_hands_back_what_is_inside() -> None:
    slot: Slot[int] = Slot()
    slot.put(7)
    assert slot.close(discard=True) == [7]
    assert slot.finished and slot.take() is None and slot.put(8) == 8


def test_take_gives_up_after_its_timeout() -> None:
    slot: Slot[int] = Slot()
    began = time.perf_counter()
    assert slot.take(0.01) is None
    assert time.perf_counter() - began < 30


def test_take_between_returns_what_is_newest_at_the_earliest_time() -> None:
    slot: Slot[int] = Slot()
    slot.put(1)
    earliest = time.perf_counter_ns() + 1_000_000_000
    threading.Timer(0.02, slot.put, (2,)).start()
    assert slot.take_between(earliest, earliest) == 2
    assert time.perf_counter_ns() >= earliest
    assert slot.take_between(0, 0) is None


def test_take_between_waits_for_the_first_to_come_until_the_latest_time() -> None:
    slot: Slot[int] = Slot()
    threading.Timer(0.02, slot.put, (3,)).start()
    latest = time.perf_counter_ns() + 30_000_000_000
    assert slot.take_between(0, latest) == 3
    assert time.perf_counter_ns() < latest
    soon = time.perf_counter_ns() + 10_000_000
    assert slot.take_between(0, soon) is None and time.perf_counter_ns() >= soon


def test_drops_are_exact_under_two_threads() -> None:
    slot: Slot[int] = Slot()
    taken: list[int] = []

    def consume() -> None:
        while (item := slot.take()) is not None:
            taken.append(item)

    thread = threading.Thread(target=consume)
    thread.start()
    replaced = [item for n in range(20_000) if (item := slot.put(n)) is not None]
    slot.close()
    thread.join()
    assert len(taken) + len(replaced) == 20_000 == len(taken) + slot.dropped
    assert taken == sorted(taken) and taken[-1] == 19_999


def test_pool_lends_each_frame_once_and_waits_for_returns() -> None:
    pool = Pool(2, 8, 1)
    first, second = pool.take(), pool.take()
    assert first is not None and second is not None and first is not second
    assert not np.shares_memory(first.camera, second.camera)
    waiting: list[object] = []
    thread = threading.Thread(target=lambda: waiting.append(pool.take()))
    thread.start()
    pool.give_back(first)
    thread.join(30)
    assert waiting == [first]
    thread = threading.Thread(target=lambda: waiting.append(pool.take()))
    thread.start()
    pool.close()
    thread.join(30)
    assert waiting == [first, None]
