"""Waiting for what another process does."""

import time

import pytest


def until(done, patience=60):
    """Polls for the first true value; after `patience` seconds it will not happen."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        value = done()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail("it did not happen")
