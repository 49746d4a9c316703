"""How the commands end."""

from __future__ import annotations

import pytest

from benchmarks.command import UsageError, ending
from deploy.java import NoJavaError
from deploy.lifecycle import ServerError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("rate: seen 0"), 2),
        (ServerError("port taken"), 1),
        (NoJavaError("no Java"), 1),
        (ConnectionError("nothing answers"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_the_user_can_mend_is_a_sentence(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise error

    assert ending(work) == code
    assert capsys.readouterr().err == (f"error: {error}\n" if code != 130 else "")


@pytest.mark.parametrize("fault", [ValueError, RuntimeError, KeyError])
def test_a_fault_of_ours_keeps_its_traceback(fault: type[Exception]) -> None:
    def work() -> int:
        raise fault("ours")

    with pytest.raises(fault, match="ours"):
        ending(work)
