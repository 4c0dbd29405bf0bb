"""What processes are told apart by, and what is counted of each."""

import os
import threading
import time

from bench.idle import Spent, difference, kind_of, spent


def test_processor_time_and_sleeps_of_every_thread_are_counted():
    before = spent(os.getpid())

    def work():
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        over.wait()

    over = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    while spent(os.getpid()).ms < before.ms + 50:
        time.sleep(0.001)
    after = spent(os.getpid())
    over.set()
    thread.join()

    assert after.num_sleeps > before.num_sleeps
    assert spent(2**22 + 1) == Spent(0.0, 0), "no process has this number"


def test_only_what_lived_all_the_time_has_a_difference():
    before, after = {1: Spent(5.0, 2), 2: Spent(1.0, 1)}, {1: Spent(7.0, 3), 3: Spent(9.0, 9)}
    assert difference(before, after) == {1: Spent(2.0, 1)}


def test_processes_are_told_apart_by_their_command_lines():
    assert kind_of(["python", "-m", "deploy.roles.process", "store", "iad", "/x/nearfield.toml"]) == "store"
    assert kind_of(["python", "-m", "inference.zygote", "--socket", "/x"]) == "inference.zygote"
    assert kind_of([]) == "other"
