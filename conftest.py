"""Names that the docstrings' examples use without importing them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradkern

# They have no examples, and import libraries that take long to load.
collect_ignore = ["gradkern/monitor/huggingface.py", "gradkern/monitor/lightning.py"]


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(gradkern=gradkern, torch=torch, np=np)
