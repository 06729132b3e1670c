"""What the brokers' tests share: the conformance suite is a module of tests, so its asserts are told as theirs."""

import pytest

pytest.register_assert_rewrite("tests.brokers.conformance", "tests.brokers.wire_conformance")
