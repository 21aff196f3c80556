"""What a worker does with a task, from its arrival to its outcome."""
