import threading

import pytest
import torch

from essence.runtime.worker_pool import WorkerPool


def test_each_piece_of_work_has_one_thread_and_others_keep_theirs():
    torch.set_num_threads(3)
    pool = WorkerPool()

    def work(i: int) -> tuple[int, int, str]:
        total = (torch.ones(1 << 18) * i).sum().item()
        return int(total / (1 << 18)), torch.get_num_threads(), threading.current_thread().name

    found = pool.map(work, range(12))
    assert [value for value, _, _ in found] == list(range(12))
    assert {threads for _, threads, _ in found} == {1}
    assert torch.get_num_threads() == 3
    later: list[int] = []

    def count() -> None:
        torch.ones(1 << 18).sum()
        later.append(torch.get_num_threads())

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    assert later == [3]


def test_errors_reach_the_caller():

    with pytest.raises(ZeroDivisionError):
        WorkerPool().map(lambda i: 1 / i, [1, 0])
