"""Training: optimizer, schedule, one step, the loop, validation, and the run folder."""
