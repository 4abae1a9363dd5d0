"""Shared code of the stages: settings, paths, and running a stage."""
