"""Show what a failing assertion of the contract compared, as for assertions in test files."""

import pytest

pytest.register_assert_rewrite("outlast.testing.journal_contract")
