from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mrssl.engines.signals import StopSignals
from mrssl.errors import Interrupted, run_main


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handler_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.arrived()
        os.kill(os.getpid(), number)
        assert signals.arrived()
        error = signals.interrupted("iteration 3 of 9")
    assert signal.getsignal(number) is before
    assert number.name in str(error)
    assert "iteration 3 of 9" in str(error)


def test_another_thread_installs_nothing() -> None:
    arrived: list[bool] = []

    def work() -> None:
        with StopSignals() as signals:
            arrived.append(signals.arrived())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert arrived == [False]


def test_the_exit_status_says_start_me_again(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Interrupted("stopped")

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 75  # os.EX_TEMPFAIL
    assert capsys.readouterr().err == "error: stopped\n"


@pytest.mark.parametrize("name", ["scan.nii.gz", b"scan.nii.gz", Path("scan.nii.gz")])
def test_what_the_system_refuses_of_a_file_is_one_line(
    name: object, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise PermissionError(13, "Permission denied", name)

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: scan.nii.gz: Permission denied\n"


@pytest.mark.parametrize("error", [OSError("of no file"), OSError(9, "Bad file descriptor", 3)])
def test_what_the_system_refuses_of_no_file_is_a_bug(error: OSError) -> None:
    def main() -> None:
        raise error

    with pytest.raises(OSError) as caught:
        run_main(main)
    assert caught.value is error
