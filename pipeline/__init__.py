"""What runs and what touches the world: files, sockets, databases, processes."""
