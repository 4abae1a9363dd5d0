"""Pictures of digits and of other things, drawn for training."""
