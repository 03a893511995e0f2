"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A busy machine is no failure: speed belongs in bench/.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Workers of a run on several cores are given a terminal's width, which a verb whose output goes to a file would take.
os.environ.pop("COLUMNS", None)
