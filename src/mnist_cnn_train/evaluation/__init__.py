"""Metrics, figures and evaluation suites."""
