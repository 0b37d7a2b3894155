"""What things cost: time and memory beside an obvious form, parameters and FLOPs."""
