"""Measurements against the released algorithm: `python -m benchmarks`. docs/BACKEND.md says what
bounds each case.
"""
