"""What a user sees of a training that cannot go on."""

import errno
import logging
import re

import pytest

from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.engine.endings import for_the_user, is_lost_peer, mistakes_told_in_one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a key"), "a key"),
        (UnreadableImageError("a picture"), "a picture"),
        (FloatingPointError("the loss"), "the loss"),
        (OSError(errno.ENOSPC, "No space left on device", "out/metrics.json"), r"out/metrics\.json: .*No space left"),
        (OSError(errno.EROFS, "Read-only file system"), r"a file of OUTPUT_DIR: .*Read-only file system.*--resume"),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (KeyError("bug"), None),
    ],
)
def test_errors_that_need_no_traceback(error, line):
    found = for_the_user(error)
    assert (found is None) == (line is None)
    assert line is None or ("\n" not in found and re.match(line, found))


def logged(error, caplog):
    """What the training loop's record of an error becomes inside."""
    train_loop = logging.getLogger("detectron2.engine.train_loop")
    with mistakes_told_in_one_line():
        try:
            raise error
        except type(error):
            train_loop.exception("Exception during training:")
    assert not train_loop.filters
    return caplog.records[-1]


@pytest.mark.parametrize("error", [UserError("the disk is full"), FloatingPointError("the loss is nan")])
def test_an_error_for_the_user_is_logged_without_a_traceback(caplog, error):
    record = logged(error, caplog)
    assert record.getMessage() == f"The training ends: {error}" and record.exc_info is None


def test_a_lost_peer_is_no_bug_of_this_process(caplog):
    record = logged(RuntimeError("Connection closed by peer [127.0.0.1]"), caplog)
    assert record.getMessage() == "The training ends: another process of it is gone" and record.exc_info is None


def test_other_errors_keep_their_traceback(caplog):
    assert logged(KeyError("bug"), caplog).exc_info[0] is KeyError


def test_what_gloo_says_of_a_dead_peer():
    assert is_lost_peer(RuntimeError("[../pair.cc:534] Connection closed by peer [127.0.0.1]:51123"))
    assert is_lost_peer(RuntimeError("[c10d] recvValue failed on SocketImpl(fd=3)"))
    assert not is_lost_peer(RuntimeError("CUDA out of memory")) and not is_lost_peer(ValueError("closed by peer"))
