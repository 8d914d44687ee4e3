"""What happens around a network in training: loop, data loader, schedule, run directory, failures, teachers."""
