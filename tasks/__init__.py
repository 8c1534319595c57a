"""Pure numerics, values in and values out: no file, socket, database or clock."""
