"""The scripts are no part of the wheel: they are found beside the tests, and nothing else is."""

import sys
import types
from pathlib import Path

scripts = types.ModuleType("scripts")
scripts.__path__ = [str(Path(__file__).parents[2] / "scripts")]
sys.modules["scripts"] = scripts
