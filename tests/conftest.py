"""What every test may rely on."""

from __future__ import annotations

from hypothesis import settings

# For `make test-fast`: properties are looked at, not searched.
settings.register_profile("fast", max_examples=20)
