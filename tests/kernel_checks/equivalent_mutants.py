"""Mutants that no test can tell from the original, and why.

A mutant is named by its file, what is changed, and its line of code; `mutation.py` complains about
an entry that no mutant has any more, and about one that is caught after all.
"""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
