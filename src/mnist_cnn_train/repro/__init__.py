"""The project's `dvc` command, and the verification of committed results."""
