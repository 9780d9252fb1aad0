# ruff: noqa: PT012 - the blocks are what a signal interrupts
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from t2ireid_plugin.utils.signals import STOP_SIGNALS, Stopped, check_stop, defer_signals, stop_on_signal

EACH = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)


@EACH
def test_a_signal_interrupts_work(number, status):
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped, stop_on_signal():
        os.kill(os.getpid(), number)
        time.sleep(30)
    assert stopped.value.status == status


def test_deferred_signals_stop_at_the_end_of_the_outer_block():
    done = []
    with pytest.raises(Stopped), stop_on_signal():
        with defer_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            with defer_signals():
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]


def test_saving_after_a_signal_is_not_interrupted_again():
    done = []

    @stop_on_signal()
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            with defer_signals():
                done.append("saved")
            raise

    with pytest.raises(Stopped):
        work()
    assert done == ["saved"]


def test_a_deferred_signal_does_not_hide_an_error():
    with pytest.raises(ZeroDivisionError), stop_on_signal(), defer_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_stops_at_the_next_check():
    """An exception raised in `__del__` is ignored."""

    class Signalling:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    done = []
    with pytest.raises(Stopped), stop_on_signal():
        Signalling()
        done.append("continued")
        check_stop()
        done.append("after the check")
    assert done == ["continued"]
    with stop_on_signal():  # the next run is not affected
        check_stop()


def test_nohup_ignores_a_hangup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal():
            os.kill(os.getpid(), signal.SIGHUP)
            check_stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_block_within_another_leaves_the_handlers_to_the_outer_one():
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stop_on_signal():
        with stop_on_signal():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)


def test_handlers_are_restored():
    def handlers():
        return [signal.getsignal(number) for number in STOP_SIGNALS]

    before = handlers()
    with pytest.raises(Stopped), stop_on_signal():
        within = handlers()
        os.kill(os.getpid(), signal.SIGTERM)
    assert not set(map(id, before)) & set(map(id, within))
    assert handlers() == before


def test_other_threads_install_no_handler():
    handlers = []

    def work():
        with stop_on_signal(), defer_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_the_signal_that_torchrun_forwards_does_not_count_as_a_second_one(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    done = []
    with pytest.raises(Stopped), stop_on_signal(), defer_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("saved")
    assert done == ["saved"]


@pytest.mark.slow
@EACH
def test_a_second_signal_ends_the_process_at_once(number, status):
    program = (
        "import time\n"
        "from t2ireid_plugin.utils import signals\n"
        "with signals.stop_on_signal(), signals.defer_signals():\n"
        "    print('started', flush=True)\n"
        "    while not signals._handler.received: time.sleep(0.1)\n"
        "    print('received', flush=True)\n"
        "    for _ in range(6000): time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    process.send_signal(number)
    assert process.stdout.readline() == b"received\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=120) == status
