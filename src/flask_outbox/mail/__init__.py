"""Values and rules: no socket, process, thread, database or clock on this floor."""
