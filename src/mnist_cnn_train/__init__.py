"""The pipeline that trains, evaluates and exports the digit reader."""
